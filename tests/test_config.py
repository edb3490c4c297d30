"""config.py and yamlfile.py: typed settings, or every problem at once with its line."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailtagger.config import Account, Keywords, Settings, load, locate, schema
from mailtagger.errors import ConfigError

EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"
SMALLEST = "accounts:\n  - name: home\n    host: imap.example.org\n    username: alice\n"


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STATE_DIRECTORY", "MAILTAGGER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def problems(file: Path, text: str) -> list[str]:
    """The problems' lines without the name of the file."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.exit_status == 78
    assert all(line.startswith(f"{file}:") for line in caught.value.problems)
    return [line.removeprefix(f"{file}:") for line in caught.value.problems]


def account(**keys: Any) -> Account:
    return Account(**{"name": "home", "host": "imap.example.org", "username": "alice"} | keys)


# The reference


def test_the_example_is_valid_and_shows_the_defaults(tmp_path: Path) -> None:
    """What it sets is the default, except for the three keys that have none and two that show how."""
    shown = load(EXAMPLE)
    assert shown.state_dir == tmp_path / "home/.local/state/mailtagger"
    shows = {"password_command": None, "spam_folder": None}
    default = account(name="home", host="imap.example.org", username="alice")
    assert shown.accounts[0].model_copy(update=shows) == default
    assert shown.model_copy(update={"accounts": (default,)}) == Settings(accounts=(default,))


def test_the_example_has_every_key_and_a_comment_for_it() -> None:
    """Every key of the schema stands in the example, and every key in it has a comment on the lines before."""
    description = schema()
    sections = [description, *(description["$defs"][name] for name in ("Account", "Brake", "Keywords", "LogSettings"))]
    known = [key for section in sections for key in section["properties"]]
    assert len(description["$defs"]) == 4
    lines = EXAMPLE.read_text().splitlines()
    shown = [match[1] for line in lines if (match := re.match(r"[ -]*(\w+):", line))]
    assert sorted(shown) == sorted(known)
    without = []
    for i, line in enumerate(lines):
        before = next(other for other in reversed(lines[:i]) if not re.match(r"[ -]*\w+:", other)) if i else ""
        if re.match(r"[ -]*\w+:", line) and not before.lstrip().startswith("#") and line not in ("accounts:", "log:"):
            without.append(line)
    assert without == []


def test_every_key_is_described_in_the_schema() -> None:
    """An editor shows a sentence for each key, and knows that others are wrong."""
    description = schema()
    for section in (description, *description["$defs"].values()):
        assert section["additionalProperties"] is False
        for key, value in section["properties"].items():
            named = description["$defs"].get(value.get("$ref", "").rpartition("/")[2], {})
            assert value.get("description") or named.get("description"), key


def test_the_smallest_file(file: Path, tmp_path: Path) -> None:
    """Three keys are enough; a new account only observes."""
    file.write_text(SMALLEST)
    settings = load(file)
    [home] = settings.accounts
    assert (home.port, home.tls, home.folders, home.mode) == (993, "implicit", ("INBOX",), "observe")
    assert (home.spam_folder, home.ham_cutoff, home.spam_cutoff) == (None, None, None)
    assert settings.state_dir == tmp_path / "home/.local/state/mailtagger"
    assert settings.keywords == Keywords(spam="MailtaggerSpam", unsure="MailtaggerUnsure", junk=True)


# Problems


def test_one_folder_in_two_accounts(file: Path) -> None:
    """Both would move the same message; another folder of the same login, or the same of another, is none of that."""
    account = "  - {{name: {}, host: imap.example.org, username: {}{}}}\n".format
    text = "accounts:\n" + account("home", "anna", "") + account("work", "anna", ", folders: [Lists, inbox]")
    said = "3: accounts[1].folders: inbox is watched by the account home already, with the same login"
    assert problems(file, text) == [said]
    file.write_text("accounts:\n" + account("home", "anna", "") + account("work", "ben", "")
                    + account("lists", "anna", ", folders: [Lists]"))
    assert len(load(file).accounts) == 3


