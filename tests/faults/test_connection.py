"""Faults 1 to 19: the connection."""

import pytest

from tests.faults.house import House
from tests.imap_server import needs_tools

pytestmark = needs_tools


@pytest.mark.quick
@pytest.mark.fault(4)
def test_04_move_done_and_its_answer_lost(house: House) -> None:
    """It is found in Junk, not moved again, and not taken for the user's word."""
    house.configure(house.proxy(("reply", "cut", "UID MOVE")))
    daemon = house.start()
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    assert house.rows("SELECT count(*) FROM lessons") == [(0,)]
