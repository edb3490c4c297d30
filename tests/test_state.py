"""state.py: a private directory, and one `run` at a time in it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mailtagger import artifact
from mailtagger.errors import StateError
from mailtagger.journal import Journal
from mailtagger.score import open_scorer
from mailtagger.state import RunLock, acting, private_directory, running
from tests.tiny_model import tiny_model


def test_an_empty_directory_is_closed_to_others_and_a_full_one_left_alone(tmp_path: Path) -> None:
    """Somebody's home given as state_dir must not lose its mode."""
    empty, full = tmp_path / "empty", tmp_path / "full"
    for directory in (empty, full):
        directory.mkdir()
        directory.chmod(0o755)
    (full / "public_html").mkdir()
    private_directory(empty)
    private_directory(full)
    assert [stat.S_IMODE(directory.stat().st_mode) for directory in (empty, full)] == [0o700, 0o755]


def test_a_second_run_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    """The lock is the kernel's: it ends with its process, however that ends, and no stale file is left in the way."""
    code = (
        "import sys, time; from pathlib import Path; from mailtagger.state import RunLock\n"
        "with RunLock(Path(sys.argv[1])): print('locked', flush=True); time.sleep(30)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path / "state"], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        assert running(tmp_path / "state") == child.pid
        named = rf"process {child.pid}\) already runs on .*/state\."
        with pytest.raises(StateError, match=named), RunLock(tmp_path / "state", wait=0):
            pass
    finally:
        child.kill()
        child.communicate()
    assert running(tmp_path / "state") is None
    with RunLock(tmp_path / "state"):
        assert running(tmp_path / "state") == os.getpid()
    assert running(tmp_path / "state") is None


def test_nothing_runs_where_nothing_ever_ran(tmp_path: Path) -> None:
    """Asking does not make a file."""
    assert running(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """A daemon tries again for weeks."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("no /proc here")
    (tmp_path / "bad").write_bytes(b"not a database" * 999)
    with RunLock(tmp_path):
        before = len(list(descriptors.iterdir()))
        for _ in range(5):
            with pytest.raises(StateError), RunLock(tmp_path, wait=0):
                pass
            with pytest.raises(StateError):
                Journal(tmp_path / "bad")
        assert len(list(descriptors.iterdir())) == before


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777])
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """They could put a link in the place of a file, or a model of theirs; nothing is written there before."""
    state = tmp_path / "state"
    (state / "something").mkdir(parents=True)
    state.chmod(mode)
    for use in (lambda: private_directory(state), lambda: Journal(state / "journal.sqlite3"), RunLock(state).__enter__):
        with pytest.raises(StateError, match=r"Other users can write to .*chmod go-w"):
            use()
    assert [path.name for path in state.iterdir()] == ["something"]


def test_locks_are_for_their_user_alone(tmp_path: Path) -> None:
    """Every file that is made to hold a lock has mode 0600, whatever the umask."""
    before = os.umask(0)
    try:
        with RunLock(tmp_path / "state"), acting(tmp_path / "state", "home", "INBOX"):
            pass
        with RunLock(tmp_path / "state", file="retrain.lock"):
            pass
    finally:
        os.umask(before)
    modes = {path.name[:4]: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
    assert modes == {"run.": 0o600, "retr": 0o600, "fold": 0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("foreign", ["state", "state/models", "state/journal.sqlite3"])
def test_what_belongs_to_another_is_not_used(tmp_path: Path, foreign: str) -> None:
    """Not the directory, not the models in it, not the journal: no command goes on, and nothing in it changes."""
    state = tmp_path / "state"
    artifact.install(tiny_model(tmp_path), state, open_scorer)
    with Journal(state / "journal.sqlite3"):
        pass
    os.chown(tmp_path / foreign, 61234, 61234)
    before = sorted(state.rglob("*"))
    with pytest.raises(StateError, match="belongs to user 61234"):
        if foreign.endswith("models"):
            artifact.install(tiny_model(tmp_path, "tiny-2"), state, open_scorer)
        else:
            Journal(state / "journal.sqlite3")
    assert sorted(state.rglob("*")) == before
