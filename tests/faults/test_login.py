"""Faults 20 to 26: authentication and TLS."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailtagger import worker
from tests.faults.conftest import kept
from tests.faults.house import Cyrus, House, Tap
from tests.imap_server import Tool, needs_tools
from tests.running import Bench

pytestmark = needs_tools

keeping = contextlib.contextmanager(kept)
TRIED = "^(LOGIN|AUTHENTICATE) "
NO_PASSWORD = {"MAILTAGGER_HOME_PASSWORD": ""}  # so that the command is asked
FEW = 1.0  # seconds between the first tries here; worker.FEW otherwise
SOON = "import os; os.environ['MAILTAGGER_HOME_PASSWORD'] = '{}'; worker.FEW = " + str(FEW)


def scan(house: House, **environment: str) -> subprocess.CompletedProcess[str]:
    """`mailtagger scan` on the same configuration, as a person would try it."""
    command = [sys.executable, "-m", "mailtagger", "--config", str(house.bench.path), "scan", "--folder", "INBOX"]
    own = {"MAILTAGGER_HOME_PASSWORD": "secret", "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    return subprocess.run(command, env=os.environ | own | environment, capture_output=True, text=True, timeout=60)


def noted(house: House, *prints: str) -> tuple[list[str], Path]:
    """A command that prints these secrets in turn, the last for good, and a file with a line for each time it ran."""
    ran, secrets = house.bench.directory / "ran", house.bench.directory / "secrets"
    secrets.write_text("".join(f"{one}\n" for one in prints))
    return ["sh", "-c", 'echo >>"$0"; sed -n "$(wc -l <"$0")p;\\$p" "$1"', str(ran), str(secrets)], ran


def times(ran: Path) -> int:
    return len(ran.read_text().splitlines()) if ran.exists() else 0


@pytest.mark.fault(20)
def test_20_wrong_password_is_tried_three_times_and_then_not_for_minutes(house: House) -> None:
    """Three tries at most, then none for minutes, whatever wakes the daemon; the message names the setting, once."""
    proxy = house.proxy(tap=(tap := Tap()))
    house.configure(proxy, folders=["INBOX", "Archive"])
    house.deliver(house.spam())
    daemon = house.bench.start_with(SOON.format("no"))
    daemon.until(lambda: len(tap.commands(TRIED)) == worker.REFUSED_TRIES, 60)
    time.sleep(4 * FEW)  # three workers, a poll interval of a second
    assert len(tap.commands(TRIED)) == worker.REFUSED_TRIES == 3
    first, second, third = (at for _, command, at in tap.heard if command.startswith("LOGIN"))
    assert min(second - first, third - second) > FEW / 2
    assert (worker.FEW, worker.REFUSED_WAIT) == (5, 900)
    assert daemon.hears("READY=1")  # systemd would start it again, for three tries more
    assert daemon.log.count("refuses the password of alice") == 1
    assert "Check `username`, and where the secret comes from" in daemon.log
    assert house.rows("SELECT kind FROM notes") == [("login",)]


@pytest.mark.quick
@pytest.mark.fault(20)
def test_20_wrong_password_in_a_command(house: House) -> None:
    """One try; the sentence names the setting, the exit status is 1."""
    proxy = house.proxy(tap=(tap := Tap()))
    house.configure(proxy)
    said = scan(house, MAILTAGGER_HOME_PASSWORD="no")
    assert said.returncode == 1
    assert "refuses the password of alice" in said.stderr
    assert "Check `username`" in said.stderr
    assert "Traceback" not in said.stderr
    assert len(tap.commands(TRIED)) == 1


@pytest.mark.quick
@pytest.mark.parametrize("answer", ["NO [UNAVAILABLE] later", "NO Temporary internal error. Please try again."])
@pytest.mark.fault(21)
def test_21_unavailable_at_login_is_no_wrong_password(house: House, answer: str) -> None:
    """It is tried again soon, and nobody is told of a wrong password."""
    proxy = house.proxy(("client", "refuse@1", "LOGIN", answer))
    house.configure(proxy)
    daemon = house.start()
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    assert "does not let alice in at the moment" in daemon.log
    assert "refuses the password" not in daemon.log
    assert house.rows("SELECT text FROM notes") == []


@pytest.fixture
def with_tokens(bench: Bench) -> Iterator[House]:
    """A house on a server that takes tokens."""
    with Tool("dovecot-up") as server:
        yield from kept(server, bench)


def token(house: House, seconds: int) -> str:
    """An access token of alice's that is good for so long."""
    made = subprocess.run([house.server.env["OAUTH_TOKEN"], "alice", str(seconds)], capture_output=True, check=True)
    return made.stdout.decode().strip()


