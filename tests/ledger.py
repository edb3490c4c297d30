"""Nothing lost: mail comes, faults are made, the daemon is killed, the user files mail, and in the end all is counted.

    python -m tests.ledger --messages 150 --seed 1 --seeds 20 --server dovecot --strip MOVE

Each message must be in exactly one place (in none if the user deleted it), with the bytes it came with, with the user's
flags and our marks, and what the journal says of it must be true. One line of counts for each seed; status 1, with what
differs. The seed fixes what is delivered, which faults are made and what the user is up to; how the daemon's threads
meet all that is left to the machine.
"""

import argparse
import contextlib
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mailtagger.dovecot import Dovecot
from mailtagger.imap import Mailbox
from tests.books import FOLDERS, Books, Entry
from tests.faults.house import Cyrus
from tests.imap_server import fault_proxy, mailbox
from tests.newsletters import newsletter
from tests.running import WON, Bench, Daemon, account, ham, message, spam
from tests.weather import Weather

REAL = sorted((Path(__file__).parents[1] / "mailtagger" / "demo_mail").glob("*.eml"))
KINDS = "ham", "spam", "letter", "real", "twin", "name", "none"
PATIENCE = 90.0  # seconds after the faults in which everything must be settled
POINTS = [
    f"{method} {when}"
    for method, whens in {
        "Mailbox fetch": "after", "Scorer score": "after", "Journal record": "after", "Mailbox locate": "after",
        "Journal open_intents": "before after", "Mailbox add_keywords": "before after", "Mailbox move": "before after",
        "Mailbox expunge": "before after", "Journal close_intents": "before after", "Journal watermark": "before after",
        "Lessons learn": "after", "Places saw": "after", "Places followed": "before after",
    }.items()
    for when in whens.split()
]


class Post:
    """What arrives: ham, spam, newsletters, real mail, twins, namesakes, mail without a Message-ID."""

    def __init__(self, server: Any, books: Books, draw: random.Random) -> None:
        self._client, self._books, self._draw = server.client("alice"), books, draw
        self._numbers = itertools.count(1)
        self._sent: list[bytes] = []

    def deliver(self, folder: str = "") -> None:
        """One message more, by way of the server's own filter, which puts some into Junk, or right into a folder."""
        raw = self._mail()
        folder = folder or ("Junk" if self._draw.random() < 0.05 else "INBOX")
        self._sent.append(raw)
        self._books.delivered(raw, folder)
        self._client.append(folder, raw)

    def _mail(self) -> bytes:
        number = f"{next(self._numbers):04}"
        plain = self._draw.choice((ham, spam))(number)
        match self._draw.choices(KINDS, (30, 30, 8, 10, 7, 7, 8))[0]:
            case "ham":
                return ham(number)
            case "spam":
                return spam(number)
            case "letter":
                subject, text = newsletter(int(number))
                return message(text.replace("\n", "\r\n"), f"letter-{number}", subject)
            case "real":  # those of one file are namesakes
                raw = self._draw.choice(REAL).read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
                return raw + f"\r\n{number}\r\n".encode()
            case "twin" if self._sent:
                return self._draw.choice(self._sent)
            case "name" if self._sent:
                return message(f"{WON} {number}", f"spam-{self._draw.randrange(int(number)):04}")
            case "none":
                head, _, rest = plain.partition(b"\r\n")
                assert head.startswith(b"Message-ID")
                return rest.replace(b"Subject: ", f"Subject: {number} ".encode())
        return plain


class User:
    """Who files, flags and deletes, past the proxy, and is told by the server what came of it."""

    def __init__(self, server: Any, books: Books, draw: random.Random) -> None:
        self._box: Mailbox = mailbox(server)
        self._box.connect()
        self._client, self._books, self._draw = server.client("alice"), books, draw

    def act(self) -> None:
        """Something with one of the newest messages of a folder, and sometimes something with it again."""
        folder = self._draw.choice(("INBOX", "INBOX", "Junk", "Junk", "Archive"))
        self._box.select(folder)
        if not (uids := self._box.uids()):
            return
        at: tuple[str, int] | None = folder, self._draw.choice(uids[-30:])
        while at:
            at = self._deed(*at)
            if self._draw.random() < 0.7:
                return

    def _deed(self, folder: str, uid: int) -> tuple[str, int] | None:
        """Where the message is afterwards; None where it has gone, or somebody was faster."""
        state = self._box.select(folder)
        for found in self._box.fetch([uid]):
            entry = self._books.entry(found.raw)
            deed = self._draw.choices(("move", "\\Seen", "\\Flagged", "$NotJunk", "delete"), (60, 15, 8, 12, 5))[0]
            if deed in ("move", "delete"):
                target = self._draw.choice([name for name in FOLDERS if name not in (folder, "Trash")])
                return self._move(entry, folder, uid, target if deed == "move" else "Trash")
            if deed not in found.flags:
                now = time.time()
                self._client.select_folder(folder)
                if deed.encode() in self._client.add_flags([uid], [deed]).get(uid, ()):
                    entry.flagged(now, (folder, state.uidvalidity, uid), deed)
            return folder, uid
        return None

    def _move(self, entry: Entry, folder: str, uid: int, target: str) -> tuple[str, int] | None:
        now = time.time()
        new = self._box.move([uid], target).done.get(uid)
        if new is None:
            return None
        entry.moved(now, folder, uid, target, new)
        if target != "Trash":
            return target, new
        self._client.select_folder("Trash")
        self._client.delete_messages([new], silent=True)
        self._client.uid_expunge([new])
        entry.deleted(now)
        return None


