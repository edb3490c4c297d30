"""The gauge that the load and the soak test read: it sees a process, and tells growth from noise."""

import os
import threading

import pytest

from tests.gauge import Gauge, Reading


def test_it_reads_a_process() -> None:
    """Its own: memory in MB, open files, and the gauge's thread beside the others."""
    with Gauge(os.getpid(), 0.01) as gauge:
        while len(gauge.readings) < 3:
            threading.Event().wait(0.01)
    assert gauge.readings[-1].megabytes > 5
    assert gauge.readings[-1].files > 2
    assert gauge.readings[-1].threads >= 2
    assert gauge.table().count("\n") >= 3


@pytest.mark.parametrize(("leak", "growth"), [(0.0, 0.0), (0.5, 10.0)])
def test_growth_is_not_of_the_peaks(leak: float, growth: float) -> None:
    """A start that takes more, and a peak at the end, are none."""
    gauge = Gauge(os.getpid(), 1.0)
    gauge.readings = [Reading(n, 100 + leak * n + 50 * (n in (0, 39)), 10, 5) for n in range(40)]
    assert gauge.growth("megabytes") == growth
    assert gauge.growth("files") == 0


def test_connections_that_were_down_half_the_time_are_no_growth_later() -> None:
    """Descriptors: 14 while all is well, 8 while it is not; three more for good are seen all the same."""
    gauge = Gauge(os.getpid(), 1.0)
    gauge.readings = [Reading(n, 100, 8 if n < 30 and n % 5 < 3 else 14, 5) for n in range(40)]
    assert gauge.growth("files") == 0
    gauge.readings = [Reading(n, 100, 14 + 3 * (n >= 20), 5) for n in range(40)]
    assert gauge.growth("files") == 3


def test_a_process_that_has_ended_is_not_read() -> None:
    """Nor does the gauge end with it."""
    with Gauge(1 << 22, 0.001) as gauge:
        threading.Event().wait(0.05)
    assert gauge.readings == []
