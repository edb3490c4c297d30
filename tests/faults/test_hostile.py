"""Faults 60 and 63 by the thousand: mutations of ugly, real and made-up mail (tests/hostile.py)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import MEMORY


def hostile(number: int, seed: int) -> dict[str, Any]:
    """The figures of a run in a process of its own, so that its memory is its own, too."""
    command = [sys.executable, "-m", "tests.hostile", str(number), str(seed)]
    home = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False, cwd=home)
    assert done.stdout, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@pytest.mark.quick
@pytest.mark.fault(60)
def test_60_three_hundred_hostile_messages() -> None:
    """Nothing raises, none takes over a second, memory stays bounded, and nothing told of one moves a terminal."""
    figures = hostile(300, 1)
    assert figures["won"] == []
    assert figures["peak_kb"] < MEMORY


@pytest.mark.slow
@pytest.mark.fault(63)
@pytest.mark.parametrize("seed", [20261125])
def test_63_ten_thousand_hostile_messages(seed: int) -> None:
    """Nothing raises, none takes over a second, memory stays bounded, and nothing told of one moves a terminal."""
    figures = hostile(10_000, seed)
    print(figures)
    assert figures["won"] == []
    assert figures["peak_kb"] < MEMORY
