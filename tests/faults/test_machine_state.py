"""Faults 72, 73 and 75: the disk, the state directory and the journal's lock."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailtagger.dovecot import Dovecot
from mailtagger.journal import FILE
from mailtagger.state import running
from tests.faults.conftest import kept
from tests.faults.house import House
from tests.running import SOON, Bench, Daemon

NOBODY = 65534
SOONER = "worker.STATE_WAIT = 1.0; daemon.MODEL_SECONDS = 1"
COMMAND = "sys.argv = ['mailtagger', '--config', sys.argv[1], 'run']; from mailtagger import cli; cli.main()"
# A user who may write nothing of root's. He may read all: Python may be installed where only root looks.
READER = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=+dac_read_search",
          "--ambient-caps=+dac_read_search", sys.executable, "-c",
          f"import sys; from mailtagger import daemon, worker; {SOONER}; {COMMAND}"]
AS_NOBODY = f"import os; os.execvp('setpriv', {READER} + [sys.argv[1]])"
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, to mount a disk or to become somebody else"
)


def start(house: House, change: str = SOONER) -> Daemon:
    """The daemon, ready, that tries again soon."""
    return house.bench.start_with(f"{change}; {COMMAND}").ready()


def refused(house: House, change: str = SOONER, status: int = 1) -> str:
    """What the daemon says that does not start."""
    daemon = house.bench.start_with(f"{change}; {COMMAND}")
    assert daemon.process.wait(SOON) == status, daemon.log
    assert "Traceback" not in daemon.log
    return daemon.log


def state_of(house: House) -> Path:
    return house.bench.directory / "state"


def journalled(house: House) -> None:
    """All that lies in Junk was moved there by a move that is in the journal."""
    moved = {id_.split("@")[0] for (id_,) in house.rows("SELECT message_id FROM intents WHERE act = 'move'")}
    assert house.inside("Junk") <= moved


def untouched(house: House) -> set[str]:
    """What lies in INBOX without any mark."""
    return {id_ for _, id_, _, flags in house.everything("INBOX") if not flags}


# 72: disk full


@pytest.fixture
def disk(bench: Bench) -> Iterator[Path]:
    """The state directory on a disk of one megabyte."""
    state = bench.directory / "state"
    state.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", state], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield state
    subprocess.run(["umount", "-l", state], check=True)


def fill(disk: Path, but: int = 0) -> Path:
    """A file that leaves `but` kilobytes of the disk."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as opened:
        while opened.write(bytes(4096)):
            pass
    os.truncate(filler, max(0, filler.stat().st_size - 1024 * but))
    return filler


@needs_root
@pytest.mark.quick
@pytest.mark.fault(72)
def test_72_disk_full_while_running(disk: Path, house: House) -> None:
    """It says so, the mail stays where it is and unmarked; when there is room again, it is marked and moved."""
    house.configure(poll_seconds=5)
    daemon = start(house)
    filler = fill(disk)
    [one] = house.drop(house.spam())
    daemon.until(lambda: "disk is full" in daemon.log)
    assert untouched(house) == {one}
    filler.unlink()
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    journalled(house)
    assert daemon.end() < 5


@needs_root
@pytest.mark.fault(72)
def test_72_disk_full_at_any_moment_of_an_act(disk: Path, house: House) -> None:
    """Room for some commits and not for the next: before the marks, before the move or after it; each message ends in
    Junk, by one move."""
    house.configure(poll_seconds=5)
    daemon = start(house)
    for room in range(4, 90, 8):
        house.rows("PRAGMA wal_checkpoint(TRUNCATE)")  # or the next commits find room in the log's old pages
        filler = fill(disk, room)
        said = daemon.log.count("disk is full")
        [one] = house.drop(house.spam())
        daemon.until(lambda one=one, said=said: one in house.inside("Junk") or daemon.log.count("disk is full") > said)  # type: ignore[misc]
        filler.unlink()
        daemon.until(lambda one=one: one in house.inside("Junk") and house.settled())  # type: ignore[misc]
        journalled(house)
    assert "Traceback" not in daemon.log
    assert daemon.log.count("disk is full") >= 3


@needs_root
@pytest.mark.fault(72)
def test_72_disk_full_at_the_start(disk: Path, house: House) -> None:
    """A sentence and status 1, with and without a journal; the mail stays, and is dealt with when there is room."""
    house.configure()
    filler = fill(disk)
    assert "disk is full" in refused(house)
    filler.unlink()
    start(house).end()
    [one] = house.drop(house.spam())
    filler = fill(disk)
    assert refused(house).count("disk is full") == 2
    assert house.inside("INBOX") == {one}
    filler.unlink()
    daemon = start(house)
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())


# 73: the state directory


@pytest.fixture
def shared_house(dovecot: Dovecot) -> Iterator[House]:
    """A house whose daemon may belong to another user."""
    directory = Path(tempfile.mkdtemp(prefix="house-"))
    directory.chmod(0o755)
    bench = Bench(directory)
    try:
        yield from kept(dovecot, bench)
    finally:
        for daemon in bench.started:
            daemon.close()
        shutil.rmtree(directory)