@pytest.mark.quick
@pytest.mark.fault(22)
def test_22_expired_token_is_fetched_again(with_tokens: House) -> None:
    """The command is run again once, and its new token lets the daemon in without a word."""
    house = with_tokens
    proxy = house.proxy(strip=["AUTH=OAUTHBEARER"], tap=(tap := Tap()))
    command, ran = noted(house, token(house, -10), token(house, 600))
    house.configure(proxy, token_command=command, folders=["INBOX"])
    daemon = house.bench.start(**NO_PASSWORD).ready()
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    daemon.until(lambda: len(tap.commands(TRIED)) == 3)  # two of who came first, one of the other connection
    assert times(ran) == 3
    assert "WARNING" not in daemon.log
    assert "eyJ" not in daemon.log


@pytest.mark.parametrize(("mechanism", "other"), [("XOAUTH2", "OAUTHBEARER"), ("OAUTHBEARER", "XOAUTH2")])
@pytest.mark.fault(22)
def test_22_expired_tokens_only(with_tokens: House, mechanism: str, other: str) -> None:
    """Each try runs the command again once, and after three tries it is as with a wrong password."""
    house = with_tokens
    proxy = house.proxy(strip=[f"AUTH={other}"], tap=(tap := Tap()))
    command, ran = noted(house, *(token(house, -10 * number) for number in range(1, 12)))
    house.configure(proxy, token_command=command)
    daemon = house.bench.start_with(SOON.format(""))
    daemon.until(lambda: times(ran) == 2)
    said = scan(house, **NO_PASSWORD)
    assert said.returncode == 1
    assert "refuses the token of alice" in said.stderr
    daemon.until(lambda: times(ran) == 2 + 2 * worker.REFUSED_TRIES, 60)
    time.sleep(4 * FEW)
    assert times(ran) == 2 + 2 * worker.REFUSED_TRIES
    assert len(tap.commands(f"^AUTHENTICATE {mechanism}")) == times(ran)
    assert daemon.log.count("refuses the token of alice") == 1
    assert "where the secret comes from" in daemon.log


