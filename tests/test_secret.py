"""secret.py: the first place that has it gives the secret, and nothing shows it."""

import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.chainer import ChainerBackend
from keyring.backends.fail import Keyring as NoBackend
from keyring.backends.null import Keyring as NullBackend

from mailtagger import secret
from mailtagger.errors import ConfigError, MailtaggerError, TryLater
from mailtagger.secret import Secret, password

CANARY = "canary-4711"


@dataclass(frozen=True)
class Owner:
    name: str = "home"
    password_command: tuple[str, ...] | None = None
    token_command: tuple[str, ...] | None = None


class Vault(KeyringBackend):
    """A back-end that holds one password."""

    priority = 1  # type: ignore[assignment]

    def __init__(self, value: str | None = None) -> None:
        super().__init__()
        self.value = value

    def get_password(self, service: str, username: str) -> str | None:
        return self.value if (service, username) == ("mailtagger", "home") else None

    def set_password(self, service: str, username: str, password: str) -> None:
        self.value = password


class PlainVault(Vault):
    pass


PlainVault.__module__ = "keyrings.alt.file"


class RenamedPlainVault(PlainVault):
    """What somebody derived from a plain-text back-end."""


class LockedVault(Vault):
    def get_password(self, service: str, username: str) -> str | None:
        raise keyring.errors.KeyringLocked(f"cannot unlock {CANARY}")


@pytest.fixture(autouse=True)
def _nothing_anywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CREDENTIALS_DIRECTORY", "MAILTAGGER_HOME_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    before = keyring.core._keyring_backend
    keyring.set_keyring(NoBackend())
    yield
    keyring.core._keyring_backend = before


@pytest.fixture
def credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return tmp_path / "home.password"


def prints(text: str, then: str = "") -> tuple[str, ...]:
    return (sys.executable, "-c", f"import sys, os, time; print({text!r}, flush=True); {then}")