def test_all_problems_at_once(file: Path) -> None:
    """Each with its line, its path and a sentence, in the order of the file."""
    text = """\
state_dirr: /var/lib/mailtagger
poll_seconds: 5
accounts:
  - name: home
    host: imap.example.org:993
    port: 99999
    username: 123
    polling_seconds: 3
    brake: off
    mode: fast
    ham_cutoff: 0.9
    spam_cutoff: 0.1
    folders: INBOX
    idle: maybe
    read_timeout: x
    connect_timeout: 0
  - name: Home
    tls: none
    host: imap.example.org
    host: imap.example.com
    folders: [INBOX, inbox]
    spam_folder: INBOX
    password_command: pass show mail
    token_command: []
    ca_file: /nowhere/ca.pem
  -
keywords:
  spam: $Label1
  unsure: not sure
  junk: 7
log: [debug]
"""
    assert problems(file, text) == [
        "1: state_dirr: is an unknown key; did you mean state_dir?",
        "2: poll_seconds: is an unknown key here; it belongs below accounts",
        "5: accounts[0].host: must be a name or an address alone, without scheme, port and brackets",
        "6: accounts[0].port: must be at most 65535",
        "7: accounts[0].username: must be text; numbers, true, false, yes and no need quotes",
        "8: accounts[0].polling_seconds: is an unknown key; did you mean poll_seconds?",
        "9: accounts[0].brake: must be lines of `key: value`",
        "10: accounts[0].mode: must be observe or apply",
        "12: accounts[0].spam_cutoff: must not be below ham_cutoff (0.9)",
        "13: accounts[0].folders: must be a list: [a, b], or lines that begin with -",
        "14: accounts[0].idle: must be true or false",
        "15: accounts[0].read_timeout: must be a whole number",
        "16: accounts[0].connect_timeout: must be at least 1",
        "17: accounts[1].name: is too like the account home: both would read $MAILTAGGER_HOME_PASSWORD",
        "17: accounts[1].username: is missing",
        "18: accounts[1].tls: none would send the password in the clear: only localhost, 127.0.0.1 or ::1 may have it",
        "20: accounts[1].host: is given twice (first in line 19)",
        "21: accounts[1].folders: names a folder twice",
        "23: accounts[1].password_command: must be a list: [a, b], or lines that begin with -",
        "24: accounts[1].token_command: must not be empty",
        "25: accounts[1].ca_file: is not a file that can be read",
        "26: accounts[2]: must be lines of `key: value`",
        "28: keywords.spam: is a keyword that mail programs use for something else",
        "29: keywords.unsure: must be an IMAP keyword: 1 to 50 ASCII characters without spaces and ( ) { % * \" \\ ]",
        "30: keywords.junk: must be true or false",
        "31: log: must be lines of `key: value`",
    ]


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("    spam_folder: [Junk]\n", "5: accounts[0].spam_folder: must be text"),
        ("    spam_folder: INBOX\n", "5: accounts[0].spam_folder: is one of the watched folders"),
        ("    spam_folder: \"a\\nb\"\n", "5: accounts[0].spam_folder: must be one line of text"),
        ("    folders: []\n", "5: accounts[0].folders: must not be empty"),
        ("    folders: [INBOX, 7]\n", "5: accounts[0].folders[1]: must be text"),
        ("    password_command: [a]\n    token_command: [b]\n", "6: accounts[0].token_command: either this or"),
        ("    brake: {share: 30}\n", "5: accounts[0].brake.share: must be at most 1"),
        ("    brake:\n      mesages: 3\n", "6: accounts[0].brake.mesages: is an unknown key; did you mean messages?"),
        ("    spam_cutoff: .nan\n", "5: accounts[0].spam_cutoff: must be at "),
        ("    level: debug\n", "5: accounts[0].level: is an unknown key here; it belongs below log"),
        ("    state_dir: /x\n", "5: accounts[0].state_dir: is an unknown key here; it belongs to the left"),
        ("    quux: 1\n", "5: accounts[0].quux: is an unknown key"),
        ("    port: 0\n", "5: accounts[0].port: must be at least 1"),
        ("state_dir: $HOME/mail\n", "5: state_dir: variables are not replaced here"),
        ("state_dir: ~nobody-of-that-name/x\n", "5: state_dir: begins with the home directory of a user who has none"),
        ("model: 5\n", "5: model: must be text"),
        ("7: 8\n", "5: 7: is an unknown key"),
        ("no: 8\n", "5: no: is an unknown key"),
        ("log: {level: loud}\n", "5: log.level: must be debug, info, warning or error"),
        ("keywords: {unsure: mailtaggerspam}\n", "5: keywords.unsure: must differ from the keyword for spam"),
        ("keywords: {spam: a, spam: b}\n", "5: keywords.spam: is given twice (first in line 5)"),
        ("accounts:\n  - name: home\n    host: h\n    username: u\n", "5: accounts: is given twice (first in line 1)"),
    ],
)
def test_one_problem(file: Path, addition: str, expected: str) -> None:
    """A single mistake is a single line."""
    [line] = problems(file, SMALLEST + addition)
    assert line.startswith(expected)


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "-x", "a b", "a:b", "x" * 65, ""])
def test_a_name_must_do_as_a_file_name(name: str) -> None:
    """The systemd credential is called by it."""
    with pytest.raises(ValueError, match="must be"):
        account(name=name)


