"""The YAML file → typed settings; every problem in it is found at once, each with its line, path and a sentence."""

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from mailtagger.errors import ConfigError
from mailtagger.secret import variable
from mailtagger.yamlfile import EXAMPLE, Location, read

# RFC 3501 `atom`: printable ASCII without ( ) { space % * " \ ]. Dovecot keeps up to 50 characters.
ATOM = re.compile(r"""[!#$&'+-\[^-z|}~]{1,50}""")
# Thunderbird's labels and the words for the opposite: a mail program would show or learn something else than we mean.
TAKEN = re.compile(r"\$label[1-5]|\$?notjunk|nonjunk|\$forwarded|\$mdnsent", re.IGNORECASE)
SECRETS = {"password", "passwd", "pass", "passphrase", "secret", "token", "access_token", "refresh_token"}


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must be one line of text")
    return text


def _keyword(text: str) -> str:
    if not ATOM.fullmatch(text):
        raise ValueError("must be an IMAP keyword: 1 to 50 ASCII characters without spaces and ( ) { % * \" \\ ]")
    if TAKEN.fullmatch(text):
        raise ValueError("is a keyword that mail programs use for something else")
    return text


def _path(path: Path, info: ValidationInfo) -> Path:
    if "$" in str(path):
        raise ValueError("variables are not replaced here (~ is)")
    try:
        path = path.expanduser()
    except RuntimeError:
        raise ValueError("begins with the home directory of a user who has none") from None
    directory: Path = (info.context or {}).get("directory", Path())
    return directory / path  # a relative path counts from the file it stands in


def _state_dir() -> Path:
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]  # systemd.exec(5): several are separated by colons
    return Path(given) if given else Path("~/.local/state/mailtagger").expanduser()


