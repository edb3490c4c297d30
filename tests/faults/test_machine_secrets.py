"""Fault 82: passwords, tokens and what is written in mails, looked for in all that the daemon leaves and shows."""

import itertools
import re
from pathlib import Path

import pytest

from tests.faults.house import House
from tests.running import WON, Bench, Daemon, account, message
from tests.scripted_server import HANG_UP, Scripted

PASSWORD, TOKEN, BODY, SUBJECT = "canary-passw0rd", "canary-t0ken", "canarybodyword", "canarysubjectword"
SPELLED = "Y2FuYXJ5"  # "canary" in base64, as SASL sends it
POISON = "from mailtagger.score import Scorer; from mailtagger import parse, judge; " \
         "judge.clean = lambda mail: (_ for _ in ()).throw(ValueError(repr(mail)))"


def shown(daemon: Daemon) -> dict[str, bytes]:
    """What anybody who looks at the processes can see of it, and its own user of its children."""
    pid = daemon.process.pid
    found = {"ps": Path(f"/proc/{pid}/cmdline").read_bytes()}
    children = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    for child in itertools.chain.from_iterable(children):
        for name in "cmdline", "environ":
            found[f"{name} of a child"] = Path(f"/proc/{child}/{name}").read_bytes()
    return found


def left(bench: Bench) -> dict[str, bytes]:
    """The log, and every file of the state directory."""
    files = [bench.path.with_suffix(".log"), *(bench.directory / "state").rglob("*")]
    return {str(file): file.read_bytes() for file in files if file.is_file()}


def clear_of(words: str, *places: dict[str, bytes]) -> None:
    for place in places:
        for name, content in place.items():
            found = re.search(rb"[^\n]{0,60}(?i:" + words.encode() + rb")[^\n]{0,60}", content)
            assert not found, f"{name}: {found[0]!r}"


ALL = f"canary|{SPELLED}"
NO_TEXT = f"{BODY}|passw0rd|t0ken|{SPELLED}"  # the subject may be in the log at debug


@pytest.mark.fault(82)
@pytest.mark.parametrize(("rules", "said"), [
    pytest.param({"^LOGIN": "{tag} NO [AUTHENTICATIONFAILED] no such password"}, "refuses the password",
                 marks=pytest.mark.quick),
    ({"^LOGIN": lambda line: f"* OK [ALERT] you said {line}\n{{tag}} NO {line}"}, "refuses the password"),
    ({"^LOGIN": lambda line: f"{{tag}} BAD {line}"}, "refuses the password"),
    ({"^LOGIN": lambda line: f"* BYE {line}\n{HANG_UP}"}, "lost"),
    ({"^LOGIN": lambda line: f"garbage {line}\n{{tag}} OK done"}, "no sense"),
    ({"^LOGIN": HANG_UP}, "lost"),
])
def test_82_a_password_in_a_login_that_fails(bench: Bench, rules: dict[str, object], said: str) -> None:
    """Refused, cut or repeated by the server, it stands nowhere: not in the log at debug, nor in `ps`, nor in the
    state."""
    with Scripted(rules) as server:  # type: ignore[arg-type]
        bench.configure(account(server, read_timeout=2), log={"level": "debug"})
        daemon = bench.start(MAILTAGGER_HOME_PASSWORD=PASSWORD)
        daemon.until(lambda: said in daemon.log)
        clear_of(ALL, shown(daemon))
        daemon.end()
    clear_of(ALL, left(bench))


@pytest.mark.fault(82)
def test_82_a_token_that_is_refused(bench: Bench) -> None:
    """Asked for twice, refused twice: it stands nowhere, plain or in base64."""
    refusal = "+ eyJzdGF0dXMiOiI0MDAifQ=="
    rules = {"^AUTHENTICATE": refusal, "^$|^Y|^[A-Za-z0-9+/=]{20,}$": "{tag} NO [AUTHENTICATIONFAILED] expired"}
    with Scripted(rules, capabilities="IMAP4rev1 AUTH=XOAUTH2 SASL-IR") as server:  # type: ignore[arg-type]
        command = ["sh", "-c", f"echo {TOKEN[:7]}'{TOKEN[7:]}'"]
        bench.configure(account(server, name="token", token_command=command, read_timeout=2), log={"level": "debug"})
        daemon = bench.start()
        daemon.until(lambda: "WARNING token" in daemon.log)
        clear_of(ALL, shown(daemon))
        daemon.end()
    clear_of(f"{TOKEN}|{SPELLED}", left(bench))


@pytest.mark.fault(82)
def test_82_what_a_command_for_one_password_sees_of_another(bench: Bench) -> None:
    """The other accounts' passwords are not in the environment of a password_command."""
    with Scripted() as server:
        marker = bench.directory / "asked"
        command = ["sh", "-c", f"touch {marker}; exec sleep 20"]
        bench.configure(account(server), account(server, name="store", username="bob", password_command=command))
        daemon = bench.start(MAILTAGGER_HOME_PASSWORD=PASSWORD)
        daemon.until(marker.exists)
        seen = shown(daemon)
        assert "environ of a child" in seen
        clear_of(ALL, seen)


@pytest.mark.fault(82)
@pytest.mark.parametrize(("rule", "change", "said"), [
    (("server", "cut", "NOTHING"), "pass", "moved"),
    (("client", "cut", "UID MOVE"), "pass", "lost"),
    (("client", "refuse", "UID (MOVE|COPY)", "NO [OVERQUOTA] full"), "pass", "OVERQUOTA|full"),
    (("client", "refuse@1", "UID FETCH.*BODY", "BAD what"), "pass", "refuses"),
    (("server", "inject@1", f"{BODY}", "* 7 NONSENSE"), "pass", "moved"),
    (("server", "cut", "NOTHING"), POISON, "could not be judged: ValueError"),
])
def test_82_the_text_of_a_mail(dovecot_house: House, rule: tuple[str, ...], change: str, said: str) -> None:
    """Whatever breaks while it is read, judged or moved: its body is nowhere but on the server, its subject in the log
    at debug alone."""
    house = dovecot_house
    house.configure(house.proxy(rule), log={"level": "debug"})
    daemon = house.bench.start_with(f"{change}; worker.FIRST_WAIT = 0.2").ready()
    house.drop(message(f"{WON} {BODY} " * 30, "spam-c", f"A {SUBJECT}"))
    daemon.until(lambda: re.search(said, daemon.log))
    clear_of(NO_TEXT, shown(daemon))
    daemon.end()
    found = left(house.bench)
    clear_of(NO_TEXT, found)
    clear_of(SUBJECT, {name: content for name, content in found.items() if not name.endswith(".log")})


@pytest.mark.quick
@pytest.mark.fault(82)
def test_82_the_text_of_a_mail_without_debug(house: House) -> None:
    """Neither its subject nor its body is in the log or the state, though it was marked, moved and journalled."""
    house.configure()
    daemon = house.start()
    [one] = house.drop(message(f"{WON} {BODY} " * 30, "spam-c", f"A {SUBJECT}"))
    daemon.until(lambda: house.inside("Junk") == {one} and house.settled())
    clear_of(ALL, shown(daemon))
    daemon.end()
    clear_of(ALL, left(house.bench))
