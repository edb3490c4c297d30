"""A server, a proxy that makes faults in front of it, a daemon behind that, and the account of what was delivered.

Whatever a test does to them, in the end each message is in exactly one place, with the bytes it came with and unread,
and nothing was acted on or learned twice: `House.check`, which every test that has one ends with.
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from imapclient import IMAPClient

from mailtagger.journal import FILE, Journal
from tests.imap_server import Tool, fault_proxy
from tests.running import Bench, Daemon, account, ham, spam

MARKS = {"MailtaggerSpam", "MailtaggerUnsure", "$Junk"}


class Cyrus(Tool):
    """A Cyrus with alice's folders made; `empty` is for the next test."""

    def __init__(self, *options: str) -> None:
        super().__init__("cyrus-up", *options)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for directory in (self.env["CYRUS_STATE"], self._directory):
            shutil.rmtree(directory)

    def stop(self) -> None:
        """An orderly end; the mail stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """A crash: everything gone at once, with no word to the clients."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        group = int(self.env["CYRUS_PID"])  # the tool starts it as the leader of a session of its own
        os.killpg(group, number)
        patience = time.monotonic() + 10
        with contextlib.suppress(OSError):
            while time.monotonic() < patience:
                socket.create_connection((self.host, self.port), 1).close()
                time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)

    def empty(self) -> None:
        with self.client("alice") as alice:
            folders = [name for _, _, name in alice.list_folders()]
            for name in sorted(folders, key=len, reverse=True):
                alice.select_folder(name)
                if alice.search():
                    alice.delete_messages(alice.search(), silent=True)
                    alice.expunge()
                alice.unselect_folder()
                if name not in ("INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"):
                    alice.delete_folder(name)
            for name in {"Archive", "Drafts", "Junk", "Sent", "Trash"} - set(folders):
                alice.create_folder(name)


class Tap:
    """The commands that came through a proxy; it stands among its rules, and makes no fault itself.

    `follow` is called as soon as a command that matches has come, and before the server hears of it.
    """

    where = "client"

    def __init__(self, pattern: str = "", follow: Callable[[], object] = lambda: None) -> None:
        self.heard: list[tuple[str, str, float]] = []  # (tag of the connection, command, monotonic seconds)
        self._pattern, self._follow = pattern, follow

    def hit(self, line: bytes) -> bool:
        """Never: what was said goes on unchanged."""
        tag, _, command = line.decode(errors="replace").strip().partition(" ")
        self.heard.append((tag.rstrip("0123456789"), command, time.monotonic()))
        if self._pattern and re.search(self._pattern, command):
            self._follow()
        return False

    def commands(self, pattern: str) -> list[str]:
        """The commands that match, as they came."""
        return [command for _, command, _ in self.heard if re.search(pattern, command)]


