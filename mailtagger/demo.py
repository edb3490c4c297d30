"""The demo: a real IMAP server on loopback, sample mail, `mailtagger run` and `scan` at work on it, and a table.

The daemon and the scans are child processes with a configuration file of their own, as a user would start them. What
the table says is read from the server, not from mailtagger. A sample's file name says what a person expects of it.
"""

import imaplib
import os
import secrets
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import cast

from mailtagger import demo_server, dovecot, journal
from mailtagger.errors import MailtaggerError
from mailtagger.parse import parse
from mailtagger.report import Column, Report

READY = 30.0  # seconds for the daemon to say that it watches
DONE = 30.0  # seconds for the last message to be dealt with
USERS = ("alice", "bob")
FOLDERS = ("INBOX", "Junk", "Archive")
PACE = 0.15  # seconds between two deliveries

CONFIG = """\
# Written by `mailtagger demo`: two accounts on one server. `live` is watched while mail arrives, `old` is scanned.
state_dir: {directory}/state
{model}accounts:
  - {{name: live, username: alice, folders: [INBOX], mode: apply, {server}}}
  - {{name: old, username: bob, folders: [INBOX], mode: apply, {server}}}
"""

# (expected, found) → what to call it
DIFFERENCE: dict[tuple[str, ...], str] = {
    ("ham", "spam"): "false positive",
    ("ham", "unsure"): "not sure",
    ("spam", "unsure"): "not sure",
    ("spam", "ham"): "missed",
}


@dataclass(frozen=True)
class Server:
    """An IMAP server on this machine that has the users alice and bob."""

    what: str
    port: int
    ca_file: Path | None = None  # where there is one, `port` speaks TLS


@dataclass(frozen=True)
class Sample:
    """One message of demo_mail/."""

    name: str
    raw: bytes
    message_id: str
    subject: str

    @property
    def expected(self) -> str:
        """ham, spam or unsure: what a person would say."""
        return self.name.partition("-")[0]


@dataclass(frozen=True)
class Found:
    """A message as it lies on the server at the end."""

    folder: str
    flags: frozenset[str]
    raw: bytes

    @property
    def verdict(self) -> str:
        """What mailtagger's keywords say of it; ham has none."""
        marks = {"mailtaggerspam": "spam", "mailtaggerunsure": "unsure"}
        return next((verdict for mark, verdict in marks.items() if mark in self.flags), "ham")

    @property
    def seen(self) -> bool:
        """Whether it counts as read."""
        return "\\seen" in self.flags


def show(keep: bool = False, kind: str | None = None, model: Path | None = None) -> int:
    """Runs the demo on the terminal; the exit status."""
    mails = samples()
    with tempfile.TemporaryDirectory(prefix="mailtagger-demo-") as name, serving(kind) as server:
        directory = Path(name)
        config = configure(directory, server, model)
        mailtagger = [sys.executable, "-m", "mailtagger", "--config", str(config)]
        print(f"The IMAP server is {server.what}, on 127.0.0.1 port {server.port}, for this demo only.\n")
        with watching(mailtagger, directory) as daemon:
            print(f"`mailtagger run` watches alice's INBOX. {len(mails)} messages arrive there:\n")
            deliver_and_tell(server, mails, directory, daemon)
        faults = int(daemon.returncode != 0)
        print(f"\n`mailtagger run` was told to stop and did, with exit status {daemon.returncode}.")

        print("\nThe same messages are old mail in bob's Archive.")
        with connected(server, "bob") as client:
            for mail in mails:
                append(client, "Archive", mail.raw)
        scan = ["scan", "--account", "old", "--folder", "Archive"]
        for options, said in (["--all"], "a dry run"), (["--apply", "--yes"], "and now for real"):
            print(f"\n`mailtagger {' '.join(scan + options)}`, {said}:\n", flush=True)
            faults += subprocess.run([*mailtagger, *scan, *options], env=environment(), check=False).returncode != 0

        faults += tabulate(mails, landed(server, "alice"), landed(server, "bob"))
        if keep:
            wait(server, config)
    return 1 if faults else 0


