"""The 82 faults: each test names the one it makes, a quarter of them runs with the usual tests.

    pytest tests/faults                  the quick ones (marked `quick`)
    pytest tests/faults --faults all     all of them, as `make test-faults` does
    … --faults-table docs/faults.md      and their table, when all have run
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailtagger.dovecot import Dovecot
from tests.faults.house import Cyrus, House
from tests.faults.table import FAULTS, write
from tests.imap_server import needs_tools
from tests.running import Bench


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every test here names its fault; without `--faults all` only the quick ones run."""
    here = [item for item in items if "tests/faults/" in item.nodeid]
    for item in here:
        if (named := item.get_closest_marker("fault")) is None or named.args[0] not in FAULTS:
            raise pytest.UsageError(f"{item.nodeid} names no fault: @pytest.mark.fault(number).")
        sentence = (getattr(item, "function", item).__doc__ or "").strip().partition("\n\n")[0]
        quick = item.get_closest_marker("quick") is not None
        test = item.nodeid.partition("tests/faults/")[2].partition("[")[0]
        item.user_properties.append(("fault", (named.args[0], test, sentence, quick, _server(item))))
    if config.getoption("faults") == "all":
        return
    slow = {item for item in here if item.get_closest_marker("quick") is None}
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=list(slow))


def _server(item: pytest.Item) -> str:
    named = getattr(item, "callspec", None)
    server = named.params.get("server") if named else None
    return str(server or ("dovecot" if {"dovecot", "_dovecot"} & set(getattr(item, "fixturenames", ())) else ""))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Writes the table, where it was asked for."""
    if not (path := config.getoption("faults_table")):
        return
    rows = []
    for result in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(result, ()):
            why = f": {report.longrepr[2].removeprefix('Skipped: ')}" if result == "skipped" else ""
            for name, value in getattr(report, "user_properties", ()):
                if name == "fault":
                    rows.append((*value, result + why))
    if rows:
        write(Path(path), rows)
    terminalreporter.write_line(f"{path}: {len({row[0] for row in rows})} of {len(FAULTS)} faults")


@pytest.fixture(scope="session")
def _cyrus() -> Iterator[Cyrus]:
    with Cyrus() as server:
        yield server


@pytest.fixture(params=["dovecot", pytest.param("cyrus", marks=needs_tools)])
def server(request: pytest.FixtureRequest) -> Any:
    """A running server without any mail: Dovecot, then Cyrus."""
    running = request.getfixturevalue("_dovecot" if request.param == "dovecot" else "_cyrus")
    running.empty()
    return running


@pytest.fixture
def house(server: Dovecot | Cyrus, bench: Bench) -> Iterator[House]:
    """A house on each of the two servers; the account is checked when the test is over."""
    yield from kept(server, bench)


@pytest.fixture
def dovecot_house(dovecot: Dovecot, bench: Bench) -> Iterator[House]:
    """A house on Dovecot, for what Cyrus cannot be made to do."""
    yield from kept(dovecot, bench)


def kept(server: Any, bench: Bench) -> Iterator[House]:
    """A house that is checked, once every daemon of it has ended; for a server with options of its own."""
    house = House(server, bench)
    try:
        yield house
        for daemon in bench.started:
            daemon.close()
        house.check()
    finally:
        house.close()