class House:
    """One account of alice's on one server, by way of a proxy, and all that was delivered to her."""

    def __init__(self, server: Any, bench: Bench) -> None:
        self.server, self.bench = server, bench
        self.delivered: dict[str, bytes] = {}  # Message-ID → as the server gave it back right after delivery
        self.seen: set[str] = set()  # what the user has read
        self.gone: set[str] = set()  # what the user has deleted
        self.twins: set[str] = set()  # Message-IDs that were delivered more than once, whole, with @test
        self._open = contextlib.ExitStack()
        self._numbers = itertools.count(1)

    # The cast

    def proxy(self, *rules: tuple[str, ...], tap: Tap | None = None, **options: Any) -> Any:
        """A proxy in front of the server; it closes with the test."""
        proxy = self._open.enter_context(fault_proxy(self.server, *rules, **options))
        if tap:
            proxy.rules.insert(0, tap)  # before a rule that refuses the command
            proxy.strip |= {b"STARTTLS", b"COMPRESS=DEFLATE"}  # past them nothing could be heard
        return proxy

    def configure(self, by: Any = None, *others: dict[str, Any], **settings: Any) -> Path:
        """alice's account in the configuration, reached by way of `by` (a proxy, or the server itself)."""
        own = {"connect_timeout": 5, "read_timeout": 5, "poll_seconds": 1} | settings
        top = {key: own.pop(key) for key in ("log", "keywords", "model") if key in own}
        return self.bench.configure(account(by or self.server, **own), *others, **top)

    def start(self, **environment: str) -> Daemon:
        """The daemon, ready."""
        return self.bench.start(**environment).ready()

    def user(self) -> IMAPClient:
        """The user's own mail program, past the proxy; it closes with the test."""
        return self._open.enter_context(self.server.client("alice"))

    # Mail

    def spam(self) -> bytes:
        return spam(f"{next(self._numbers)}")

    def ham(self) -> bytes:
        return ham(f"{next(self._numbers)}")

    def deliver(self, *contents: bytes, folder: str = "INBOX") -> list[str]:
        """The messages stored; their ids."""
        ids = []
        for content in contents:
            self.server.deliver("alice", content, folder)
            ids.append(id_of(content))
        with self.server.client("alice") as client:
            client.select_folder(folder, readonly=True)
            for uid, data in client.fetch(client.search(), ["BODY.PEEK[]"]).items():
                del uid
                if (id_ := id_of(data[b"BODY[]"])) in ids:
                    self.delivered[id_] = data[b"BODY[]"]
        assert set(ids) <= self.delivered.keys(), "it was not delivered, or moved on before we looked"
        return ids

    def expects(self, *contents: bytes) -> None:
        """What a test delivers by another way, while the daemon looks on."""
        for content in contents:
            self.delivered.setdefault(id_of(content), content)

    def drop(self, *contents: bytes, folder: str = "INBOX") -> list[str]:
        """The messages stored while a daemon watches, which may move them before anyone else has looked."""
        self.expects(*contents)
        for content in contents:
            self.server.deliver("alice", content, folder)
        return [id_of(content) for content in contents]

    def everything(self, only: str = "") -> Iterator[tuple[str, str, bytes, set[str]]]:
        """(folder, id, bytes, flags) of all that is in the account, or in one folder of it."""
        with self.server.client("alice") as client:
            for flags, _, name in client.list_folders():
                if (only and name != only) or b"\\noselect" in {flag.lower() for flag in flags}:
                    continue
                client.select_folder(name, readonly=True)
                uids = client.search()
                for start in range(0, len(uids), 1000):  # Dovecot takes no longer list
                    for data in client.fetch(uids[start : start + 1000], ["BODY.PEEK[]", "FLAGS"]).values():
                        if data[b"BODY[]"] is None:  # moved away since the search
                            continue
                        kept = {flag.decode() for flag in data[b"FLAGS"]} - {"\\Recent"}
                        yield name, id_of(data[b"BODY[]"]), data[b"BODY[]"], kept

    def where(self) -> dict[str, str]:
        """id → folder, once nothing moves any more; a message that is in two places fails."""
        places = [(id_, folder) for folder, id_, _, _ in self.everything()]
        doubled = [id_ for id_, count in Counter(id_ for id_, _ in places).items()
                   if count > 1 and f"{id_}@test" not in self.twins]
        assert not doubled, f"doubled: {[place for place in places if place[0] in doubled]}"
        return dict(places)

    def inside(self, folder: str) -> set[str]:
        """The ids in one folder at one moment, even while the daemon is at work."""
        ids = [id_ for _, id_, _, _ in self.everything(folder)]
        assert len(ids) == len(set(ids)), f"doubled in {folder}: {ids}"
        return set(ids)

    # The account

    @contextlib.contextmanager
    def journal(self) -> Iterator[Journal]:
        with Journal(self.bench.directory / "state" / FILE) as opened:
            yield opened

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the journal holds, asked directly."""
        with contextlib.closing(sqlite3.connect(self.bench.directory / "state" / FILE)) as journal:
            return journal.execute(sql, values).fetchall()

    def settled(self) -> bool:
        """Whether nothing that was begun waits for its end."""
        with self.journal() as journal:
            return not journal.open_intents_of("home")

    def moved(self, number: int = 1) -> bool:
        """Whether so many moves are done."""
        return self.rows("SELECT count(*) FROM intents WHERE act = 'move' AND state = 'done'") == [(number,)]

    def lessons(self) -> list[tuple[str, str]]:
        """(label, source) of all that was learned."""
        return self.rows("SELECT label, source FROM lessons ORDER BY id")

    def check_moved(self, daemon: Daemon, one: str) -> None:
        """The one spam: in Junk by one intent, which knows its UID there; seen there by the follower, and no lesson."""
        daemon.until(self.moved)
        daemon.until(lambda: self.rows("SELECT 1 FROM sightings WHERE folder = 'Junk'"))
        assert self.inside("Junk") == {one}
        assert one not in self.inside("INBOX")
        user = self.user()
        user.select_folder("Junk", readonly=True)
        assert self.rows("SELECT state, new_uid FROM intents WHERE act = 'move'") == [("done", user.search()[0])]
        assert self.settled()
        assert self.lessons() == []

    def check(self) -> None:
        """Each message in exactly one place, its bytes and \\Seen unchanged, no act done twice, no lesson twice."""
        found = {id_: (content, flags) for _, id_, content, flags in self.everything()}
        self.where()
        assert found.keys() == self.delivered.keys() - self.gone
        for id_, (content, flags) in found.items():
            assert same(content, self.delivered[id_]), f"{id_} has changed"
            assert ("\\Seen" in flags) == (id_ in self.seen), f"{id_}: {flags}"
        if not (self.bench.directory / "state" / FILE).exists():
            return
        assert self.rows("PRAGMA integrity_check") == [("ok",)]
        moves = self.rows(
            "SELECT message_id, count(*) FROM intents WHERE act = 'move' AND state = 'done' GROUP BY ident, message_id"
        )
        twice = [move for move in moves if move[1] > 1 and move[0] not in self.twins]
        assert not twice, f"moved twice: {twice}"

    def close(self) -> None:
        self._open.close()


def id_of(raw: bytes) -> str:
    """The id by which a test knows a message, without its host: of a line X-Test, else of its Message-ID."""
    found = re.search(rb"(?i)(?:^|[\r\n])X-Test: <([^@>]*)@test>", raw) or re.search(
        rb"(?mi)^Message-ID: <([^@>]*)@test>", raw
    )
    assert found, raw[:200]
    return found[1].decode()


def same(one: bytes, other: bytes) -> bool:
    """Whether two copies are the same bytes, but for the line ends and the trace headers that a delivery adds."""
    return _plain(one) == _plain(other)


def _plain(raw: bytes) -> bytes:
    return raw.replace(b"\r\n", b"\n").rstrip(b"\n")