class Keeper:
    """Keeps a daemon running, and kills it."""

    def __init__(self, bench: Bench, draw: random.Random) -> None:
        self._bench, self._draw, self.kills = bench, draw, 0
        self._points: list[str] = []
        self.daemon = self._start()

    def look(self, deadly: bool = True) -> None:
        """Started again where it has died, half of the times to die at the next point; or killed."""
        if self.daemon.process.poll() is not None:
            if self.daemon.process.returncode not in (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
                raise AssertionError(f"The daemon ended with {self.daemon.process.returncode}.")
            self.kills += 1
            if not self._points:
                self._points = self._draw.sample(POINTS, len(POINTS))
            dying = deadly and self._draw.random() < 0.7
            self.daemon.close()
            self.daemon = self._start(f"{self._points.pop()} {self._draw.randint(1, 3)}" if dying else "")
        elif deadly and self._draw.random() < 0.15:
            self.daemon.process.send_signal(self._draw.choice((signal.SIGKILL, signal.SIGTERM)))

    def spare(self) -> Daemon:
        """One that is not going to die."""
        self.daemon.process.kill()
        self.daemon.process.wait()
        self.look(deadly=False)
        daemon = self.daemon
        daemon.until(lambda: daemon.hears("READY=1"), PATIENCE)
        return daemon

    def _start(self, point: str = "") -> Daemon:
        return self._bench.start_to_die(point, "--hurried")


def play(server: Any, directory: Path, seed: int, messages: int, strip: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """One seed: a line of counts, and what differs in the end."""
    began, draw = time.monotonic(), random.Random(seed)
    server.empty()
    bench, books = Bench(directory), Books(directory / "state", server, "MOVE" not in strip)
    post, user = Post(server, books, draw), User(server, books, draw)
    for folder in ("INBOX", "INBOX", "Archive"):
        post.deliver(folder)  # before the first start
    with fault_proxy(server, strip=strip) as proxy:
        bench.configure(account(proxy, connect_timeout=2, read_timeout=2, poll_seconds=1,
                                brake={"messages": messages}))
        weather, keeper = Weather(proxy, draw), Keeper(bench, draw)
        try:
            keeper.daemon.ready().until(lambda: books.followed() >= {"INBOX", "Junk", "Archive"})
            while books.count < messages:
                for _ in range(draw.randint(1, 4)):
                    post.deliver()
                weather.change()
                before, end = weather.struck(), time.monotonic() + draw.uniform(0, 1)
                while weather.struck() == before and time.monotonic() < end:  # let it strike first
                    time.sleep(0.05)
                if draw.random() < 0.6:
                    user.act()
                keeper.look()
            faults = weather.end()
            daemon = keeper.spare()
            daemon.until(books.settled, PATIENCE + 0.2 * messages)
            daemon.end()
            wrong = books.differences()
            wrong += [line for line in daemon.log.splitlines() if "this is a bug" in line]
        finally:
            for daemon in bench.started:
                daemon.close()
        counts = {"messages": books.count, "faults": faults, "kills": keeper.kills} | books.figures()
        counts |= {"connections": proxy.count, "seconds": round(time.monotonic() - began)}
    return f"seed {seed}: " + ", ".join(f"{value} {name}" for name, value in counts.items()), wrong


@contextlib.contextmanager
def running(name: str) -> Iterator[Any]:
    """Dovecot or Cyrus."""
    with Dovecot() if name == "dovecot" else Cyrus() as server:
        yield server


def main() -> int:
    """What the command line asks for; 1 when something differs."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--messages", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--server", choices=("dovecot", "cyrus"), default="dovecot")
    parser.add_argument("--strip", default="")
    asked = parser.parse_args()
    strip, failed = tuple(filter(None, asked.strip.split(","))), 0
    with running(asked.server) as server:
        for seed in range(asked.seed, asked.seed + asked.seeds):
            directory = Path(tempfile.mkdtemp(prefix=f"ledger-{seed}-"))
            try:
                line, wrong = play(server, directory, seed, asked.messages, strip)
            except AssertionError as error:  # it hangs, or has ended by itself
                line, wrong = f"seed {seed} came to no end", [f"{error}"[-1000:]]
            print(f"{asked.server} {asked.strip} {line}", *wrong, sep="\n  ", flush=True)
            if wrong:
                failed += 1
                print(f"  The journal and the log are in {directory}.", flush=True)
            else:
                shutil.rmtree(directory)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
