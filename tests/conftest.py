"""Fixtures that more than one file of tests uses."""

from collections.abc import Iterator

import pytest

from mailtagger import dovecot as own
from mailtagger.dovecot import Dovecot


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
