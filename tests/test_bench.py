"""The comparison that `make bench` prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mailtagger.errors import MailtaggerError
from tests.tiny_model import tiny_model
from training import bench

ROOT = Path(__file__).parents[1]


def test_the_same_seed_draws_the_same_messages(tmp_path: Path) -> None:
    """Every filter, and whoever runs it again, gets the same mail; a small directory is gone through more than once."""
    for i in range(5):
        (tmp_path / f"{i}.eml").write_bytes(b"Subject: %d\n\nhello\n" % i)
    raws, taught, where = bench.choose(tmp_path, 12, seed=3)
    assert (raws, taught, where) == bench.choose(tmp_path, 12, seed=3)
    assert len(raws) == 12
    assert len(set(raws)) == 5
    assert {label for label, _ in taught} == {"ham", "spam"}
    assert where == f"5 different ones from {tmp_path}"


def test_nothing_to_measure(tmp_path: Path) -> None:
    """A directory without a message, one without a model, and one message alone: a sentence each."""
    with pytest.raises(MailtaggerError, match=f"no message in {tmp_path}"):
        bench.main(["--messages", str(tmp_path)])
    with pytest.raises(MailtaggerError, match=f"The model in {tmp_path} cannot be used"):
        bench.main(["--model", str(tmp_path)])
    with pytest.raises(SystemExit):
        bench.main(["--count", "1"])


def test_a_message_cannot_break_out_of_the_mbox() -> None:
    """A body line that begins with "From " does not begin another message, and the postmark of a stored mail goes."""
    mbox = bench._in_mbox(b"From x Mon Jan  1 00:00:00 2001\r\nSubject: a\r\n\r\nFrom here on\r\n")
    assert mbox.count(b"\nFrom ") == 0
    assert mbox.startswith(b"From bench@localhost")
    assert b">From here on" in mbox


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures with /proc")
def test_what_is_not_installed_is_named_with_its_command(tmp_path: Path) -> None:
    """mailtagger's own row has figures, and a missing program is no error: its row says how to install it."""
    done = subprocess.run(
        [sys.executable, "-m", "training.bench", "--count", "5", "--model", str(tiny_model(tmp_path))],
        cwd=ROOT, env={**os.environ, "PATH": str(tmp_path), "MAILTAGGER_CORPORA": ""},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = {line[:10].strip(): line[36:].split() for line in done.stdout.splitlines()}
    speed, ratio, start, peak = map(float, rows["mailtagger"])
    assert speed > 1
    assert ratio == 1
    assert 0.05 < start < 10
    assert 20 < peak < 1000
    assert "apt-get install bogofilter" in done.stdout
    assert "apt-get install spamassassin" in done.stdout