def test_the_order_of_the_places(credential: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credential, keyring, environment, command: each is asked when those before it have nothing."""
    owner = Owner(password_command=prints("from command"))
    credential.write_text("from credential\n")
    keyring.set_keyring(Vault("from keyring"))
    monkeypatch.setenv("MAILTAGGER_HOME_PASSWORD", "from environment")
    assert password(owner) == Secret("password", "from credential")
    credential.unlink()
    assert password(owner) == Secret("password", "from keyring")
    keyring.set_keyring(NoBackend())
    assert password(owner) == Secret("password", "from environment")
    monkeypatch.delenv("MAILTAGGER_HOME_PASSWORD")
    assert password(owner) == Secret("password", "from command")


def test_a_token_is_a_token() -> None:
    """What token_command prints is for XOAUTH2, not for LOGIN."""
    assert password(Owner(token_command=prints("ya29.x"))) == Secret("token", "ya29.x")


def test_without_any_place_all_are_named() -> None:
    """Status 78, and the four ways out with this account's own names in them."""
    with pytest.raises(ConfigError, match="no password for account home") as caught:
        password(Owner())
    for way in ("credential home.password", "keyring set mailtagger home", "$MAILTAGGER_HOME_PASSWORD",
                "password_command or token_command"):
        assert way in caught.value.way_out


def test_the_variable_of_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capitals; whatever a shell does not allow in a name becomes an underscore."""
    monkeypatch.setenv("MAILTAGGER_ALICE_EXAMPLE_ORG_PASSWORD", "x y ")
    assert password(Owner("alice@example.org")).value == "x y "


@pytest.mark.parametrize("raw", [b"s\xc3\xa4\tp  ", b"s\xc3\xa4\tp  \n", b"s\xc3\xa4\tp  \r\nuser: alice\n"])
def test_the_first_line_alone_and_all_of_it(credential: Path, raw: bytes) -> None:
    """Spaces at the ends belong to the password; what pass keeps below it does not."""
    credential.write_bytes(raw)
    assert password(Owner()).value == "sä\tp  "


@pytest.mark.parametrize(("raw", "problem"), [(b"", "empty line"), (b"\nx", "empty line"), (b"\xff\n", "not UTF-8")])
def test_a_credential_that_is_none(credential: Path, raw: bytes, problem: str) -> None:
    """It is there, so nothing else is tried, and the sentence says what is wrong with it."""
    credential.write_bytes(raw)
    with pytest.raises(ConfigError, match=rf"home.password .*{problem}"):
        password(Owner(password_command=prints("x")))


def test_a_credential_that_cannot_be_read(credential: Path) -> None:
    """A directory in its place, or no right to read it."""
    credential.mkdir()
    with pytest.raises(ConfigError, match=r"home.password cannot be read: Is a directory"):
        password(Owner())


# The keyring


@pytest.mark.parametrize("backend", [PlainVault(CANARY), RenamedPlainVault(CANARY)])
def test_plain_text_back_ends_are_not_asked(backend: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they hold is not used; the error names the back-end and the way out; another place still serves."""
    keyring.set_keyring(backend)
    with pytest.raises(ConfigError, match=r"PlainVault stores plain text and is not asked: uninstall it") as caught:
        password(Owner())
    assert CANARY not in str(caught.value)
    monkeypatch.setenv("MAILTAGGER_HOME_PASSWORD", "from environment")
    assert password(Owner()).value == "from environment"


def test_a_chain_is_asked_without_its_plain_text_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """keyring asks several back-ends at once when several are installed."""
    monkeypatch.setattr(ChainerBackend, "backends", [PlainVault("plain"), Vault(None), Vault("safe")])
    keyring.set_keyring(ChainerBackend())
    assert password(Owner()).value == "safe"
    monkeypatch.setattr(ChainerBackend, "backends", [Vault(None), PlainVault("plain")])
    with pytest.raises(ConfigError, match="stores plain text"):
        password(Owner())


@pytest.mark.parametrize("backend", [NoBackend(), NullBackend(), Vault(None)])
def test_no_back_end_is_no_trouble(backend: KeyringBackend) -> None:
    """A server without a desktop has none; the next place is asked, and the error does not speak of it."""
    keyring.set_keyring(backend)
    assert password(Owner(password_command=prints("x"))).value == "x"
    with pytest.raises(ConfigError) as caught:
        password(Owner())
    assert caught.value.problem == "There is no password for account home."


def test_a_locked_keyring_is_told_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next place is asked; without one the error says that the keyring was locked, not what it said."""
    keyring.set_keyring(LockedVault())
    with pytest.raises(ConfigError, match=r"The keyring cannot be asked \(KeyringLocked\)") as caught:
        password(Owner())
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    monkeypatch.setenv("MAILTAGGER_HOME_PASSWORD", "x")
    assert password(Owner()).value == "x"


def test_keyring_is_imported_only_when_it_is_reached(credential: Path) -> None:
    """A service with a credential neither loads it nor talks to D-Bus."""
    credential.write_text("x")
    code = (
        "import sys; from mailtagger.config import Account; from mailtagger.secret import password\n"
        "password(Account(name='home', host='h', username='u')); assert 'keyring' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


# Commands


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    """Not there, not executable: the key is named, the arguments are not."""
    (tmp_path / "data").write_text("x")
    for program, why in ((tmp_path / "nowhere", "No such file"), (tmp_path / "data", "Permission denied")):
        with pytest.raises(ConfigError, match=f"password_command of account home cannot be started: {why}") as caught:
            password(Owner(password_command=(str(program), CANARY)))
        assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_command_is_run_without_a_shell() -> None:
    """What a shell would act on is only an argument."""
    assert password(Owner(password_command=("echo", "$HOME; echo `x`"))).value == "$HOME; echo `x`"


def test_the_home_directory_in_a_commands_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~/bin/x` works, as no shell is there to replace the ~."""
    (tmp_path / "x").symlink_to("/bin/echo")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert password(Owner(password_command=("~/x", "word"))).value == "word"


@pytest.mark.parametrize(
    ("owner", "kind"),
    [(Owner(password_command=prints("x", "sys.exit(3)")), ConfigError),
     (Owner(token_command=prints("x", "sys.exit(3)")), TryLater)],
)
def test_a_command_that_fails(owner: Owner, kind: type[MailtaggerError]) -> None:
    """A password store fails by its settings; what fetches a token fails when the network does."""
    with pytest.raises(kind, match=r"_command of account home ended with status 3\. Run it by hand"):
        password(owner)


def test_a_command_that_prints_nothing() -> None:
    """An empty password is none."""
    with pytest.raises(ConfigError, match="password_command of account home begins with an empty line"):
        password(Owner(password_command=("true",)))


def test_a_command_that_hangs_ends_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time-out nothing of it is left, though a child of it held the pipe."""
    monkeypatch.setattr(secret, "COMMAND_TIMEOUT", 0.5)
    child = f"sleep 60 & echo $! > {tmp_path / 'pid'}; wait"
    start = time.monotonic()
    with pytest.raises(TryLater, match=r"did not end within 0.5 seconds"):
        password(Owner(password_command=("sh", "-c", child)))
    assert time.monotonic() - start < 5
    stat = Path("/proc") / (tmp_path / "pid").read_text().strip() / "stat"
    for _ in range(100):
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the child is still there")


# Nothing shows it


@pytest.mark.parametrize("key", ["password_command", "token_command"])
@pytest.mark.parametrize(
    "then",
    ["sys.exit(1)", "os.kill(os.getpid(), 9)", "time.sleep(30)", "sys.stdout.buffer.write(b'')"],
    ids=["fails", "is killed", "hangs", "prints"],
)
def test_no_output_shows_a_secret(
    key: str, then: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A command prints its secret to both outputs and fails, hangs or works: no log, traceback or terminal has it."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(secret, "COMMAND_TIMEOUT", 1.0)
    owner = Owner(**{key: prints(CANARY, f"print({CANARY!r}, file=sys.stderr, flush=True); {then}")})
    try:
        shown = repr(password(owner)) + str(password(owner)) + f"{password(owner)}"
    except MailtaggerError as error:
        logging.getLogger("mailtagger").exception("failed")
        shown = "".join(traceback.format_exception(error)) + repr(error) + str(error.__cause__)
    out, err = capfd.readouterr()
    assert CANARY not in shown + out + err + caplog.text


def test_a_repr_tells_the_kind() -> None:
    """That is enough for a log."""
    assert repr(Secret("token", CANARY)) == "Secret(kind='token')"
