"""The password or token of an account: systemd credential → keyring → environment → command; shown nowhere."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from mailtagger.errors import ConfigError, TryLater

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE = "mailtagger"
COMMAND_TIMEOUT = 30.0
PASSWORDS = re.compile("MAILTAGGER_.*_PASSWORD")


class Owner(Protocol):
    """What is read of `config.Account`."""

    @property
    def name(self) -> str: ...
    @property
    def password_command(self) -> Sequence[str] | None: ...
    @property
    def token_command(self) -> Sequence[str] | None: ...


@dataclass(frozen=True)
class Secret:
    """What logs an account in; its repr tells the kind only."""

    kind: Literal["password", "token"]
    value: str = field(repr=False)

    def hidden(self, text: str) -> str:
        """The text without it: a server may repeat what it was sent."""
        return text.replace(self.value, "***")


def variable(account: str) -> str:
    """The environment variable that may hold this account's password."""
    return f"MAILTAGGER_{re.sub('[^A-Z0-9]', '_', account.upper())}_PASSWORD"


def password(account: Owner) -> Secret:
    """The account's secret from the first place that has one; ConfigError with all places when none has."""
    if (value := _credential(account.name)) is not None:
        return Secret("password", value)
    value, trouble = _from_keyring(account.name)
    if value is None:
        value = os.environ.get(variable(account.name)) or None
    if value is not None:
        return Secret("password", value)
    if account.password_command:
        return Secret("password", _printed(account.name, "password_command", account.password_command))
    if account.token_command:
        return Secret("token", _printed(account.name, "token_command", account.token_command))
    raise ConfigError(
        f"There is no password for account {account.name}." + (f" {trouble}" if trouble else ""),
        f"Give it as the systemd credential {account.name}.password, in the keyring (keyring set {SERVICE}"
        f" {account.name}), in ${variable(account.name)}, or set password_command or token_command.",
    )


def _credential(name: str) -> str | None:
    if not (directory := os.environ.get("CREDENTIALS_DIRECTORY")):
        return None
    path = Path(directory) / f"{name}.password"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"The credential {path} cannot be read: {error.strerror}."
        raise ConfigError(problem, "Look at LoadCredential= in the unit.") from None
    return _first_line(raw, f"The credential {path}", "Write the password into it, as one line.")


def _from_keyring(name: str) -> tuple[str | None, str]:
    """The password, or None and what kept us from asking, as a sentence."""
    trouble = ""
    try:
        import keyring

        chosen = keyring.get_keyring()
        for backend in getattr(chosen, "backends", [chosen]):  # the chainer asks several
            if _is_plain(backend):
                trouble = (f"The keyring back-end {_kind(backend)} stores plain text and is not asked: uninstall it, or"
                           " choose another in keyringrc.cfg.")
            elif (value := backend.get_password(SERVICE, name)) is not None:
                return str(value), ""
    # Back-ends raise what their D-Bus, COM or vault library raises. Only the class is told: the text may hold anything.
    except Exception as error:
        absent = type(error).__name__ == "NoKeyringError"
        trouble = "" if absent else f"The keyring cannot be asked ({type(error).__name__})."
    return None, trouble


def _is_plain(backend: "KeyringBackend") -> bool:
    kinds = [f"{kind.__module__}.{kind.__qualname__}".lower() for kind in type(backend).__mro__]
    return any(kind.startswith("keyrings.alt.") or "plaintext" in kind for kind in kinds)


def _kind(backend: "KeyringBackend") -> str:
    return f"{type(backend).__module__}.{type(backend).__qualname__}"


def _printed(name: str, key: str, command: Sequence[str]) -> str:
    """The first line that the command prints; what it says besides goes nowhere, for it may be the secret."""
    problem = f"The {key} of account {name}"
    way_out = "Run it by hand to see why, as the user that runs mailtagger."
    try:
        process = subprocess.Popen(
            [str(Path(command[0]).expanduser()), *command[1:]], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if not PASSWORDS.fullmatch(key)},  # not its business
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a command"
        raise ConfigError(f"{problem} cannot be started: {why}.", "Give the program's full path.") from None
    with process:
        try:
            raw, _ = process.communicate(timeout=COMMAND_TIMEOUT)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its children too: one that holds the pipe would keep us here
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise TryLater(f"{problem} did not end within {COMMAND_TIMEOUT:g} seconds.", way_out) from None
    if process.returncode:
        # A password store fails by its settings; what fetches tokens fails when the network does.
        failed = ConfigError if key == "password_command" else TryLater
        raise failed(f"{problem} ended with status {process.returncode}.", way_out)
    return _first_line(raw, problem, way_out)


def _first_line(raw: bytes, source: str, way_out: str) -> str:
    try:
        value = raw.split(b"\n", 1)[0].removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{source} is not UTF-8.", way_out) from None
    if not value:
        raise ConfigError(f"{source} begins with an empty line.", way_out)
    return value