@pytest.fixture(scope="module", params=["dovecot", "cyrus"])
def showing(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A function that starts a server which shows a certificate of a kind."""
    with contextlib.ExitStack() as open_:
        servers: dict[str, Any] = {}

        def start(kind: str) -> Any:
            if kind not in servers:
                made = open_.enter_context(Tool("dovecot-up", "--cert", kind))
                servers[kind] = made if request.param == "dovecot" else open_.enter_context(Cyrus())
                if made is not servers[kind]:
                    source, target = (Path(one.ca_file).parent for one in (made, servers[kind]))
                    for name, copy in ((f"server-{kind}.pem", "server.pem"), ("server.key",) * 2, ("ca.pem",) * 2):
                        shutil.copyfile(source / name, target / copy)
            return servers[kind]

        yield start


CERTIFICATES = [
    pytest.param("expired", True, ["certificate has expired", "It has to be renewed on the server"],
                 marks=pytest.mark.fault(23)),
    pytest.param("wronghost", True, ["is for elsewhere.example, not for 127.0.0.1", "Set `host` to a name"],
                 marks=pytest.mark.fault(24)),
    pytest.param("selfsigned", True, ["self-signed certificate", "set `ca_file`"], marks=pytest.mark.fault(24)),
    pytest.param("good", False, ["unable to get local issuer certificate", "set `ca_file`"],
                 marks=pytest.mark.fault(24)),
]  # fmt: skip


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize(("kind", "with_ca", "words"), CERTIFICATES)
def test_23_24_certificate_that_proves_nothing(
    showing: Any, bench: Bench, kind: str, with_ca: bool, words: list[str], tls: str
) -> None:
    """Refused, with OpenSSL's reason and the way out; the password is not asked for, and nothing said in the clear."""
    server = showing(kind)
    with keeping(server, bench) as house:
        command, ran = noted(house, "secret")
        port = server.imaps_port if tls == "implicit" else server.port
        ca_file = str(server.ca_file) if with_ca else None
        house.configure(server, port=port, tls=tls, ca_file=ca_file, password_command=command)
        daemon = house.bench.start(**NO_PASSWORD)
        daemon.until(lambda: all(word in daemon.log for word in words))
        said = scan(house, **NO_PASSWORD)
        assert said.returncode == 1
        assert all(word in said.stderr for word in words)
        assert times(ran) == 0
        assert daemon.log.count(words[0]) == 2  # the watcher, and who follows what the user does
        assert "ready" not in daemon.log


STRIPPED = {
    "left out": [],
    "refused": [("server", "sub", "IMAP4rev1", "IMAP4rev1 STARTTLS"), ("client", "refuse", "STARTTLS", "NO not today")],
    "greeted as known": [("server", "sub", r"^\* OK", "* PREAUTH")],
    "nonsense": [("server", "sub", "IMAP4rev1", "IMAP4rev1 STARTTLS"), ("client", "refuse", "STARTTLS", "OK go on")],
}


@pytest.mark.parametrize("how", [pytest.param("left out", marks=pytest.mark.quick), *list(STRIPPED)[1:]])
@pytest.mark.fault(25)
def test_25_starttls_stripped_by_a_man_in_the_middle(house: House, how: str) -> None:
    """No login without TLS unless told so: nobody hears the password, and the way out is named."""
    proxy = house.proxy(*STRIPPED[how], tap=(tap := Tap()))
    command, ran = noted(house, "secret")
    house.configure(proxy, tls="starttls", ca_file=str(house.server.ca_file), password_command=command)
    daemon = house.bench.start(**NO_PASSWORD)
    daemon.until(lambda: "WARNING" in daemon.log)
    said = scan(house, **NO_PASSWORD)
    assert said.returncode in (1, 75)
    if how in ("left out", "greeted as known"):
        assert said.returncode == 1
        assert "does not offer STARTTLS; the password was not sent" in said.stderr
        assert "does not offer STARTTLS; the password was not sent" in daemon.log
    assert tap.heard
    assert tap.commands(TRIED) == []
    assert times(ran) == 0


@pytest.mark.quick
@pytest.mark.fault(26)
def test_26_capabilities_are_asked_for_after_login(house: House) -> None:
    """What is announced only after login is used: MOVE."""
    proxy = house.proxy(("server", "sub@1", r"\bMOVE ?", ""), ("server", "sub@1", r"\bIDLE ?", ""), tap=(tap := Tap()))
    house.configure(proxy)
    daemon = house.start()
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    assert tap.heard[0][1].startswith("LOGIN") or tap.commands("^LOGIN")
    assert "CAPABILITY" in [command for _, command, _ in tap.heard]
    assert len(tap.commands("UID MOVE")) == 1
    assert tap.commands("^IDLE")


@pytest.mark.fault(26)
def test_26_capabilities_that_went_at_login_are_not_used(house: House) -> None:
    """What only the greeting promised is not used."""
    proxy = house.proxy(("server", "sub@1", "IMAP4rev1", "IMAP4rev1 MOVE"), strip=["MOVE"], tap=(tap := Tap()))
    house.configure(proxy)
    daemon = house.start()
    [one] = house.drop(house.spam())
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    assert tap.commands("UID MOVE") == []
    assert len(tap.commands("UID COPY")) == 1
