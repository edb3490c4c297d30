"""Many accounts and a huge folder: what `run` and `scan` take, how fast they are, and that nobody waits for another.

    python -m tests.load                              50 accounts on one Dovecot, and 100,000 messages in one folder
    python -m tests.load --accounts 10 --messages 5000 --picture build/load.png

One `run` watches all accounts, and one more whose server never answers. Meanwhile `scan --apply` goes through the huge
folder, is killed at a third, and is begun again; where the time of that went is told. Status 1 if memory passes the
limit, new mail anywhere waits too long for its mark, a message is scored or marked a second time, or not marked, or if
anything takes more CPU in it than scoring does, the server's own included.
"""

import argparse
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from mailtagger import artifact
from mailtagger.dovecot import PASSWORD
from mailtagger.journal import FILE
from tests.gauge import Gauge
from tests.imap_server import Tool, fault_proxy
from tests.running import Daemon, message, spam
from tests.shares import SCORING
from tests.tiny_model import HAM, NEITHER, SPAM, tiny_model

MEGABYTES, SECONDS = 250.0, 10.0  # the most memory, and the longest wait of new mail for its mark
BIG, FOLDER = "user1", "Archive"  # where the huge folder is


def written(number: int) -> bytes:
    """A short message in words of both kinds; the same for the same number."""
    draw = random.Random(number)
    words = draw.choice((SPAM, HAM, HAM))
    return message("\r\n".join(draw.sample(words, 3) + draw.sample(NEITHER, 1)), f"{number}", f"{draw.choice(words)}")


def fill(home: Path, count: int) -> None:
    """So many messages, straight into the maildir: as they would have come over years."""
    folder = home / "maildir" / f".{FOLDER}"
    owner = (home / "maildir").stat()
    for name in ("", "cur", "new", "tmp"):
        (folder / name).mkdir(exist_ok=True)
        os.chown(folder / name, owner.st_uid, owner.st_gid)
    now = int(time.time())
    for number in range(count):
        raw = written(number).replace(b"\r\n", b"\n")
        path = folder / "cur" / f"{now - count + number}.M{number}P1.load,S={len(raw)}:2,"
        path.write_bytes(raw)
        os.chown(path, owner.st_uid, owner.st_gid)


@dataclass
class Load:
    """The server, the configuration and what was found wrong."""

    server: Tool
    directory: Path
    accounts: int
    model: Path
    wrong: list[str] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.directory / "config.yaml"

    @property
    def environment(self) -> dict[str, str]:
        names = [*(f"USER{n}" for n in range(1, self.accounts + 1)), "DEAD"]
        return {f"MAILTAGGER_{name}_PASSWORD": PASSWORD for name in names} | {"OMP_NUM_THREADS": "1"}

    def configure(self, dead: Any) -> None:
        """Every account watched in mode observe, and one at a proxy that falls silent."""
        own = {"host": "127.0.0.1", "tls": "none", "poll_seconds": 30}
        accounts = [own | {"name": name, "username": name, "port": self.server.port}
                    for name in (f"user{n}" for n in range(1, self.accounts + 1))]
        accounts.append(own | {"name": "dead", "username": "alice", "port": dead.port, "read_timeout": 20})
        settings = {"state_dir": str(self.directory / "state"), "model": str(self.model), "accounts": accounts}
        self.config.write_text(yaml.safe_dump(settings))

    def latency(self, user: str) -> float:
        """Seconds from the delivery of a spam to its mark on the server."""
        with self.server.client(user) as client:
            client.select_folder("INBOX")
            before = len(client.search(["KEYWORD", "MailtaggerSpam"]))
            began = time.monotonic()
            client.append("INBOX", spam(f"{user}-{began}"))
            while len(client.search(["KEYWORD", "MailtaggerSpam"])) == before:
                if time.monotonic() - began > 6 * SECONDS:
                    break
                time.sleep(0.05)
                client.noop()
            return time.monotonic() - began

    def latencies(self, gauge: Gauge, when: str, times: int = 10) -> None:
        """The wait in some of the accounts, one after the other."""
        users = [f"user{2 + n * 7 % max(1, self.accounts - 1)}" for n in range(times)]
        waits = [self.latency(user) for user in users]
        gauge.note(f"{when}: marked {median(waits):.1f} s after delivery, {max(waits):.1f} s at most")
        if max(waits) > SECONDS:
            self.wrong.append(f"{when}: new mail waited {max(waits):.1f} s for its mark")

    def rows(self, sql: str) -> list[Any]:
        with closing(sqlite3.connect(self.directory / "state" / FILE)) as journal:
            return journal.execute(sql).fetchall()

    @contextmanager
    def scanning(self, name: str) -> Iterator[tuple[subprocess.Popen[str], Gauge, Path]]:
        """`scan --apply` of the huge folder, as a process of its own; what it prints goes to a file."""
        listed = self.directory / name
        with listed.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.shares", str(listed.with_suffix(".shares")), "--config", str(self.config),
                 "scan", "--account", BIG, "--folder", FOLDER, "--apply", "--yes", "--json"],
                stdout=out, text=True, env=os.environ | self.environment,
            )
        with Gauge(process.pid, 1.0) as gauge:
            try:
                yield process, gauge, listed
            finally:
                process.kill()
                process.wait()