@needs_root
@pytest.mark.fault(73)
def test_73_not_allowed_to_write(shared_house: House) -> None:
    """A sentence that names the directory, status 1, and nothing was written."""
    shared_house.configure()
    state = state_of(shared_house)
    state.mkdir(mode=0o500)
    os.chown(state, NOBODY, NOBODY)
    assert f"{state}/run.lock cannot be written: Permission denied" in refused(shared_house, AS_NOBODY)
    assert list(state.iterdir()) == []


@needs_root
@pytest.mark.quick
@pytest.mark.fault(73)
def test_73_of_another_user(shared_house: House) -> None:
    """Also root does not write into it, as its owner could not go on then; the sentence names him and the way out."""
    shared_house.configure()
    state = state_of(shared_house)
    state.mkdir(mode=0o755)
    assert f"{state} belongs to root. Run it as that user" in refused(shared_house, AS_NOBODY)
    os.chown(state, NOBODY, NOBODY)
    assert "belongs to nobody. Run it as that user (sudo -u nobody" in refused(shared_house)
    assert list(state.iterdir()) == []


@needs_root
@pytest.mark.fault(73)
def test_73_closed_while_running(shared_house: House) -> None:
    """What needs a new file waits, with a sentence; when the directory is open again, the work goes on."""
    shared_house.configure()
    state = state_of(shared_house)
    state.mkdir(mode=0o700)
    os.chown(state, NOBODY, NOBODY)
    daemon = start(shared_house, AS_NOBODY)
    for lock in state.glob("folder-*"):
        lock.unlink()
    state.chmod(0o500)
    [one] = shared_house.drop(shared_house.spam())
    daemon.until(lambda: "lock cannot be written: Permission denied" in daemon.log)
    assert shared_house.inside("INBOX") == {one}
    state.chmod(0o700)
    daemon.until(lambda: shared_house.inside("Junk") == {one})


@pytest.mark.quick
@pytest.mark.fault(73)
@pytest.mark.parametrize("what", ["directory", FILE, f"{FILE}-wal"])
def test_73_removed_while_running(dovecot_house: House, what: str) -> None:
    """It ends with a sentence and status 1 before it touches any more mail; started again it begins anew."""
    house = dovecot_house
    house.configure()
    daemon = start(house)
    if what == "directory":
        shutil.rmtree(state_of(house))
    else:
        (state_of(house) / what).unlink()
    [one] = house.drop(house.spam())
    assert daemon.process.wait(SOON) == 1
    assert f"{FILE} was removed or replaced while in use. Start mailtagger again." in daemon.log
    assert house.inside("INBOX") == {one}
    daemon = start(house)
    [two] = house.drop(house.spam())
    daemon.until(lambda: two in house.inside("Junk"))


@pytest.mark.fault(73)
def test_73_missing(dovecot_house: House) -> None:
    """It is made, for its owner alone; where it cannot be made, a sentence and status 1."""
    dovecot_house.configure()
    start(dovecot_house).end()
    assert state_of(dovecot_house).stat().st_mode & 0o777 == 0o700
    shutil.rmtree(state_of(dovecot_house))
    state_of(dovecot_house).write_text("a file")
    assert "Look at state_dir in the configuration." in refused(dovecot_house)
    assert state_of(dovecot_house).read_text() == "a file"
    state_of(dovecot_house).unlink()


# 75: the journal locked


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """The journal locked by another process, as by a backup; its pid."""
    code = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); db.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        yield other.pid
        assert other.stdin is not None
        other.stdin.close()


@pytest.mark.fault(75)
def test_75_locked_for_long(house: House) -> None:
    """It waits, then says which process holds it; no mail is touched before the lock is gone, and all of it is then."""
    house.configure()
    daemon = start(house)
    with locked(state_of(house) / FILE) as pid:
        [one] = house.drop(house.spam())
        daemon.until(lambda: f"{FILE} is locked by " in daemon.log)
        if any(f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines()):
            assert f"is locked by process {pid} (python" in daemon.log
        assert untouched(house) == {one}
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    assert "Traceback" not in daemon.log


@pytest.mark.quick
@pytest.mark.fault(75)
def test_75_locked_for_a_moment(dovecot_house: House) -> None:
    """It waits, and nothing need be said."""
    house = dovecot_house
    house.configure()
    daemon = start(house)
    with locked(state_of(house) / FILE):
        [one] = house.drop(house.spam())
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(1)
        assert house.inside("INBOX") == {one}
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    assert " is locked " not in daemon.log


@pytest.mark.fault(75)
def test_75_terminated_while_it_starts(dovecot_house: House) -> None:
    """SIGTERM before it has read a line of the locked journal: gone within five seconds, however."""
    house = dovecot_house
    house.configure()
    start(house).end()
    with locked(state_of(house) / FILE):
        daemon = house.bench.start()
        daemon.until(lambda: daemon.process.pid == running(state_of(house)))
        daemon.process.terminate()
        daemon.process.wait(5)


@pytest.mark.fault(75)
def test_75_terminated_while_it_waits(dovecot_house: House) -> None:
    """SIGTERM: status 0 within five seconds, though the lock is still there."""
    house = dovecot_house
    house.configure()
    daemon = start(house)
    with locked(state_of(house) / FILE):
        house.drop(house.spam())
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(1)
        assert daemon.end() < 5
