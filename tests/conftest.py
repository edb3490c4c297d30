"""Fixtures that more than one file of tests uses."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from mailtagger import dovecot as own
from mailtagger.dovecot import Dovecot
from mailtagger.imap import Mailbox
from mailtagger.journal import Journal
from tests.flow import journal_in
from tests.imap_server import mailbox
from tests.running import Bench

# A busy machine is slow, and that is no fault of the code's; what must be fast has a test of its own.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


# A shell ignores SIGINT for what it starts in the background, and what is started from there inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", choices=("quick", "all"), default="quick", help="which of tests/faults to run")
    parser.addoption("--faults-table", metavar="FILE", help="write the table of the faults that were run")


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """The command sets it; where a test calls that in its own process, the next test must not have it."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


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


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A place to run the daemon in; what was started ends with the test."""
    bench = Bench(tmp_path)
    yield bench
    for daemon in bench.started:
        daemon.close()


@pytest.fixture
def alice(dovecot: Dovecot) -> Iterator[Mailbox]:
    """Alice's own mail program."""
    with mailbox(dovecot) as opened:
        yield opened