def server_cpu(master: int) -> float:
    """Seconds of CPU that a Dovecot has used: its processes that are there, and those that have ended (proc(5))."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, fields = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
            if pid == master:
                total += sum(map(int, fields[11:15]))  # utime, stime, and of the children it has waited for
            elif int(fields[1]) == master:
                total += sum(map(int, fields[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


def told(load: Load, gauge: Gauge, path: Path, scored: int, server: float) -> None:
    """Says where the time of a scan went; wrong where anything takes more CPU than scoring, the server's own included.

    The CPU decides: the wall clock's shares hang on who else is at the machine, as whoever waits for it waits longest.
    """
    spent: dict[str, list[float]] = json.loads(path.read_text())
    wall = sum(of_wall for of_wall, _ in spent.values())
    gauge.note(f"{scored:,} messages were scored in it, {scored / wall:.0f} a second")
    gauge.note("share of wall clock: " + ", ".join(f"{kind} {of / wall:.0%}" for kind, (of, _) in spent.items()))
    cpu = {kind: of for kind, (_, of) in spent.items()} | {"Dovecot": server}
    each = ", ".join(f"{kind} {1000 * of / scored:.2f} ({of / sum(cpu.values()):.0%})" for kind, of in cpu.items())
    gauge.note(f"ms of CPU a message: {each}")
    if max(cpu, key=lambda kind: cpu[kind]) != SCORING:
        load.wrong.append("the scan is not bounded by scoring")


def scan_twice(load: Load, gauge: Gauge, messages: int) -> None:
    """The huge folder scanned, killed at a third, and scanned again: what was done is not done again."""
    with load.scanning("first.jsonl") as (process, _, listed), listed.open("rb") as told_of:
        seen = 0
        while process.poll() is None and seen < messages // 3:
            time.sleep(0.5)
            seen += told_of.read().count(b"\n")
        process.kill()
        gauge.note("the scan is killed")
    [[judged, seconds]] = load.rows("SELECT count(*), max(at) - min(at) FROM messages"
                                    f" WHERE account = '{BIG}' AND folder = '{FOLDER}'")
    gauge.note(f"{judged:,} messages were judged by then, {judged / seconds:.0f} a second")
    master = int(load.server.env["DOVECOT_PID"])
    used = server_cpu(master)
    with load.scanning("second.jsonl") as (process, scanner, listed):
        load.latencies(gauge, "while one account is scanned")
        process.wait()
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    again = sum("judged before" in line.get("notes", ()) for line in lines)
    peak = max(reading.megabytes for reading in scanner.readings)
    gauge.note(f"scanned to the end: {lines[-1]}, {again:,} judged before; {peak:.0f} MB at most")
    if process.returncode:
        load.wrong.append(f"the scan ended with {process.returncode}")
    else:
        told(load, gauge, listed.with_suffix(".shares"), messages - judged, server_cpu(master) - used)
    twice = load.rows("SELECT uid FROM intents WHERE act = 'keyword' AND state = 'done'"
                      " GROUP BY account, folder, uid HAVING count(*) > 1")
    [[unmarked]] = load.rows(f"SELECT count(*) FROM messages AS m WHERE verdict <> 'ham' AND folder = '{FOLDER}'"
                             " AND NOT EXISTS (SELECT 1 FROM intents AS i WHERE i.account = m.account"
                             " AND i.folder = m.folder AND i.uid = m.uid AND i.state = 'done')")
    load.wrong += [f"{len(twice)} messages were marked twice"] if twice else []
    load.wrong += [f"{unmarked} messages that are not ham have no mark"] if unmarked else []
    load.wrong += [f"{judged:,} were judged, and only {again:,} were not scored again"] if again != judged else []
    load.wrong += [f"the scan saw {len(lines) - 1:,} of {messages:,} messages"] if len(lines) - 1 != messages else []
    load.wrong += [f"the scan took {peak:.0f} MB"] if peak > MEGABYTES else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what is measured; 1 when something is too slow, too big, or done twice."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--accounts", type=int, default=50)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--model", type=Path, help="default: the packaged one; `tiny` is the tests'")
    parser.add_argument("--picture", type=Path, default=Path("build/load.png"))
    asked = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="load-") as aside,
        Tool("dovecot-up", "--users", str(asked.accounts)) as server,
        fault_proxy(server) as dead,
    ):
        directory = Path(aside)
        tiny = asked.model == Path("tiny")
        model = tiny_model(directory) if tiny else asked.model or artifact.find(None)
        load = Load(server, directory, asked.accounts, model)
        load.configure(dead)
        with server.client(BIG) as client:  # so that the maildir is there
            client.select_folder("INBOX")
        fill(Path(server.env["MAIL_ROOT"]) / BIG, asked.messages)
        daemon = Daemon(load.config, ("-m", "mailtagger", "--config", str(load.config), "run"), load.environment)
        try:
            with Gauge(daemon.process.pid, 1.0) as gauge:
                daemon.until(lambda: daemon.hears("READY=1"), 120)
                gauge.note(f"{asked.accounts} accounts are watched, {asked.messages:,} messages lie in one folder")
                load.latencies(gauge, "at rest")
                dead.frozen = True
                load.latencies(gauge, "while one server is silent")
                scan_twice(load, gauge, asked.messages)
                seconds = daemon.end()
            print(f"run ended in {seconds:.1f} s\n{gauge.table()}")
        finally:
            daemon.close()
        peak = max(reading.megabytes for reading in gauge.readings)
        load.wrong += [f"run took {peak:.0f} MB"] if peak > MEGABYTES else []
        load.wrong += re.findall(r".*this is a bug.*", daemon.log)
        if gauge.plot(asked.picture, f"run: {asked.accounts} accounts, {asked.messages:,} messages in one folder"):
            print(f"{asked.picture} shows it.")
    for one in load.wrong:
        print(f"WRONG: {one}")
    return 1 if load.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
