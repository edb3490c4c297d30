"""Where a password, and what stands in a mail, may be found afterwards: in what docs/privacy.md lists, nowhere else.

Words that stand in nothing else are planted in a mail and as its account's password; every command is run on it, with
all that is logged; then they are searched for in each output, log level, file and column. The page's tables are read
here, and what is found must be what they say: a leak fails, and so does a line that promises too much.
"""

import base64
import contextlib
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from mailtagger import artifact, dovecot
from mailtagger.cli import app
from mailtagger.dovecot import Dovecot
from mailtagger.journal import FILE, Journal
from mailtagger.places import Places
from mailtagger.score import open_scorer
from tests.imap_server import fault_proxy, needs_dovecot, needs_tools
from tests.running import SOON, WON, Bench, Daemon, account
from tests.scripted_server import CAPABILITIES, HANG_UP, Answer, Scripted
from tests.tiny_model import HAM_TEXT, SPAM_TEXT

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "privacy.md"
CANARIES = {
    "password": "Tuatara-7pass", "token": "Kakapo-9token", "subject": "quokkasaying", "text": "wombatwriting",
    "sender": "numbatsender", "recipient": "possumreader", "folder": "BilbyFolder", "Message-ID": "dingomessage",
}
SECRET = {"password", "token"}
MAIL = CANARIES.keys() - SECRET
FOLDER = CANARIES["folder"]
JUNK = f"{FOLDER} Spam"


def _forms(canary: str) -> Iterator[bytes]:
    """The word as it could stand in a file: in either case, in UTF-16, in base64 whatever stands before it."""
    for word in (canary, canary.lower(), canary.upper()):
        yield word.encode()
        yield word.encode("utf-16-le")
        yield word.encode().hex().encode()
        for before in range(3):
            yield base64.b64encode(b"x" * before + word.encode())[before and 4 : -4]


FORMS = {kind: set(_forms(canary)) for kind, canary in CANARIES.items()}


def found(content: bytes | str) -> set[str]:
    """The kinds of canaries in a piece of content."""
    raw = content.encode("utf-8", "replace") if isinstance(content, str) else content
    raw += raw.lower()
    return {kind for kind, forms in FORMS.items() if any(form in raw for form in forms)}


