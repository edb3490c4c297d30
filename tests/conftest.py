"""Fixtures that more than one file of tests uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mailtagger import dovecot as own
from mailtagger.dovecot import Dovecot
from mailtagger.journal import Journal
from tests.flow import journal_in


@pytest.fixture(scope="session")
def _dovecot() -> Iterator[Dovecot]:
    if reason := own.missing():
        pytest.skip(reason)
    with Dovecot() as server:
        yield server


@pytest.fixture
def dovecot(_dovecot: Dovecot) -> Dovecot:
    """A running Dovecot without any mail: users alice and bob, folders with special-use attributes."""
    _dovecot.empty()
    return _dovecot


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An empty journal."""
    with journal_in(tmp_path) as opened:
        yield opened
