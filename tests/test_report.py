"""report.py: the same records for a program, a pipe and a person."""

import json
import re

import pytest

from mailtagger.report import Column, Report, plain

COLUMNS = [Column("uid", "UID", 6), Column("verdict", "verdict", 8), Column("subject", "subject", 0)]
RECORD = {"uid": 7, "verdict": "spam", "subject": "[bold]buy\x1b[2J \u202enow\u202c\nplease", "score": 0.5}


def test_json_is_one_object_a_line_with_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    """A program gets the whole record, not the columns, and the last record after it."""
    with Report(COLUMNS, as_json=True) as report:
        report.row(RECORD)
        report.close({"summary": {"seen": 1}}, "one")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [RECORD, {"summary": {"seen": 1}}]


def test_plain_lines_are_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe gets a heading and whole values in columns."""
    with Report(COLUMNS, as_json=False) as report:
        report.row(RECORD | {"subject": "x" * 300})
    assert capsys.readouterr().out == f"UID     verdict   subject\n7       spam      {'x' * 300}\n"


def test_terminal_gets_a_heading_and_lines_that_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person gets a heading once, and every row on one line; markup in a subject is only text."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    with Report(COLUMNS, as_json=False) as report:
        report.row(RECORD)
        report.row(RECORD | {"subject": "漢字" * 100})
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert lines[0].split() == ["UID", "verdict", "subject"]
    assert "[bold]buy" in lines[1]
    assert len(lines) == 3


def test_values_cannot_move_the_cursor_or_turn_the_line() -> None:
    """What a stranger wrote into a subject is printed without control characters and direction marks."""
    assert plain(RECORD["subject"]) == "[bold]buy\N{REPLACEMENT CHARACTER}[2J now please"
    assert plain("\udcff") == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), (True, "yes"), (0.98765, "0.9877"), (["empty", "no text"], "empty; no text"), (12, "12")],
)
def test_plain_values(value: object, expected: str) -> None:
    """Each kind of value has one form."""
    assert plain(value) == expected