@pytest.mark.parametrize("name", ["home", "alice@example.org", "büro", "work-2"])
def test_names_that_do(name: str) -> None:
    """An address is a good name too."""
    assert account(name=name).name == name


def test_no_accounts(file: Path) -> None:
    """Without an account there is nothing to do."""
    assert problems(file, "accounts: []\n") == ["1: accounts: must not be empty"]
    assert problems(file, "log:\n  level: info\n") == ["1: accounts: is missing"]


@pytest.mark.parametrize("key", ["password", "Token", "passwd", "secret"])
def test_a_secret_in_the_file_is_refused_and_not_shown(file: Path, key: str) -> None:
    """The sentence sends it elsewhere, and nothing about the error holds the value."""
    [line] = problems(file, SMALLEST + f"    {key}: canary-4711\n")
    assert line.startswith(f"5: accounts[0].{key}: secrets do not stand in this file")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert "canary" not in repr(caught.value) + str(caught.value) + str(caught.value.problems)


@pytest.mark.parametrize("value", ["*canary-4711", "!canary-4711 x", "'canary-4711", "%canary-4711", "a: canary-4711:"])
def test_a_value_that_breaks_the_yaml_is_not_shown(file: Path, value: str) -> None:
    """PyYAML quotes what it stumbles over; it may be a password that lacks its quotes."""
    [line] = problems(file, SMALLEST + f"    password_command: {value}\n")
    assert re.match(r"[56]: ", line)
    assert "canary" not in line


# YAML


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accounts:\n  - name: home\n   host: x\n", "3: "),
        ("accounts:\n\t- name: home\n", "2: found character"),
        ("accounts: [\n", "2: "),
        ("accounts: 1\n---\naccounts: 2\n", "2: but found another document"),
        ("accounts: 1\nx: \x07\n", "2: a control character"),
        ("a: &a [*a]\n", "1: a value that is no number or date, or nesting without bounds"),
        ("a: " + "[" * 5000, "1: "),
        ("a: 2024-99-99\n", "1: a value that is no number or date"),
        ("? [a, b]\n: c\n", "1: expected a scalar node"),
        ("a: !!python/object:os.system x\n", "1: could not determine a constructor for the tag"),
    ],
)
def test_what_is_no_yaml_is_a_sentence_with_its_line(file: Path, text: str, expected: str) -> None:
    """No traceback, whatever is in the file."""
    [line] = problems(file, text)
    assert line.startswith(expected)


def test_aliases_of_aliases_end(file: Path) -> None:
    """Ten lines that stand for ten thousand million values are refused at once."""
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    [line] = problems(file, bomb)
    assert "nesting without bounds" in line


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n"])
def test_an_empty_file(file: Path, text: str) -> None:
    """It says so, and where an example is."""
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"config.yaml is empty. config.example.yaml"):
        load(file)


@pytest.mark.parametrize("text", ["- name: home\n", "hello\n", "7\n"])
def test_a_file_that_is_no_mapping(file: Path, text: str) -> None:
    """A list or a word at the top is not a configuration."""
    file.write_text(text)
    with pytest.raises(ConfigError, match="must be lines of `key: value`"):
        load(file)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a directory, or not UTF-8: each has its sentence."""
    with pytest.raises(ConfigError, match=r"nowhere.yaml does not exist"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("accounts:\n  - name: büro\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8") as caught:
        load(tmp_path / "latin.yaml")
    assert caught.value.problems == (f"{tmp_path / 'latin.yaml'}:2: not UTF-8",)


def test_keys_without_a_value_are_not_set(file: Path) -> None:
    """Commenting out what stands below `log:` leaves the defaults; a byte order mark is no problem."""
    file.write_text("\ufeff" + SMALLEST + "    spam_folder:\nlog:\n  # level: debug\nkeywords: ~\n")
    settings = load(file)
    assert (settings.log.level, settings.keywords.spam, settings.accounts[0].spam_folder) == (
        "info", "MailtaggerSpam", None)


def test_accounts_can_share_lines(file: Path) -> None:
    """YAML's own merge keys work, and what they bring can be replaced."""
    file.write_text(
        SMALLEST.replace("- name", "- &home\n    name")
        + "  - <<: *home\n    name: work\n    username: bob\n    polls: 1\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.problems == (f"{file}:9: accounts[1].polls: is an unknown key",)
    file.write_text(file.read_text().replace("    polls: 1\n", ""))
    assert [(one.name, one.host, one.username) for one in load(file).accounts] == [
        ("home", "imap.example.org", "alice"), ("work", "imap.example.org", "bob")]


# Single keys


def test_ports_follow_tls() -> None:
    """993 where TLS begins at once, else 143; a given port stands."""
    assert account().port == 993
    assert account(tls="starttls").port == 143
    assert account(tls="none", host="localhost").port == 143
    assert account(tls="starttls", port=1143).port == 1143


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "::1"])
def test_without_tls_on_this_machine(host: str) -> None:
    """On loopback nobody can listen."""
    assert account(tls="none", host=host).tls == "none"