@contextmanager
def serving(kind: str | None) -> Iterator[Server]:
    """Dovecot where it is installed and starts, else pymap; gone afterwards."""
    why_not = "as asked" if kind == "pymap" else dovecot.missing()
    with ExitStack() as stack:
        if not why_not:
            try:
                started = stack.enter_context(dovecot.Dovecot())
            except RuntimeError as error:
                why_not = str(error)
            else:
                yield Server(f"Dovecot {started.version}", started.imaps_port, started.ca_file)
                return
    if kind == "dovecot":
        raise MailtaggerError(f"{why_not}.")
    command = [sys.executable, "-m", "mailtagger.demo_server", *USERS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        said = process.stdout.readline()
        if not said.startswith(b"PORT="):
            raise MailtaggerError("The demo's IMAP server did not start.", "pip install 'mailtagger[demo]' brings it.")
        yield Server(f"pymap, embedded ({why_not})", int(said.removeprefix(b"PORT=")))


def samples() -> list[Sample]:
    """The sample messages with the line ends of mail, good and bad mixed."""
    found = []
    for file in resources.files("mailtagger").joinpath("demo_mail").iterdir():
        raw = file.read_bytes().replace(b"\n", b"\r\n")
        mail = parse(raw)
        found.append(Sample(file.name.removesuffix(".eml"), raw, mail.message_id, mail.subject))
    return sorted(found, key=lambda sample: sample.name.partition("-")[2])


def configure(directory: Path, server: Server, model: Path | None) -> Path:
    """The configuration file, written."""
    tls = f"tls: implicit, ca_file: {server.ca_file}" if server.ca_file else "tls: none"
    config = directory / "config.yaml"
    config.write_text(
        CONFIG.format(
            directory=directory,
            model=f"model: {model.absolute()}\n" if model else "",
            server=f"host: 127.0.0.1, port: {server.port}, {tls}",
        )
    )
    return config


def environment(**more: str) -> dict[str, str]:
    """The environment of a child: the passwords, and no keyring that could ask for its own."""
    passwords = {f"MAILTAGGER_{name}_PASSWORD": demo_server.PASSWORD for name in ("LIVE", "OLD")}
    without = {name: value for name, value in os.environ.items() if name != "CREDENTIALS_DIRECTORY"}
    return without | passwords | {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"} | more


@contextmanager
def watching(mailtagger: Sequence[str], directory: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`mailtagger run` as a service manager starts it: ready when it says so (sd_notify), ended by SIGTERM."""
    log = directory / "run.log"
    name = f"mailtagger-demo-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, log.open("wb") as stderr:
        notified.bind(f"\0{name}")
        notified.settimeout(0.1)
        daemon = subprocess.Popen(
            [*mailtagger, "run"], env=environment(NOTIFY_SOCKET=f"@{name}"), stderr=stderr, start_new_session=True
        )
        try:
            wait_until(lambda: ready(notified), daemon, log, READY)
            yield daemon
        finally:
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def ready(notified: socket.socket) -> bool:
    """Whether the daemon has said READY=1."""
    try:
        return b"READY=1" in notified.recv(4096).splitlines()
    except TimeoutError:
        return False


def wait_until(condition: Callable[[], bool], daemon: "subprocess.Popen[bytes]", log: Path, seconds: float) -> None:
    """Returns when the condition holds; MailtaggerError with the daemon's last words when it ended or took too long."""
    until = time.monotonic() + seconds
    while not condition():
        time.sleep(0.02)
        ended = daemon.poll()
        if ended is not None or time.monotonic() > until:
            problem = "took too long" if ended is None else f"ended with exit status {ended}"
            said = log.read_text()[-2000:].strip() or "nothing"
            raise MailtaggerError(f"`mailtagger run` {problem}.", f"It said: {said}")


@contextmanager
def connected(server: Server, user: str) -> Iterator[imaplib.IMAP4]:
    """The user's own mail program, so to speak: what delivers and looks."""
    if server.ca_file:
        context = ssl.create_default_context(cafile=str(server.ca_file))
        client: imaplib.IMAP4 = imaplib.IMAP4_SSL("127.0.0.1", server.port, ssl_context=context, timeout=20)
    else:
        client = imaplib.IMAP4("127.0.0.1", server.port, timeout=20)
    with client:
        client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each APPEND waits 40 ms for an ACK
        client.login(user, demo_server.PASSWORD)
        yield client


def append(client: imaplib.IMAP4, folder: str, raw: bytes) -> None:
    """Delivers a message as it is."""
    kind, said = client.append(folder, "", "", raw)
    if kind != "OK":
        raise MailtaggerError(f"The demo's server refused a message: {said!r}.")


def deliver_and_tell(server: Server, mails: list[Sample], directory: Path, daemon: "subprocess.Popen[bytes]") -> None:
    """Delivers one message after another, and prints what the journal says of each as soon as it is dealt with."""
    columns = (
        Column("folder", "folder", 6), Column("score", "score", 6), Column("verdict", "verdict", 7),
        Column("action", "action", 7), Column("after", "after", 7), Column("subject", "subject", 0),
    )
    waiting: dict[str, Sample] = {}
    sent: dict[str, float] = {}
    log, path = directory / "run.log", directory / "state" / journal.FILE
    with Report(columns, as_json=False) as report, connected(server, "alice") as client, journal.Journal(path) as kept:

        def tell() -> bool:
            for event in reversed(kept.history(len(mails), "live")):
                judged, intent = event.judged, event.intent
                marked = intent.closed_at if intent else judged.at if judged.verdict == "ham" else None
                if marked and judged.message_id in waiting:
                    report.row({
                        "folder": judged.folder,
                        "score": judged.score,
                        "verdict": judged.verdict,
                        "action": {"none": "-", "keyword": "marked", "move": "moved"}[intent.act if intent else "none"],
                        "after": f"{marked.timestamp() - sent[judged.message_id]:.2f} s",
                        "subject": waiting.pop(judged.message_id).subject or "(no subject)",
                    })
            return not waiting

        for mail in mails:
            waiting[mail.message_id] = mail
            sent[mail.message_id] = time.time()
            append(client, "INBOX", mail.raw)
            wait_until(partial(pause_over, time.monotonic() + PACE, tell), daemon, log, DONE)
        wait_until(tell, daemon, log, DONE)


def pause_over(end: float, meanwhile: Callable[[], object]) -> bool:
    """Whether it is time for the next delivery."""
    meanwhile()
    return time.monotonic() > end


def landed(server: Server, user: str) -> dict[str, list[Found]]:
    """Every message of the user by its Message-ID, wherever it lies now, as the server shows it."""
    found: dict[str, list[Found]] = {}
    with connected(server, user) as client:
        for folder in FOLDERS:
            _, (count,) = client.select(folder, readonly=True)
            for number in range(1, int(count or b"0") + 1):
                _, said = client.fetch(str(number), "(FLAGS)")
                flags = frozenset(flag.decode().lower() for flag in imaplib.ParseFlags(cast(bytes, said[0])))
                _, said = client.fetch(str(number), "(BODY.PEEK[])")
                raw = next(part[1] for part in said if isinstance(part, tuple))
                found.setdefault(parse(raw).message_id, []).append(Found(folder, flags, raw))
    return found


def tabulate(mails: list[Sample], alice: dict[str, list[Found]], bob: dict[str, list[Found]]) -> int:
    """Prints what landed where, what a person would have said, and returns how many messages were harmed."""
    print("\nWhat the server has now:\n")
    columns = (
        Column("name", "sample", 18), Column("expected", "a person", 8), Column("run", "run", 14),
        Column("scan", "scan", 16), Column("remark", "", 0),
    )
    differ: dict[str, list[str]] = {}
    faults = 0
    with Report(columns, as_json=False) as report:
        for mail in mails:
            ends = [user.get(mail.message_id, []) for user in (alice, bob)]
            verdicts = {end.verdict for user in ends for end in user}
            unharmed = all([(end.raw, end.seen) for end in user] == [(mail.raw, False)] for user in ends)
            faults += not unharmed
            remark = "" if unharmed else "HARMED: lost, doubled, changed, or marked as read"
            if verdicts != {mail.expected}:
                difference = DIFFERENCE.get((mail.expected, *sorted(verdicts)), "differs")
                differ.setdefault(difference, []).append(mail.name)
                remark = remark or difference
            report.row({
                "name": mail.name.partition("-")[2],
                "expected": mail.expected,
                "run": ", ".join(f"{end.verdict} {end.folder}" for end in ends[0]),
                "scan": ", ".join(f"{end.verdict} {end.folder}" for end in ends[1]),
                "remark": remark,
            })
    agreed = len(mails) - sum(map(len, differ.values()))
    told = [f"; {difference}: {', '.join(names)}" for difference, names in differ.items()]
    print(f"\n{agreed} of {len(mails)} as a person would say{''.join(told)}.")
    if not faults:
        print("Every message is there once in each account, byte for byte as it came, and none is marked as read.")
    return faults


def wait(server: Server, config: Path) -> None:
    """Leaves the server up until Ctrl-C, and says how to reach it."""
    tls = f"TLS, certificate authority in {server.ca_file}" if server.ca_file else "no TLS"
    command = shlex.join([f"MAILTAGGER_LIVE_PASSWORD={demo_server.PASSWORD}", sys.argv[0], "--config", str(config)])
    with suppress(KeyboardInterrupt):
        print(f"""
The server stays up until Ctrl-C. A mail program reaches it with
    IMAP server 127.0.0.1, port {server.port}, {tls}, user alice or bob, password {demo_server.PASSWORD}
and mailtagger with
    {command} scan --account live --folder Junk
    {command} run""", flush=True)
        signal.pause()
