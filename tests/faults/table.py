"""The 82 faults by number, and the table of them that docs/faults.md holds: fault, test, servers, outcome."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

FAULTS = dict(enumerate((
    # The connection
    "server killed in the middle of a FETCH", "connection cut inside a literal", "UID MOVE never reached the server",
    "UID MOVE done, its answer lost (FIN)", "the same with a reset (RST)", "COPYUID seen, the tagged OK lost",
    "UID MOVE hangs for ever", "no MOVE: cut between COPY and STORE", "no MOVE: cut between STORE and EXPUNGE",
    "neither MOVE nor UIDPLUS", "BYE to a client that idles", "IDLE that never notifies", "no IDLE",
    "half-open connection (laptop's sleep, NAT)", "slow server", "server refuses connections",
    "limit of connections per user", "cut during the login, or BYE as greeting", "cut at every SELECT",
    # Login and TLS
    "wrong password", "NO [UNAVAILABLE] at the login", "access token expired", "certificate expired",
    "certificate of another name, self-signed, of an unknown authority", "STARTTLS stripped on the way",
    "other capabilities after the login",
    # Folders and UIDs
    "UIDVALIDITY changes while connected", "UIDVALIDITY changes while mailtagger is down",
    "watched folder renamed while selected", "folder deleted while selected", "no Junk folder",
    "namespace with prefix `INBOX.` and `.`", "special-use in lower case, or none", "two folders with \\Junk",
    "folder names beyond ASCII, with `&`, `\"`, `\\`", "read-only folder", "no right to insert or to delete",
    "Junk over quota", "keywords not permitted", "limit of keywords reached", "too long UID sets, huge first start",
    "UIDs near 2³², UIDNEXT missing", "`n:*` answers with an old message", "no CONDSTORE, no HIGHESTMODSEQ",
    "UIDs that change at every SELECT", "labels as folders: one mail in two folders",
    # Other clients
    "expunged between SEARCH and FETCH", "two clients move the same message", "two daemons on one account",
    "the user moves while the daemon classifies", "out of Junk, and back, and out again",
    "another filter sets $Junk or $NotJunk", "3,000 messages dragged to Junk at once",
    "the same message delivered twice", "no Message-ID, or a forged one", "\\Deleted, \\Draft and \\Seen",
    # Messages
    "message over 50 MB", "NUL bytes, 8-bit headers", "no headers, headers only, zero bytes",
    "nested 1,000 deep, 10,000 parts, open boundary", "broken charsets, base64, encoded words, surrogates",
    "a line of 20 MB, CR only, LF only", "zip and HTML bombs, a million tokens, quadratic patterns",
    "line ends and terminal escapes in the subject", "classifier fails on one message",
    "literal where a string is usual", "unsolicited responses inside a reply", "* OK [ALERT]",
    # This machine
    "SIGTERM in the middle of a batch", "kill -9 in the middle of a batch", "power loss: the log cut at any byte",
    "disk full", "state directory read-only, another's, missing, removed", "model corrupt, older, newer, half-written",
    "journal locked by another process", "clock jumps, another time zone", "suspended for hours",
    "DNS fails, or names a dead IPv6 first", "out of file descriptors, out of memory",
    "broken configuration at SIGHUP, account removed", "log destination fails", "secrets",
), start=1))
HEAD = """# Faults

Each fault is made against a running `mailtagger run`, before a real server, and in the end the whole account is
compared with what was delivered: each message in exactly one place, its bytes and `\\Seen` unchanged, nothing moved or
learned twice (`House.check` in tests/faults/house.py). `make test-faults` makes all of them and writes this table;
those marked ● are part of `make test`. What must follow is the first sentence of each test.

| # | fault | test | servers | what must follow | outcome |
|---|---|---|---|---|---|
"""


@dataclass
class Row:
    """What became of one test: its servers, and whether it passed on each."""

    outcome: str = ""
    quick: bool = False
    servers: list[str] = field(default_factory=list)
    results: set[str] = field(default_factory=set)


def markdown(reports: Iterable[tuple[int, str, str, bool, str, str]]) -> str:
    """The page, from (fault, test, first sentence, quick, server, result) of every test that ran."""
    rows: dict[tuple[int, str], Row] = defaultdict(Row)
    for number, test, sentence, quick, server, result in sorted(reports):
        row = rows[number, test]
        row.outcome, row.quick = sentence, quick
        row.results.add(result)
        if server not in row.servers:
            row.servers.append(server)
    lines = [
        f"| {number} | {FAULTS[number]} | {'● ' if row.quick else ''}`{test}` | {', '.join(row.servers) or '-'} "
        f"| {_cell(row.outcome)} | {_cell(', '.join(sorted(row.results)))} |"
        for (number, test), row in sorted(rows.items())
    ]
    return HEAD + "\n".join(lines) + "\n"


def write(path: Path, reports: Iterable[tuple[int, str, str, bool, str, str]]) -> None:
    """The page in its place."""
    path.write_text(markdown(reports), encoding="utf-8")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