def told() -> dict[str, set[str]]:
    """Place → kinds, out of the page's tables whose second column is headed `holds`; a line may name several places."""
    places: dict[str, set[str]] = {}
    for table in re.findall(r"^\|[^|\n]+\| holds \|.*\n\|[-| ]+\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE):
        for row in table.splitlines():
            first, kinds = (cell.strip() for cell in row.split("|")[1:3])
            for place in re.findall(r"`([^`]+)`", first):
                places[place] = {kind.strip() for kind in kinds.split(",")} - {"-"}
    return places


def mail(id_: str, text: str) -> bytes:
    return (
        f"Message-ID: <{id_}.{CANARIES['Message-ID']}@test>\r\nFrom: A <{CANARIES['sender']}@example.org>\r\n"
        f"To: {CANARIES['recipient']}@example.org\r\nSubject: prize {CANARIES['subject']}\r\n"
        f"Date: Tue, 24 Nov 2026 10:00:00 +0000\r\n\r\n{text} {CANARIES['text']}\r\n"
    ).encode()


class Place(Bench):
    """A configuration with the planted password, and the commands run on it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.state = directory / "state"
        self.secret = directory / "secret"
        self.secret.write_text(CANARIES["password"] + "\n")
        self.seen = directory / "processes"
        self.command = directory / "tell"  # the password, and what `ps` shows meanwhile
        self.command.write_text(
            f"#!/bin/sh\ntr '\\0' ' ' </proc/$PPID/cmdline >>{self.seen}\ntr '\\0' '\\n' </proc/$PPID/environ"
            f" >>{self.seen}\ntr '\\0' ' ' </proc/$$/cmdline >>{self.seen}\nexec cat {self.secret}\n"
        )
        self.command.chmod(0o700)

    def account(self, server: Any, **settings: Any) -> dict[str, Any]:
        own = {"password_command": [str(self.command)], "folders": [FOLDER], "poll_seconds": 1}
        own |= {"spam_folder": JUNK} if "folders" not in settings else {}
        return account(server, **own | settings)

    def start(self, **environment: str) -> Daemon:
        return super().start(MAILTAGGER_HOME_PASSWORD="", **environment)

    def start_as(self, program: tuple[str, ...]) -> Daemon:
        command = (*program, "--config", str(self.path), "run")
        self.started.append(Daemon(self.path, command, {"MAILTAGGER_HOME_PASSWORD": ""}))
        return self.started[-1]

    def call(
        self, *arguments: str, program: tuple[str, ...] = ("-m", "mailtagger"), status: int | None = 0
    ) -> tuple[str, str]:
        """Output and errors of a command with all that can be logged."""
        done = subprocess.run(
            [sys.executable, *program, "--config", str(self.path), "--log-level", "debug", *arguments], cwd=ROOT,
            capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring", "OMP_NUM_THREADS": "1"},
        )
        assert status in (None, done.returncode), (arguments, done.stdout, done.stderr)
        return done.stdout, done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    here = Place(tmp_path)
    yield here
    for daemon in here.started:
        daemon.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Dovecot]:
    """A Dovecot whose users have the planted password."""
    if reason := dovecot.missing():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dovecot, "PASSWORD", CANARIES["password"])
        with Dovecot() as running:
            yield running


# What is found where, after a life with all commands


class Evidence:
    """Place → kinds that were found there; `ran`: the commands that were run."""

    def __init__(self) -> None:
        self.places: dict[str, set[str]] = defaultdict(set)
        self.ran: set[str] = set()
        self.packed: list[bytes] = []  # the texts that lay in the journal before all was forgotten
        self.left = b""  # and all that is in the state directory afterwards
        self.modes: set[tuple[bool, int]] = set()  # is a directory, permissions

    def output(self, place: Place, *arguments: str, status: int = 0, as_json: bool = True) -> None:
        """What a command prints for a person and for a program, and what it logs."""
        command = " ".join(arguments[: 2 if arguments[0] == "models" else 1])
        command += " --lessons" if "--lessons" in arguments else ""
        self.ran.add(command)
        for more in ((), ("--json",)) if as_json else ((),):
            out, err = place.call(*arguments, *more, status=status)
            self.places[" ".join((command, *more))] |= found(out)
            self.log(err)

    def log(self, text: str) -> None:
        """By level; what follows a record without a level of its own, a traceback, is of the same."""
        level = "errors"
        for line in text.splitlines():
            if record := re.match(r"[\d-]+ [\d:,]+ (DEBUG|INFO|WARNING|ERROR) ", line):
                level = record[1].lower()
            elif line.startswith("{"):
                level = json.loads(line)["level"]
            elif line.startswith("mailtagger: "):
                level = "errors"
            self.places["errors" if level == "errors" else f"log at {level}"] |= found(line)

    def state(self, place: Place) -> None:
        """Each column of the journal, and each other file."""
        for name, cells in columns(place.state / FILE).items():
            self.places[name] |= set().union(*map(found, cells))
        for path in place.state.rglob("*"):
            if path.is_file() and not path.name.startswith(FILE):
                kind = re.sub(r"[0-9a-f]{16}", "*", path.name) if path.parent == place.state else "models"
                self.places[kind] |= found(path.read_bytes())
        self.places[FILE] |= found(b"".join(file.read_bytes() for file in place.state.glob(f"{FILE}*"))) & SECRET


def columns(path: Path) -> dict[str, list[bytes]]:
    """`table.column` → its cells, unpacked where they are packed."""
    cells: dict[str, list[bytes]] = {}
    with contextlib.closing(sqlite3.connect(path)) as db:
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = db.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in rows.description]
            for name, values in zip(names, zip(*rows.fetchall(), strict=True) or [()] * len(names), strict=False):
                cells[f"{table}.{name}"] = [_unpacked(value) for value in values]
    return cells


def _unpacked(value: object) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode()
    with contextlib.suppress(zlib.error):
        return raw + zlib.decompress(raw)
    return raw


def move(server: Dovecot, id_: str, source: str, target: str) -> bool:
    """Whether the message was there for its user to drag it elsewhere."""
    with server.client("alice") as alice:
        alice.select_folder(source)
        uids = alice.search(["HEADER", "Message-ID", id_])
        if uids:
            alice.move(uids, target)
        return bool(uids)


def has(server: Dovecot, id_: str, folder: str) -> bool:
    with server.client("alice") as alice:
        alice.select_folder(folder, readonly=True)
        return bool(alice.search(["HEADER", "Message-ID", id_]))


def last_uid(server: Dovecot) -> int:
    with server.client("alice") as alice:
        alice.select_folder(FOLDER, readonly=True)
        return int(max(alice.search()))


def lived(place: Place, server: Dovecot, form: str, evidence: Evidence) -> None:
    """A daemon that moves spam, is taught better, loses its server, and ends."""
    place.configure(place.account(server), model=None, log={"level": "debug", "format": form})
    daemon = place.start().ready()
    before = daemon.log

    def says(words: str) -> int:
        return daemon.log.count(words) - before.count(words)

    server.deliver("alice", mail(f"{form}1", WON), FOLDER)
    server.deliver("alice", mail(f"{form}2", HAM_TEXT), FOLDER)
    daemon.until(lambda: has(server, f"{form}1", JUNK) and says(" ham by "))
    with place.journal() as journal:  # so that what leaves the spam folder is known to have been there
        daemon.until(lambda: Places(journal).sightings("home", f"{form}1.{CANARIES['Message-ID']}@test"))
    assert move(server, f"{form}1", JUNK, FOLDER) and move(server, f"{form}2", FOLDER, JUNK)
    daemon.until(lambda: says(" learned as spam") and says(" ham by user"), 2 * SOON)
    evidence.places["ps"] |= found(Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes())
    server.kill()
    with place.journal() as journal:
        daemon.until(lambda: FOLDER in [note.folder for note in journal.notes()], 2 * SOON)
    server.start()
    daemon.end()
    evidence.log(daemon.log)
    evidence.state(place)


@pytest.fixture(scope="module")
def evidence(server: Dovecot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """What a life with all commands leaves behind."""
    place = Place(tmp_path_factory.mktemp("canary"))
    try:
        yield gathered(server, place)
    finally:
        for daemon in place.started:
            daemon.close()


def gathered(server: Dovecot, place: Place) -> Evidence:
    """The evidence of two daemons and of every command, in this order."""
    server.empty()
    evidence = Evidence()
    before = os.umask(0o077)  # as the command does
    artifact.install(place.model, place.state, open_scorer)
    os.umask(before)
    with server.client("alice") as alice:
        for folder in (FOLDER, JUNK):
            alice.create_folder(folder)
    for form in ("plain", "json"):
        lived(place, server, form, evidence)
    evidence.places["ps"] |= found(place.seen.read_bytes())
    file = place.directory / "one.eml"
    file.write_bytes(mail("file", SPAM_TEXT))
    server.deliver("alice", mail("sent", HAM_TEXT), "Sent")
    server.deliver("alice", mail("old", HAM_TEXT), FOLDER)
    place.configure(place.account(server), model=None, log={"level": "debug"})
    say = partial(evidence.output, place)
    say("check-config", as_json=False)
    say("scan", "--folder", FOLDER, "--apply")
    say("score", str(file))
    say("learn", "--ham", FOLDER, "--reviewed", "--sent", "Sent", "--spam", str(file))
    say("explain", str(file))
    say("explain", "--folder", FOLDER, "--uid", str(last_uid(server)))
    say("history")
    say("history", "--lessons")
    say("status")
    say("undo", "--dry-run")
    say("undo")
    say("models", "list")
    say("models", "verify")
    say("retrain", "--dry-run")
    if util.find_spec("torch"):
        say("retrain", "--if-changed")
    say("models", "rollback", as_json=False)
    say("scan", "--folder", "Nowhere", status=1)
    say("forget", "--all", status=2)  # nobody can be asked
    evidence.state(place)
    evidence.packed = packed(place.state / FILE)
    assert evidence.packed
    place.call("forget", "--all", "--yes")
    evidence.left = b"".join(path.read_bytes() for path in place.state.rglob("*") if path.is_file())
    evidence.modes = {
        (stat.S_ISDIR(status.st_mode), stat.S_IMODE(status.st_mode))
        for status in (path.lstat() for path in (place.state, *place.state.rglob("*")) if not path.is_symlink())
    }
    return evidence


def packed(path: Path) -> list[bytes]:
    """The texts of the lessons as they lie in the file."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute("SELECT cleaned FROM lessons WHERE cleaned IS NOT NULL")]


@pytest.mark.slow
def test_what_is_found_is_what_the_page_lists(evidence: Evidence) -> None:
    """Each place holds the kinds that the page gives it, no more and no fewer, and no place is left out."""
    page = told()
    seen: dict[str, set[str]] = {place: set() for place in page if place in ("run", "errors", "log at error")}
    for place, kinds in evidence.places.items():
        table = place.partition(".")[0]
        name = place if place in page or table not in page else table
        if name in page or kinds:
            seen[name] = seen.get(name, set()) | kinds
    without_training = {"retrain.lock", "retrain", "retrain --json"} if not util.find_spec("torch") else set()
    assert {place: kinds for place, kinds in page.items() if place not in without_training} == seen


@pytest.mark.slow
def test_every_command_was_run(evidence: Evidence) -> None:
    """A new command has to be tried here, and to be on the page."""
    assert {name.split()[0] for name in evidence.ran} | {"run", "demo"} == set(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_what_is_forgotten_is_gone_from_the_disk(evidence: Evidence) -> None:
    """After `forget --all` no file has a text, a sender or a recipient, packed or not."""
    assert found(evidence.left) == {"folder", "Message-ID"}
    assert not [text for text in evidence.packed if text[2:18] in evidence.left]


@pytest.mark.slow
def test_state_is_for_its_user_alone(evidence: Evidence) -> None:
    """Directories 0700 and files 0600, models and locks as well, under the usual umask."""
    assert evidence.modes == {(True, 0o700), (False, 0o600)}


# When something goes wrong

GARBLED = "* 1 FETCH (UID 1 RFC822.SIZE 900 FLAGS () BODY[] {{12}}\n{text})\n{{tag}} OK done"
BUG = """
from mailtagger import cli, imap
def broken(*given, **more):
    try:
        raise KeyError(WORDS)
    except KeyError as error:
        raise AssertionError(WORDS) from error
imap.Mailbox.fetch = broken
cli.main()
"""


@needs_dovecot
@pytest.mark.parametrize("form", ["plain", "json"])
@pytest.mark.parametrize("command", ["run", "scan", "learn", "explain"])
def test_a_bug_is_told_without_its_words(place: Place, server: Dovecot, command: str, form: str) -> None:
    """An exception that quotes a mail and a password, raised from another: the log has lines of code and kinds."""
    server.empty()
    server.deliver("alice", mail("1", WON), "Archive")
    place.configure(place.account(server, folders=["INBOX"]), log={"level": "debug", "format": form})
    words = " ".join(CANARIES.values())
    program = ("-c", BUG.replace("WORDS", repr(words)))
    if command == "run":
        daemon = place.start_as(program).ready()
        server.deliver("alice", mail("2", WON))
        daemon.until(lambda: "this is a bug" in daemon.log)
        said = daemon.log
    else:
        ways = {"scan": "--folder Archive", "learn": "--ham Archive", "explain": "--folder Archive --uid 1"}
        said = "".join(place.call(command, *ways[command].split(), program=program, status=1))
        assert "this is a bug" in said
    assert said.count("AssertionError") == said.count("KeyError") > 0
    assert found(said) <= {"folder"}


@pytest.mark.parametrize("kind", ["password", "token"])
@pytest.mark.parametrize("answer", [
    "{{tag}} NO [AUTHENTICATIONFAILED] {0} is wrong",
    "{{tag}} BAD what is {0}?",
    "* BYE go away, {0}" + HANG_UP,
    "* OK [ALERT] {0} was tried\n{{tag}} NO no",
    "* OK [ALERT] {0} will expire\n{{tag}} OK done",
    "{0} {0}\n{{tag}} NO no",
], ids=["no", "bad", "bye", "alert-no", "alert-ok", "garbled"])
def test_a_server_that_repeats_the_secret(place: Place, kind: str, answer: str) -> None:
    """Whatever a server says at the login, the secret it was given stands in no output, log or state."""
    said = answer.format(CANARIES[kind])
    rules: dict[str, Answer] = {"^LOGIN": said, "^AUTHENTICATE": "+ ", "^[A-Za-z0-9+/=]{40,}$": said}
    with Scripted(rules, capabilities=f"{CAPABILITIES} AUTH=XOAUTH2") as server:
        place.secret.write_text(CANARIES[kind])
        own = place.account(server)
        own[f"{kind}_command"] = own.pop("password_command")
        place.configure(own, log={"level": "debug"})
        daemon = place.start()
        daemon.until(lambda: FORMS[kind] & forms_in(server.heard) and daemon.log.count("\n") > 1)
        daemon.end()
        out, err = place.call("scan", "--folder", "INBOX", status=None)
    everything = (out + err + daemon.log).encode() + state_of(place)
    assert not found(everything) & SECRET, everything.decode(errors="replace")


def forms_in(lines: list[str]) -> set[bytes]:
    heard = "\n".join(lines).encode()
    return {form for forms in FORMS.values() for form in forms if form in heard}


def state_of(place: Place) -> bytes:
    return b"".join(path.read_bytes() for path in place.state.rglob("*") if path.is_file())


def test_an_answer_that_is_none_is_not_quoted(place: Place) -> None:
    """A literal that is longer than its number goes on as lines of the protocol, and those are of a mail."""
    text = mail("1", WON).decode().replace("\r\n", "\n").replace("{", "").replace("}", "")
    with Scripted({"^UID FETCH": GARBLED.format(text=text), "^UID SEARCH": "* SEARCH 1\n{tag} OK done"}) as server:
        place.configure(place.account(server, folders=["INBOX"]), log={"level": "debug"})
        out, err = place.call("scan", "--folder", "INBOX", status=75)
        assert "makes no sense" in err
        assert not found(out + err)


@needs_dovecot
@needs_tools
def test_a_mail_cut_in_the_middle_is_not_quoted(place: Place, server: Dovecot) -> None:
    """The connection breaks within a body, and within the login."""
    server.empty()
    server.deliver("alice", mail("1", f"{WON} {CANARIES['text']} " * 40))
    for rule in (("reply", "cutmid", "UID FETCH"), ("client", "cut", "LOGIN")):
        with fault_proxy(server, rule) as proxy:
            place.configure(place.account(proxy, folders=["INBOX"]))
            out, err = place.call("scan", "--folder", "INBOX", status=75)
            assert err and not found(out + err)


@needs_dovecot
def test_a_refused_password_and_a_broken_model(place: Place, server: Dovecot) -> None:
    """Commands that fail say why, in words of their own."""
    place.configure(place.account(server, folders=["INBOX"]))
    place.secret.write_text(CANARIES["token"])  # the wrong one
    out, err = place.call("scan", "--folder", "INBOX", status=1)
    assert "refuses the password" in err and not found(out + err)
    (place.model / artifact.GRAPH).write_bytes(mail("1", WON))
    for command in (["scan", "--folder", "INBOX"], ["score", "-"], ["models", "verify", str(place.model)]):
        out, err = place.call(*command, status=1)
        assert "cannot be used" in out + err and not found(out + err)


def test_a_secret_in_the_configuration_is_not_quoted(place: Place) -> None:
    """Where it does not belong, under a wrong key, or as broken YAML."""
    secret = CANARIES["password"]
    wrong = {"check-config": f"password: {secret}", "run": f"port: {secret}", "status": f"{secret}: ["}
    for command, line in wrong.items():
        place.path.write_text(f"accounts:\n  - name: home\n    host: localhost\n    username: a\n    {line}\n")
        out, err = place.call(command, status=78)
        assert f"{place.path}:" in err
        assert not found(out + err)


@needs_dovecot
def test_no_text_is_kept_where_none_is_to_be_kept(place: Place, server: Dovecot) -> None:
    """`keep_text: 0` holds from the first lesson on, and what was kept before goes when the daemon starts."""
    server.empty()
    file = place.directory / "one.eml"
    file.write_bytes(mail("file", SPAM_TEXT))
    for keep, kept in ((400, 1), (0, 0)):
        place.configure(place.account(server, folders=["INBOX"]), keep_text=keep)
        file.write_bytes(mail(f"file{keep}", SPAM_TEXT))
        place.call("learn", "--spam", str(file))
        assert len(packed(place.state / FILE)) == kept
    place.configure(place.account(server, folders=["INBOX"]))
    file.write_bytes(mail("file", SPAM_TEXT))
    place.call("learn", "--spam", str(file))
    assert len(texts := packed(place.state / FILE)) == 1
    place.configure(place.account(server, folders=["INBOX"]), keep_text=0)
    daemon = place.start().ready()
    daemon.until(lambda: not packed(place.state / FILE))
    daemon.end()
    assert texts[0][2:18] not in state_of(place)


def test_the_page_knows_every_table(tmp_path: Path) -> None:
    """A table that is added to the journal has to be explained."""
    with Journal(tmp_path / FILE):
        pass
    tables = {name.partition(".")[0] for name in columns(tmp_path / FILE)} - {"sqlite_sequence"}
    assert tables == {place.partition(".")[0] for place in told() if place.partition(".")[0] in tables}
