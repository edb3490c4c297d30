"""systemd/: the units are correct, sandboxed, and what they forbid is not needed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_model import tiny_model

UNITS = Path(__file__).parent.parent / "systemd"
NEEDS_SYSTEMD = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: apt-get install systemd"
)


def settings(unit: str) -> dict[str, list[str]]:
    """Each key of a unit file with its values in order."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text().splitlines():
        if match := re.match(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with a program that exists here in the place of the installed one: `verify` looks for it."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/opt/mailtagger/.venv/bin/mailtagger", sys.executable)
        (tmp_path / unit.name).write_text(text)
    return sorted(tmp_path.iterdir())


@NEEDS_SYSTEMD
def test_verify_has_nothing_to_say(units: list[Path]) -> None:
    """`systemd-analyze verify` accepts all units without a word."""
    done = subprocess.run(["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@NEEDS_SYSTEMD
@pytest.mark.parametrize("service", ["mailtagger.service", "mailtagger-retrain.service"])
def test_exposure_is_at_most_two(service: str, units: list[Path]) -> None:
    """`systemd-analyze security` rates each service at 2.0 or better, of 10."""
    unit = next(unit for unit in units if unit.name == service)
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True)
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert level and float(level[1]) <= 2.0, done.stdout + done.stderr
    assert done.returncode == 0


def test_service_ends_for_good_on_a_wrong_configuration() -> None:
    """Exit status 78 is not answered by a restart, everything else is."""
    unit = settings("mailtagger.service")
    assert "78" in unit["RestartPreventExitStatus"][0].split()
    assert unit["Restart"] == ["on-failure"]
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]


def test_both_services_share_user_state_and_sandbox() -> None:
    """`retrain` reads the journal that `run` writes, under the same user, and is confined no less."""
    daemon, retrain = settings("mailtagger.service"), settings("mailtagger-retrain.service")
    for key in ("DynamicUser", "User", "StateDirectory", "StateDirectoryMode", "UMask"):
        assert daemon[key] == retrain[key]
    confining = ("Protect", "Private", "Restrict", "SystemCall", "Lock", "Memory")
    assert {key for key in daemon if key.startswith(confining)} <= set(retrain)
    assert retrain["PrivateNetwork"] == ["yes"]


MDWE = """
import ctypes, mmap, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN: Linux 6.3
    sys.exit(77)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except OSError:
    pass
else:
    sys.exit(78)
from pathlib import Path
from mailtagger.artifact import load
from mailtagger.score import open_scorer
open_scorer(load(Path(sys.argv[1])))
"""


def test_scoring_works_without_writable_and_executable_memory(tmp_path: Path) -> None:
    """Under MemoryDenyWriteExecute a model loads and gives the scores recorded in it."""
    command = [sys.executable, "-c", MDWE, str(tiny_model(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=UNITS.parent)
    if done.returncode == 77:
        pytest.skip("this kernel is older than 6.3 and cannot forbid it without systemd")
    assert done.returncode == 0, done.stderr