@pytest.mark.parametrize("host", ["imap.example.org", "localhost.example.org", "10.0.0.1", "0.0.0.0", "127.1.x.org"])
def test_without_tls_elsewhere(host: str) -> None:
    """A name that only looks like this machine is refused too."""
    with pytest.raises(ValueError, match="password in the clear"):
        account(tls="none", host=host)


@pytest.mark.parametrize("word", ["", "x" * 51, "é", "a\x7f", "a\n", *(f"a{special}b" for special in ' (){%*"\\]')])
def test_what_is_no_atom(word: str) -> None:
    """RFC 3501: the server would refuse it, or make two keywords of it."""
    with pytest.raises(ValueError, match="must be an IMAP keyword"):
        Keywords(spam=word)


@pytest.mark.parametrize("word", ["$label1", "$Label5", "NotJunk", "$notjunk", "NonJunk", "$Forwarded"])
def test_keywords_with_a_meaning_of_their_own(word: str) -> None:
    """A mail program would show or learn something else."""
    with pytest.raises(ValueError, match="mail programs use"):
        Keywords(unsure=word)


@pytest.mark.parametrize("word", ["$Junk", "MailtaggerSpam", "spam/sure", "a[b", "x", "$label6", "}"])
def test_atoms(word: str) -> None:
    """Everything else that RFC 3501 allows."""
    assert Keywords(spam=word).spam == word


def test_cutoffs_are_the_models_where_none_is_set() -> None:
    """One that is set is checked against the model's other one, when the model is known."""
    assert account().cutoffs(0.2, 0.9) == (0.2, 0.9)
    assert account(spam_cutoff=0.95).cutoffs(0.2, 0.9) == (0.2, 0.95)
    assert account(ham_cutoff=0.5, spam_cutoff=0.5).cutoffs(0.2, 0.9) == (0.5, 0.5)
    with pytest.raises(ConfigError, match=r"spam_cutoff crosses the model's own ham_cutoff \(ham 0.2, spam 0.1\)"):
        account(spam_cutoff=0.1).cutoffs(0.2, 0.9)
    with pytest.raises(ConfigError, match=r"ham_cutoff crosses the model's own spam_cutoff"):
        account(ham_cutoff=0.95).cutoffs(0.2, 0.9)


def test_a_repr_does_not_show_the_commands() -> None:
    """An argument of a command may be a secret."""
    assert "canary" not in repr(account(password_command=["echo", "canary"])) + repr(account(token_command=["canary"]))


# Where things are


def test_the_state_directory(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's, with ~; else systemd's (the first, where there are several); else the user's."""
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/mailtagger:/var/lib/other")
    file.write_text(SMALLEST)
    assert load(file).state_dir == Path("/var/lib/mailtagger")
    file.write_text(SMALLEST + "state_dir: ~/mail\n")
    assert load(file).state_dir == tmp_path / "home/mail"
    monkeypatch.delenv("STATE_DIRECTORY")
    file.write_text(SMALLEST + "state_dir: state\n")
    assert load(file).state_dir == tmp_path / "state"


def test_where_the_configuration_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option, then the environment, then the user's own; with none of them, the places are named."""
    own = tmp_path / "home/.config/mailtagger/config.yaml"
    if not Path("/etc/mailtagger/config.yaml").exists():
        with pytest.raises(ConfigError, match=re.escape(f"neither {own} nor /etc/mailtagger/config.yaml")):
            locate(None)
    own.parent.mkdir(parents=True)
    own.write_text(SMALLEST)
    assert locate(None) == own
    monkeypatch.setenv("MAILTAGGER_CONFIG", "/from/environment.yaml")
    assert locate(None) == Path("/from/environment.yaml")
    assert locate(Path("given.yaml")) == Path("given.yaml")


def test_the_schema_is_plain_json_and_yaml_can_hold_it() -> None:
    """`check-config --schema` prints it as it is."""
    assert yaml.safe_load(yaml.safe_dump(schema())) == schema()
