"""Every error that a person is meant to read.

    MailtaggerError          exit status 1: something failed
    ├── ConfigError          78: the configuration (all its problems at once)
    ├── TryLater             75: the server cannot be reached or is busy; the same command may succeed later
    ├── LoginRefused          1: the server refused the user name, password or token
    ├── MailboxError          1: certificate, folder or rights; repeating will not help
    ├── ModelError            1: a model directory that is missing, corrupt or of another version
    └── StateError            1: the state directory or its database

A MailtaggerError is one sentence with the problem and one with the way out; `cli.main` prints it without a traceback.
"""

from collections.abc import Sequence


class MailtaggerError(Exception):
    """A problem and the way out, both in plain words; no secret and no mail text ever stands in them."""

    exit_status = 1

    def __init__(self, problem: str, way_out: str = "") -> None:
        super().__init__(f"{problem} {way_out}".strip())
        self.problem = problem
        self.way_out = way_out


class ConfigError(MailtaggerError):
    """The configuration cannot be used; `problems` has one line each, with file and line number."""

    exit_status = 78

    def __init__(self, problem: str, way_out: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(problem, way_out)
        self.problems = tuple(problems)


class TryLater(MailtaggerError):
    """The server is unreachable, busy, or the connection was lost."""

    exit_status = 75


class LoginRefused(MailtaggerError):
    """The server knows neither this user with this password nor this token."""


class MailboxError(MailtaggerError):
    """The server answered, and repeating the request will not help."""


class ModelError(MailtaggerError):
    """A model directory is missing, damaged, of another version, or made under other cleaning rules."""


class StateError(MailtaggerError):
    """The state directory or the journal in it cannot be used."""
