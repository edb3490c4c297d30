"""Faults 11 to 15: the daemon waits for mail, and for a server that is silent or slow."""

import time
from collections.abc import Iterator

import pytest

from mailtagger import imap_reader
from tests.faults.conftest import kept
from tests.faults.house import House, Tap
from tests.imap_server import Tool, needs_tools
from tests.running import Bench, message
from tests.tiny_model import HAM_TEXT

pytestmark = needs_tools

SOME_TIME = 60.0  # seconds to wait for what is meant to be slow


# IDLE


@pytest.mark.quick
@pytest.mark.fault(11)
def test_11_bye_to_a_client_that_idles(house: House) -> None:
    """A quiet reconnect, without a warning, and the mail that came in between is found at once."""
    said_bye = ("server", "sub@1", r"^\+ idling\r\n", "+ idling\r\n* BYE Disconnected for inactivity\r\n")
    house.configure(house.proxy(said_bye, ("server", "cutpast", "BYE")), poll_seconds=3600)
    daemon = house.start()
    daemon.until(lambda: "was lost (waiting for news)" in daemon.log)
    [one] = house.drop(house.spam())
    daemon.until(house.moved)
    assert house.inside("Junk") == {one}
    assert " WARNING " not in daemon.log


@pytest.mark.fault(11)
def test_11_idle_is_renewed(house: House) -> None:
    """Long before 29 minutes IDLE is ended and begun anew on the same connection, and still tells of new mail."""
    assert imap_reader.RENEW < 29 * 60 / 2
    proxy = house.proxy(tap=(tap := Tap()))
    house.configure(proxy, poll_seconds=3600)
    daemon = house.bench.start_with("imap_reader.RENEW = 0.5").ready()
    daemon.until(lambda: len(tap.commands("^IDLE")) > 3 and sum(tag == "DONE" for tag, _, _ in tap.heard) >= 3)
    [one] = house.drop(house.spam())
    daemon.until(house.moved)
    assert house.inside("Junk") == {one}
    assert proxy.count == 2  # one to watch, one to follow


@pytest.mark.quick
@pytest.mark.fault(12)
def test_12_idle_that_never_notifies(house: House) -> None:
    """Within the poll interval the mail is found without IDLE's help, which stays in use."""
    silent = ("server", "drop*", r"^\* \d+ (EXISTS|RECENT)")
    house.configure(house.proxy(silent, tap=(tap := Tap())), poll_seconds=1)
    daemon = house.start()
    daemon.until(lambda: tap.commands("^IDLE"))
    [one] = house.drop(house.spam())
    daemon.until(house.moved, seconds=10)
    assert house.inside("Junk") == {one}


@pytest.mark.quick
@pytest.mark.fault(13)
def test_13_no_idle(house: House) -> None:
    """Polling alone finds the mail; IDLE is not asked for."""
    house.configure(house.proxy(strip=["IDLE"], tap=(tap := Tap())))
    daemon = house.start()
    [one] = house.drop(house.spam())
    house.check_moved(daemon, one)
    assert tap.commands("^IDLE") == []


@pytest.fixture
def plain_house(bench: Bench) -> Iterator[House]:
    """A house on a Dovecot that offers IMAP4rev1, UIDPLUS and no more."""
    with Tool("dovecot-up", "--capability", "IMAP4rev1 UIDPLUS AUTH=PLAIN") as server:
        yield from kept(server, bench)


@pytest.mark.fault(13)
def test_13_hardly_any_capability(plain_house: House) -> None:
    """Without IDLE, MOVE, CONDSTORE, SPECIAL-USE and NAMESPACE the mail is found by polling, and copied to Junk."""
    plain_house.configure(spam_folder="Junk")
    daemon = plain_house.start()
    [one] = plain_house.drop(plain_house.spam())
    plain_house.check_moved(daemon, one)


# Silence, and little speech


@pytest.mark.fault(14)
def test_14_half_open_while_it_waits(house: House) -> None:
    """After the read time-out the connection is given up, and as soon as the network is back there is a new one."""
    proxy = house.proxy()
    house.configure(proxy, read_timeout=2, connect_timeout=2)
    daemon = house.start()
    before, began, proxy.frozen = proxy.count, time.monotonic(), True
    daemon.until(lambda: "did not answer in time" in daemon.log)
    daemon.until(lambda: proxy.count > before)
    assert time.monotonic() - began < 15
    daemon.until(lambda: "does not answer" in daemon.log)  # nor is the greeting of the next one waited for any longer
    [one] = house.drop(house.spam())
    proxy.frozen = False
    house.check_moved(daemon, one)


@pytest.mark.fault(14)
@pytest.mark.parametrize("act", ["UID MOVE", "UID STORE"])
def test_14_half_open_in_an_act(house: House, act: str) -> None:
    """What is still under way when it is given up reaches the server late: the message is moved once all the same."""
    proxy = house.proxy()
    proxy.rules.append(Tap(act, lambda: setattr(proxy, "frozen", True)))
    house.configure(proxy, read_timeout=2, connect_timeout=2)
    daemon = house.start()
    [one] = house.drop(house.spam())
    daemon.until(lambda: f"did not answer in time ({act[4:]} in INBOX)" in daemon.log)
    proxy.rules.clear()
    proxy.frozen = False
    house.check_moved(daemon, one)


@pytest.mark.fault(15)
def test_15_slow_line(house: House) -> None:
    """At 8 kB a second a message takes longer than the read time-out, which is for silence: no time-out, no cut."""
    proxy = house.proxy()
    house.configure(proxy, read_timeout=2)
    daemon = house.start()
    proxy.throttle = 8000
    one, other = house.drop(message(400 * HAM_TEXT, "ham-long"), house.spam())
    daemon.until(house.moved, SOME_TIME)
    assert (house.inside("INBOX"), house.inside("Junk")) == ({one}, {other})
    assert proxy.count == 2
    assert "in time" not in daemon.log


@pytest.mark.fault(15)
def test_15_slow_server(house: House) -> None:
    """Every line comes late, and an answer of several takes longer than the read time-out: no time-out, no cut."""
    proxy = house.proxy(delay=0.4)
    house.configure(proxy, read_timeout=2)
    daemon = house.bench.start()
    daemon.until(lambda: daemon.hears("READY=1"), SOME_TIME)
    [one] = house.drop(house.spam())
    daemon.until(house.moved, SOME_TIME)
    assert house.inside("Junk") == {one}
    assert proxy.count == 2
    assert "in time" not in daemon.log
