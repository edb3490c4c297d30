"""Hours of ordinary mail and occasional faults: memory, file descriptors and threads of `run` must not grow.

    python -m tests.soak --minutes 60 --picture build/soak.png

Three accounts get a message every second or so, half of it spam, and their user moves some into Junk or out of it.
Now and then a fault is made on the way to the server, and the file is read again (SIGHUP). Every so often all mail is
deleted, so that a growing mailbox is not taken for a growing process. Status 1 with what has grown, or was not judged.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mailtagger import artifact
from mailtagger.dovecot import PASSWORD
from tests.gauge import Gauge
from tests.imap_server import Tool, fault_proxy
from tests.running import Bench, Daemon, account, ham, spam
from tests.weather import Weather

ACCOUNTS = 3
MOST = {"megabytes": 10.0, "files": 3, "threads": 2}  # by which the last quarter may be above the second
# Seconds before the first reading: caches fill, SQLite's log reaches its size, and the user moves one message for each
# that comes, as the first hundred lessons fill the tables of the personal layers: +27 MB for three accounts, then none.
WARM = 120.0


def life(
    users: list[Any], weather: Weather, daemon: Daemon, draw: random.Random, seconds: float, moved: float = 0.05
) -> int:
    """So many messages were delivered in this time; beside that share of them the user moves one."""
    end, sent = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        assert daemon.process.poll() is None, f"It ended with {daemon.process.returncode}.\n{daemon.log[-2000:]}"
        user = draw.choice(users)
        user.append("INBOX", draw.choice((ham, spam))(f"{draw.random()}"))
        sent += 1
        if draw.random() < 0.05:
            weather.change()
        if draw.random() < moved:
            there, here = draw.choice((("Junk", "INBOX"), ("INBOX", "Junk")))
            user.select_folder(there)
            if found := user.search():
                user.move([draw.choice(found)], here)
        if draw.random() < 0.01:
            daemon.process.send_signal(signal.SIGHUP)
        if draw.random() < 0.01:
            for folder in ("INBOX", "Junk"):
                user.select_folder(folder)
                user.delete_messages(user.search() or [1], silent=True)
                user.expunge()
        time.sleep(draw.uniform(0.2, 1.0))
    return sent


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the readings; 1 when something has grown."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", type=Path, help="default: the packaged one")
    parser.add_argument("--picture", type=Path, default=Path("build/soak.png"))
    asked = parser.parse_args(arguments)
    draw, names = random.Random(asked.seed), [f"user{n}" for n in range(1, ACCOUNTS + 1)]
    passwords = {f"MAILTAGGER_{name.upper()}_PASSWORD": PASSWORD for name in names}
    os.environ.update(passwords)
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as aside,
        Tool("dovecot-up", "--users", str(ACCOUNTS)) as server,
        fault_proxy(server) as proxy,
    ):
        bench = Bench(Path(aside))
        weather, users = Weather(proxy, draw), [server.client(name) for name in names]
        own = {"poll_seconds": 10, "read_timeout": 10, "connect_timeout": 5}
        bench.configure(*(account(proxy, name=name, username=name, **own) for name in names),
                        model=str(asked.model or artifact.find(None)))
        daemon = bench.start(OMP_NUM_THREADS="1").ready()
        try:
            sent = life(users, weather, daemon, draw, min(WARM, 12 * asked.minutes), moved=1.0)
            with Gauge(daemon.process.pid, 2.0) as gauge:
                sent += life(users, weather, daemon, draw, 60 * asked.minutes)
            faults = weather.end()
            before = daemon.log.count(f"{names[0]}/INBOX UID ")
            users[0].append("INBOX", spam("last"))
            daemon.until(lambda: daemon.log.count(f"{names[0]}/INBOX UID ") > before, 120)
            seconds = daemon.end()
        finally:
            daemon.close()
        judged, bugs = daemon.log.count("/INBOX UID "), daemon.log.count("this is a bug")
    print(gauge.table())
    print(f"{sent} messages, {judged} judged, {faults} faults, {proxy.count} connections, ended in {seconds:.1f} s")
    if gauge.plot(asked.picture, f"run: {ACCOUNTS} accounts, {sent} messages, {faults} faults"):
        print(f"{asked.picture} shows it.")
    grown = {name: gauge.growth(name) for name in MOST}
    wrong = [f"{name}: {growth:+.1f}, {MOST[name]} is allowed" for name, growth in grown.items() if growth > MOST[name]]
    wrong += [f"{bugs} bugs, see the log"] if bugs else []
    print(", ".join(f"{name} {growth:+.1f}" for name, growth in grown.items()))
    for one in wrong:
        print(f"WRONG: {one}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