Line = Annotated[str, AfterValidator(_one_line)]
Keyword = Annotated[str, AfterValidator(_keyword)]
FilePath = Annotated[Path, AfterValidator(_path)]
Cutoff = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[int, Field(ge=1, le=86400)]
Patterns = tuple[Line, ...]
Command = Annotated[tuple[Line, ...], Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Brake(_Section):
    """When a pass stops and asks instead of moving: more messages than this, and a larger share of the pass."""

    messages: int = Field(default=30, ge=0, description="A pass that moves no more than this many never stops.")
    share: float = Field(default=0.30, ge=0, le=1, description="Nor does one that moves no more than this share.")


class Keywords(_Section):
    """The marks on the server."""

    spam: Keyword = Field(default="MailtaggerSpam", description="Set on spam.")
    unsure: Keyword = Field(default="MailtaggerUnsure", description="Set on mail that may be spam.")
    junk: bool = Field(default=True, description="Also set $Junk on spam, which many mail programs show.")

    @field_validator("unsure")
    @classmethod
    def _differs(cls, unsure: str, info: ValidationInfo) -> str:
        if unsure.lower() in (info.data.get("spam", "").lower(), "$junk"):  # keywords have no case on the server
            raise ValueError("must differ from the keyword for spam")
        return unsure


class LogSettings(_Section):
    """What goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug also shows subjects; bodies and secrets are never logged.")
    format: Literal["plain", "json"] = Field(default="plain", description="json: one object a line.")


class Account(_Section):
    """One login on one server, and the folders watched there."""

    name: Line = Field(description="A short name of your choice; it stands in logs and names the secret.")
    host: Line = Field(description="The IMAP server.")
    tls: Literal["implicit", "starttls", "none"] = Field(
        default="implicit", description="none is for a server on this very machine. Certificates are always verified.")
    port: int = Field(default=None, ge=1, le=65535, validate_default=True, json_schema_extra={"default": 993},
                      description="By default 993; with starttls or none 143.")
    ca_file: FilePath | None = Field(
        default=None, description="Certificates (PEM) to trust instead of the system's, for a private authority.")
    username: Line = Field(description="The name to log in with, often the whole mail address.")
    password_command: Command | None = Field(
        default=None, repr=False, description="A program and its arguments; the first line it prints is the password.")
    token_command: Command | None = Field(
        default=None, repr=False, description="The same for an OAuth2 access token instead of a password.")
    folders: tuple[Line, ...] = Field(
        default=("INBOX",), min_length=1, validate_default=True, description="The folders to watch.")
    spam_folder: Line | None = Field(
        default=None, description="Where spam is moved; by default the folder that the server marks as \\Junk.")
    create_spam_folder: bool = Field(default=False, description="Make the spam folder when it does not exist.")
    mode: Literal["observe", "apply"] = Field(
        default="observe", description="observe sets keywords and writes the journal; apply also moves spam.")
    poll_seconds: Seconds = Field(default=60, description="How often to look for new mail, whatever IDLE says.")
    idle: bool = Field(default=True, description="Let the server tell of new mail at once, where it can (IDLE).")
    ham_cutoff: Cutoff | None = Field(
        default=None, description="A score below it is ham; by default the model's own.")
    spam_cutoff: Cutoff | None = Field(
        default=None, description="A score from it on is spam; by default the model's own. Between the two is unsure.")
    brake: Brake = Field(default=Brake(), description="When a pass stops and asks instead of moving.")
    without_keywords: Literal["move_only", "flagged"] = Field(
        default="move_only",
        description="In a folder that keeps no keywords: move_only sets no mark, flagged sets \\Flagged on spam.")
    teach_spam: Patterns = Field(
        default=(), description="Folders in which mail that you put there is spam, beside the spam folder itself.")
    teach_ham: Patterns = Field(
        default=("INBOX", "Archive", "Archives", "Archive/*", "Archives/*"),
        description="Where mail that you take out of the spam folder is ham, as in watched folders and \\Archive.")
    neutral: Patterns = Field(
        default=(), description="Folders that teach nothing, whatever else is said of them; so do Trash, Drafts, Sent.")
    keywords_teach: bool = Field(
        default=True, description="A mail program's $Junk and $NotJunk are your word on a message, too.")
    authserv_id: Line | None = Field(
        default=None, description="How your mail server names itself in Authentication-Results; without it no sender is"
                                  " known to be who he says he is.")
    connect_timeout: Seconds = Field(default=10, description="Seconds to wait for a connection.")
    read_timeout: Seconds = Field(default=60, description="Seconds to wait for the server's next answer.")

    # A field validator sees the fields above its own, and runs although others are wrong: so all problems come at once.

    @field_validator("name")
    @classmethod
    def _unique(cls, name: str, info: ValidationInfo) -> str:
        if not re.fullmatch(r"\w[\w.@+-]{0,63}", name):  # it becomes a file name: the systemd credential's
            raise ValueError("must be letters, digits and . _ @ + - only, at most 64")
        names = (info.context or {}).get("names", {})
        if variable(name) in names:
            raise ValueError(f"is too like the account {names[variable(name)]}: both would read ${variable(name)}")
        names[variable(name)] = name
        return name

    @field_validator("host")
    @classmethod
    def _bare(cls, host: str) -> str:
        if re.search(r"[\s/\[\]@]|^[^:]*:\d*$", host):
            raise ValueError("must be a name or an address alone, without scheme, port and brackets")
        return host

    @field_validator("tls")
    @classmethod
    def _encrypted(cls, tls: str, info: ValidationInfo) -> str:
        if tls == "none" and "host" in info.data and not loopback(info.data["host"]):
            raise ValueError("none would send the password in the clear: only localhost, 127.0.0.1 or ::1 may have it")
        return tls

    @field_validator("port", mode="before")
    @classmethod
    def _usual(cls, port: object, info: ValidationInfo) -> object:
        usual = 993 if info.data.get("tls", "implicit") == "implicit" else 143
        return usual if port is None else port

    @field_validator("ca_file")
    @classmethod
    def _readable(cls, file: Path | None) -> Path | None:
        if file and not (os.access(file, os.R_OK) and file.is_file()):
            raise ValueError("is not a file that can be read")
        return file

    @field_validator("token_command")
    @classmethod
    def _one_way(cls, command: Command | None, info: ValidationInfo) -> Command | None:
        if command and info.data.get("password_command"):
            raise ValueError("either this or password_command, not both")
        return command

    @field_validator("folders")
    @classmethod
    def _once(cls, folders: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len({_folded(folder) for folder in folders}) < len(folders):
            raise ValueError("names a folder twice")
        watched = (info.context or {}).get("watched", {})
        name, *login = (info.data.get(key) for key in ("name", "host", "port", "username"))
        for folder in folders if None not in login else ():
            if (other := watched.setdefault((*login, _folded(folder)), name)) != name:
                raise ValueError(f"{folder} is watched by the account {other} already, with the same login")
        return folders

    @field_validator("spam_folder")
    @classmethod
    def _elsewhere(cls, folder: str | None, info: ValidationInfo) -> str | None:
        if folder and _folded(folder) in map(_folded, info.data.get("folders", ())):
            raise ValueError("is one of the watched folders")
        return folder

    @field_validator("spam_cutoff")
    @classmethod
    def _ordered(cls, spam: float | None, info: ValidationInfo) -> float | None:
        ham = info.data.get("ham_cutoff")
        if ham is not None and spam is not None and spam < ham:
            raise ValueError(f"must not be below ham_cutoff ({ham:g})")
        return spam

    def cutoffs(self, ham: float, spam: float) -> tuple[float, float]:
        """(ham, spam) cutoffs of this account, the model's where it sets none; ConfigError when they cross."""
        ham = ham if self.ham_cutoff is None else self.ham_cutoff
        spam = spam if self.spam_cutoff is None else self.spam_cutoff
        if spam < ham:
            mine, other = ("spam_cutoff", "ham_cutoff") if self.ham_cutoff is None else ("ham_cutoff", "spam_cutoff")
            raise ConfigError(
                f"Account {self.name}: {mine} crosses the model's own {other} (ham {ham:g}, spam {spam:g}).",
                f"Set {other} too, so that ham_cutoff is not above spam_cutoff.",
            )
        return ham, spam


class Settings(_Section):
    """The whole file."""

    state_dir: FilePath = Field(
        default_factory=_state_dir,
        description="The journal and the installed models; by default $STATE_DIRECTORY (systemd sets it), else"
                    " ~/.local/state/mailtagger.")
    accounts: tuple[Account, ...] = Field(min_length=1, description="The accounts to watch.")
    model: FilePath | None = Field(
        default=None, description="The directory of a model to use instead of the current one.")
    keywords: Keywords = Field(default=Keywords(), description="The marks on the server.")
    keep_text: int = Field(
        default=400, ge=0, le=36_500,
        description="Days for which the text of mail that you taught with is kept in state_dir, for `retrain`.")
    log: LogSettings = Field(default=LogSettings(), description="What goes to standard error.")


# Where each key belongs, for those that are put into the wrong place.
SECTIONS: dict[str, type[BaseModel]] = {
    "": Settings, "accounts": Account, "brake": Brake, "keywords": Keywords, "log": LogSettings,
}


def loopback(host: str) -> bool:
    """Whether this host is surely this machine, so that nothing on the way can listen."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _folded(folder: str) -> str:
    return folder.upper() if folder.upper() == "INBOX" else folder  # the only name without case (RFC 3501)


def locate(option: Path | None) -> Path:
    """The configuration to read: the option, $MAILTAGGER_CONFIG, the user's own, the machine's."""
    if option:
        return option
    if given := os.environ.get("MAILTAGGER_CONFIG"):
        return Path(given)
    usual = [Path("~/.config/mailtagger/config.yaml").expanduser(), Path("/etc/mailtagger/config.yaml")]
    for path in usual:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return path  # it is there and cannot be read: `load` says so
        return path
    raise ConfigError(
        f"There is no configuration: neither {usual[0]} nor {usual[1]}.",
        f"Copy config.example.yaml to {usual[0]} and fill it in, or give --config FILE.",
    )


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    return Settings.model_json_schema()


def load(path: Path) -> Settings:
    """The settings in this file, or a ConfigError with every problem as `FILE:LINE: path: sentence`."""
    document = read(path)
    found = {location: (line, f"is given twice (first in line {first})") for location, line, first in document.twice}
    try:
        settings = Settings.model_validate(
            document.data, context={"directory": path.absolute().parent, "names": {}, "watched": {}})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] == "too_short" and detail["input"]:
                continue  # pydantic counts the items that are right; the wrong ones are told already
            found.setdefault(detail["loc"], (document.line(detail["loc"]), _sentence(detail)))
    if not found:
        return settings
    raise ConfigError(
        f"{path} has {'a problem' if len(found) == 1 else f'{len(found)} problems'}.", EXAMPLE,
        [f"{path}:{line}: {_dotted(location)}{sentence}" for location, (line, sentence) in sorted(
            found.items(), key=lambda item: item[1][0])],
    )


def _dotted(location: Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return f"{text.lstrip('.')}: " if location else ""


def _sentence(detail: Mapping[str, Any]) -> str:
    """pydantic's finding in our words; the value itself is never quoted, it may be a secret in the wrong place."""
    kind, context = detail["type"], detail.get("ctx", {})
    match kind:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return _unknown(str(detail["loc"][-1]), detail["loc"][:-1])
        case "value_error":
            return str(context["error"])
        case "literal_error":
            return f"must be {context['expected'].replace(chr(39), '')}"
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}"
        case "too_short":
            return "must not be empty"
        case "string_type" | "path_type":
            return "must be text; numbers, true, false, yes and no need quotes"
        case "tuple_type":
            return "must be a list: [a, b], or lines that begin with -"
        case "model_type":
            return "must be lines of `key: value`"
        case _ if kind.startswith("int_"):
            return "must be a whole number"
        case _ if kind.startswith("float_"):
            return "must be a number"
        case _ if kind.startswith("bool_"):
            return "must be true or false"
    return f"cannot be used ({kind})"


def _unknown(key: str, parents: Location) -> str:
    if key.lower() in SECRETS:
        return "secrets do not stand in this file; config.example.yaml shows the four places for them"
    section = SECTIONS[next((str(part) for part in reversed(parents) if isinstance(part, str)), "")]
    if close := difflib.get_close_matches(key.lower(), section.model_fields, n=1):
        return f"is an unknown key; did you mean {close[0]}?"
    homes = [name for name, other in SECTIONS.items() if key in other.model_fields]
    return f"is an unknown key here; it belongs {f'below {homes[0]}' if homes[0] else 'to the left'}" if homes else (
        "is an unknown key")
