"""Fault 74: a model that cannot be used, at the start and while another one scores."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mailtagger import artifact
from mailtagger.score import open_scorer
from tests.faults.house import House
from tests.faults.test_machine_state import refused, start, state_of
from tests.tiny_model import tiny_model


def flipped(model: Path) -> None:
    content = bytearray((model / artifact.GRAPH).read_bytes())
    content[len(content) // 2] ^= 1
    (model / artifact.GRAPH).write_bytes(content)


def half_written(model: Path) -> None:
    with (model / artifact.WEIGHTS).open("r+b") as opened:
        opened.truncate(opened.seek(0, 2) // 2)


def cut_short(model: Path) -> None:
    os.truncate(model / artifact.META, 20)


def described(**changes: object) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        meta = json.loads((model / artifact.META).read_text())
        (model / artifact.META).write_text(json.dumps(meta | changes))

    return change


BROKEN = {
    "corrupt": (flipped, f"{artifact.GRAPH} is not the file that meta.json describes"),
    "half-written": (half_written, f"{artifact.WEIGHTS} is not the file that meta.json describes"),
    "without description": (cut_short, "meta.json cannot be read"),
    "newer": (described(format=2), "has format 2, and this version of mailtagger reads format 1"),
    "older": (described(format=0), "has format 0, and this version of mailtagger reads format 1"),
    "of other rules": (described(cleaning="0" * 64), "trained under other cleaning rules"),
    "lying": (described(calibration={"a": 9.0, "b": 9.0}), "cannot be used"),
}


@pytest.mark.fault(74)
@pytest.mark.parametrize("how", BROKEN)
def test_74_a_bad_model_at_the_start(dovecot_house: House, how: str) -> None:
    """It refuses to start, with a sentence that says what is wrong with which model; the mail is untouched."""
    dovecot_house.configure()
    dovecot_house.deliver(dovecot_house.spam())
    spoil, said = BROKEN[how]
    spoil(dovecot_house.bench.model)
    log = refused(dovecot_house)
    assert said in log
    assert str(dovecot_house.bench.model) in log


@pytest.mark.fault(74)
@pytest.mark.parametrize("how", [pytest.param("half-written", marks=pytest.mark.quick), *[*BROKEN][2:], "corrupt"])
def test_74_a_bad_model_takes_over(dovecot_house: House, how: str) -> None:
    """`current` leads to it while the daemon runs: the old one goes on scoring and the log says why, once."""
    house = dovecot_house
    artifact.install(house.bench.model, state_of(house), open_scorer)
    bad = tiny_model(state_of(house) / "models", "tiny-2")
    spoil, said = BROKEN[how]
    spoil(bad)
    house.configure(model=None)
    daemon = start(house)
    aside = state_of(house) / "models" / ".current"
    aside.symlink_to("tiny-2")
    aside.replace(state_of(house) / "models" / artifact.CURRENT)
    daemon.until(lambda: said in daemon.log)
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: "the old one stays" in daemon.log)
    assert f"model {house.bench.model.name} goes on: " in daemon.log
    assert daemon.log.count(" goes on: ") == 1
    assert house.rows("SELECT DISTINCT model FROM messages") == [(house.bench.model.name,)]


@pytest.mark.fault(74)
def test_74_the_models_directory_is_gone(dovecot_house: House) -> None:
    """Removed while running, the model goes on scoring from memory."""
    house = dovecot_house
    house.configure()
    daemon = start(house)
    shutil.rmtree(house.bench.model)
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    assert daemon.end() < 5
    assert "There is no" in (log := refused(house)) or "cannot be used" in log
