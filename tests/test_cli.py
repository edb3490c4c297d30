"""cli.py: what each command prints, and with which status it ends; the server is a real Dovecot."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailtagger import cli
from mailtagger.dovecot import Dovecot
from tests.tiny_model import HAM_TEXT, SPAM_TEXT, tiny_model

ROOT = Path(__file__).parent.parent
SCORE_KEYS = ["path", "message_id", "score", "verdict", "decided_by", "model", "ms", "notes"]
SCAN_KEYS = [
    "account", "folder", "uid", "message_id", "score", "verdict", "decided_by", "model", "action", "done", "notes",
]


def message(text: str, name: str, subject: str = "hello") -> bytes:
    """A message with this text."""
    return f"From: a@example.org\r\nSubject: {subject}\r\nMessage-ID: <{name}@example.org>\r\n\r\n{text}\r\n".encode()


SPAM = message(SPAM_TEXT, "spam", "Cheap pills")
HAM = message(HAM_TEXT, "ham", "Lunch")
EMPTY = b"From: a@example.org\r\nMessage-ID: <empty@example.org>\r\n\r\n"


@dataclass
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Mailtagger = Callable[..., Done]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows obvious spam."""
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration, keyring or password of whoever runs the tests gets in."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    for name in ("MAILTAGGER_CONFIG", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "JOURNAL_STREAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MAILTAGGER_HOME_PASSWORD", "secret")
    monkeypatch.setenv("MAILTAGGER_WORK_PASSWORD", "secret")


@pytest.fixture
def mailtagger(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Mailtagger:
    """The command, called as from a shell."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["mailtagger", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, *capfd.readouterr())

    return call


def configured(directory: Path, model: Path, *accounts: dict[str, Any]) -> Path:
    """A configuration file; JSON is YAML."""
    path = directory / "config.yaml"
    path.write_text(json.dumps({"state_dir": str(directory / "state"), "model": str(model), "accounts": accounts}))
    return path


def account(server: Dovecot, name: str = "home", **fields: Any) -> dict[str, Any]:
    """alice's account on this server."""
    return {"name": name, "host": "127.0.0.1", "port": server.port, "tls": "none", "username": "alice", **fields}


def folder(server: Dovecot, name: str, user: str = "alice") -> dict[str, set[str]]:
    """The folder's messages by Message-ID, each with its flags."""
    with server.client(user) as client:
        client.select_folder(name, readonly=True)
        header = b"BODY[HEADER.FIELDS (MESSAGE-ID)]"
        return {
            data[header].decode().strip().removeprefix("Message-ID: <").removesuffix("@example.org>"): {
                flag.decode() for flag in data[b"FLAGS"] if flag != b"\\Recent"
            }
            for data in client.fetch(client.search(), ["FLAGS", "BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)]"]).values()
        }


# --- usage


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    """`mailtagger --help` names every command and loads neither onnxruntime, numpy nor pydantic."""
    code = (
        "import sys\nfrom mailtagger.cli import main\nsys.argv = ['mailtagger', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'onnxruntime', 'numpy', 'pydantic', 'torch', 'imapclient', 'keyring'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for command in ("run", "scan", "score", "status", "history", "check-config", "models", "demo", "retrain"):
        assert command in done.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["frobnicate"], ["scan"], ["score"], ["scan", "--folder", "F", "--limit", "0"]]
)
def test_wrong_usage_ends_with_2(mailtagger: Mailtagger, arguments: list[str]) -> None:
    """A missing or unknown command or option is told on standard error."""
    done = mailtagger(*arguments)
    assert done.status == 2
    assert done.out == "" or arguments == []


def test_version(mailtagger: Mailtagger) -> None:
    """`--version` needs no command."""
    done = mailtagger("--version")
    assert (done.status, done.out.split()[0]) == (0, "mailtagger")


# --- configuration


@pytest.mark.parametrize("command", [["run"], ["scan", "--folder", "INBOX"], ["status"], ["history"], ["check-config"]])
def test_no_configuration_ends_with_78(mailtagger: Mailtagger, command: list[str]) -> None:
    """Commands that need a configuration say where it could be, in one sentence, without a traceback."""
    done = mailtagger(*command)
    assert done.status == 78
    assert done.err.startswith("mailtagger: There is no configuration")
    assert "Traceback" not in done.err


def test_all_problems_of_a_configuration_are_listed(mailtagger: Mailtagger, tmp_path: Path) -> None:
    """Each problem has its line, whichever command reads the file."""
    path = tmp_path / "bad.yaml"
    path.write_text("accounts:\n  - name: home\n    hostt: x\n    port: 99999\n")
    done = mailtagger("--config", path, "run")
    assert done.status == 78
    assert f"{path}:3: accounts[0].hostt" in done.err
    assert f"{path}:4: accounts[0].port" in done.err
    assert done.err.count("\n") >= 4


def test_check_config_says_what_would_happen(mailtagger: Mailtagger) -> None:
    """The example is fine, and says that it moves nothing."""
    done = mailtagger("--config", ROOT / "config.example.yaml", "check-config")
    assert (done.status, done.err) == (0, "")
    assert "home: alice at imap.example.org, watches INBOX, moves nothing" in done.out


def test_schema_is_json(mailtagger: Mailtagger) -> None:
    """`check-config --schema` needs no file."""
    done = mailtagger("check-config", "--schema")
    assert "accounts" in json.loads(done.out)["properties"]


# --- score


def test_score_json_has_one_object_a_line_in_the_order_given(
    mailtagger: Mailtagger, tmp_path: Path, model: Path
) -> None:
    """A missing file has an `error`, the others their scores, and the status is 1."""
    for name, raw in ("spam", SPAM), ("ham", HAM), ("empty", EMPTY):
        (tmp_path / f"{name}.eml").write_bytes(raw)
    paths = [tmp_path / name for name in ("spam.eml", "missing.eml", "empty.eml", "ham.eml")]
    config = configured(tmp_path, model, {"name": "x", "host": "localhost", "username": "x"})
    done = mailtagger("--config", config, "score", "--json", *paths)
    spam, missing, empty, ham = done.records
    assert done.status == 1
    assert [record["path"] for record in done.records] == list(map(str, paths))
    assert list(spam) == SCORE_KEYS
    assert list(missing) == [*SCORE_KEYS, "error"]
    assert (spam["verdict"], spam["message_id"], spam["model"]) == ("spam", "spam@example.org", model.name)
    assert 0.8 < spam["score"] <= 1
    assert (ham["verdict"], ham["decided_by"], ham["notes"]) == ("ham", "model", [])
    assert (empty["verdict"], empty["score"]) == ("unsure", None)
    assert empty["notes"]


def test_score_reads_standard_input(tmp_path: Path, model: Path) -> None:
    """`-` is the message on standard input, and all is well with status 0."""
    config = configured(tmp_path, model, {"name": "x", "host": "localhost", "username": "x"})
    command = [sys.executable, "-m", "mailtagger", "--config", str(config), "score", "-", "--json"]
    done = subprocess.run(command, input=SPAM, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == "-"


def test_a_reader_that_leaves_early_is_no_traceback(tmp_path: Path, model: Path) -> None:
    """`mailtagger score ... | head -1` ends quietly."""
    (tmp_path / "mail").mkdir()
    for number in range(50):
        (tmp_path / "mail" / f"{number}.eml").write_bytes(HAM)
    config = configured(tmp_path, model, {"name": "x", "host": "localhost", "username": "x"})
    command = f"{sys.executable} -m mailtagger --config {config} score --json {tmp_path / 'mail'} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_scoring_leaves_no_trace(tmp_path: Path, model: Path) -> None:
    """onnxruntime would keep a device id in the home directory and report to its maker; nothing of it is there."""
    home, aside = tmp_path / "home", tmp_path / "aside"
    (tmp_path / "a.eml").write_bytes(HAM)
    for directory in home, aside:
        directory.mkdir()
    config = configured(tmp_path, model, {"name": "x", "host": "localhost", "username": "x"})
    command = [sys.executable, "-m", "mailtagger", "--config", str(config), "score", str(tmp_path / "a.eml")]
    # onnxruntime keeps silent in tests and under CI, where its maker does not want to hear of it
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}
    subprocess.run(command, check=True, cwd=ROOT, env=kept | {"HOME": str(home), "TMPDIR": str(aside)})
    assert [*home.rglob("*"), *aside.rglob("*")] == []


# --- models, status, history, retrain


def test_damaged_model_is_one_sentence(mailtagger: Mailtagger, tmp_path: Path, model: Path) -> None:
    """A model whose files are not those it describes is refused with status 1, and `models verify` names it."""
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in model.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    with (damaged / "model.int8.onnx").open("ab") as graph:
        graph.write(b"\0")
    (tmp_path / "a.eml").write_bytes(HAM)
    config = configured(tmp_path, damaged, {"name": "x", "host": "localhost", "username": "x"})
    done = mailtagger("--config", config, "score", tmp_path / "a.eml")
    assert done.status == 1
    assert done.err.count("\n") == 1 and str(damaged) in done.err
    done = mailtagger("--config", config, "models", "verify", "--json", damaged, model)
    assert done.status == 1
    assert [record["fine"] for record in done.records] == [False, True]


def test_models_list_marks_the_one_in_use(mailtagger: Mailtagger, tmp_path: Path, model: Path) -> None:
    """The model that the configuration names is listed, and in use."""
    config = configured(tmp_path, model, {"name": "x", "host": "localhost", "username": "x"})
    done = mailtagger("--config", config, "models", "list", "--json")
    assert done.status == 0
    assert [record["path"] for record in done.records if record["in_use"]] == [str(model)]


def test_looking_makes_no_state(mailtagger: Mailtagger, tmp_path: Path, model: Path) -> None:
    """`status` and `history` before the first start say that there is nothing, and leave nothing behind."""
    config = configured(tmp_path, model, {"name": "home", "host": "localhost", "username": "x"})
    status = mailtagger("--config", config, "status", "--json").records[0]
    assert (status["running"], status["model"]["id"], status["accounts"][0]["counts"]) == (None, model.name, {})
    assert mailtagger("--config", config, "history", "--json").out == ""
    assert not (tmp_path / "state").exists()


def test_retrain_says_that_there_is_nothing_to_learn(mailtagger: Mailtagger, tmp_path: Path, model: Path) -> None:
    """This version records no corrections: `retrain` says so, keeps the model, and ends with 0."""
    config = configured(tmp_path, model, {"name": "home", "host": "localhost", "username": "x"})
    done = mailtagger("--config", config, "retrain")
    assert done.status == 0
    assert "no corrections" in done.out and f"{model.name} stays" in done.out


# --- scan


def test_scan_is_a_dry_run(mailtagger: Mailtagger, tmp_path: Path, model: Path, dovecot: Dovecot) -> None:
    """Without --apply every message is judged and the server is left as it was."""
    for raw in SPAM, HAM, EMPTY:
        dovecot.deliver("alice", raw)
    config = configured(tmp_path, model, account(dovecot, mode="apply"))
    done = mailtagger("--config", config, "scan", "--folder", "INBOX", "--json")
    *found, last = done.records
    assert done.status == 0
    assert last == {"summary": {"seen": 3, "spam": 1, "unsure": 1, "ham": 1, "failed": 0}}
    assert all(list(record) == SCAN_KEYS for record in found)
    assert [(record["message_id"], record["verdict"], record["action"], record["done"]) for record in found] == [
        ("spam@example.org", "spam", "move", False),
        ("ham@example.org", "ham", "none", False),
        ("empty@example.org", "unsure", "keyword", False),
    ]
    assert folder(dovecot, "INBOX") == {"spam": set(), "ham": set(), "empty": set()}


def test_scan_apply_marks_and_moves_once(
    mailtagger: Mailtagger, tmp_path: Path, model: Path, dovecot: Dovecot
) -> None:
    """Spam goes to Junk with its keywords, unsure is marked, \\Seen stays unset; a second scan has nothing to do."""
    for raw in SPAM, HAM, EMPTY:
        dovecot.deliver("alice", raw)
    config = configured(tmp_path, model, account(dovecot, mode="apply"))
    done = mailtagger("--config", config, "scan", "--folder", "INBOX", "--apply", "--json")
    assert done.status == 0
    assert {record["message_id"]: record["done"] for record in done.records[:-1]} == {
        "spam@example.org": True, "ham@example.org": True, "empty@example.org": True,
    }
    assert folder(dovecot, "Junk") == {"spam": {"MailtaggerSpam", "$Junk"}}
    assert folder(dovecot, "INBOX") == {"ham": set(), "empty": {"MailtaggerUnsure"}}
    again = mailtagger("--config", config, "scan", "--folder", "INBOX", "--apply", "--json")
    assert again.records[-1]["summary"]["seen"] == 2
    history = mailtagger("--config", config, "history", "--json").records
    assert [(record["action"], record["done"]) for record in history if record["verdict"] == "spam"] == [("move", True)]
    counts = mailtagger("--config", config, "status", "--json").records[0]["accounts"][0]["counts"]
    assert (counts["moved"], counts["spam"], counts["failed"]) == (1, 1, 0)


def test_scan_in_mode_observe_moves_nothing(
    mailtagger: Mailtagger, tmp_path: Path, model: Path, dovecot: Dovecot
) -> None:
    """--apply in mode observe sets the keyword, and the message stays."""
    dovecot.deliver("alice", SPAM)
    config = configured(tmp_path, model, account(dovecot))
    done = mailtagger("--config", config, "scan", "--folder", "INBOX", "--apply", "--json")
    assert (done.status, done.records[0]["action"], done.records[0]["done"]) == (0, "keyword", True)
    assert folder(dovecot, "INBOX") == {"spam": {"MailtaggerSpam", "$Junk"}}


def test_scan_for_a_person_ends_with_a_sentence(
    mailtagger: Mailtagger, tmp_path: Path, model: Path, dovecot: Dovecot
) -> None:
    """Plain lines have the subject and what would be done; the last says that nothing was."""
    dovecot.deliver("alice", SPAM)
    config = configured(tmp_path, model, account(dovecot, mode="apply"))
    lines = mailtagger("--config", config, "scan", "--folder", "INBOX").out.splitlines()
    assert lines[0].split() == ["UID", "score", "verdict", "action", "subject"]
    assert "would move" in lines[1] and "Cheap pills" in lines[1]
    assert lines[2] == "1 message: 1 spam, 0 unsure, 0 ham. Nothing was changed; --apply acts."
    again = mailtagger("--config", config, "scan", "--folder", "INBOX", "--apply").out.splitlines()
    assert again[1].split()[3] == "move" and "Cheap pills; judged before" in again[1]
    assert again[2] == "1 message: 1 spam, 0 unsure, 0 ham."


def test_interrupted_scan_says_how_far_it_came_and_can_be_run_again(
    mailtagger: Mailtagger, tmp_path: Path, model: Path, dovecot: Dovecot
) -> None:
    """Ctrl-C ends a scan after the messages in hand, with 130; the next one does the rest, and nothing twice."""
    with dovecot.client("alice") as client:
        for number in range(500):
            client.append("INBOX", message(SPAM_TEXT, f"spam{number}"))
    config = configured(tmp_path, model, account(dovecot))
    command = [sys.executable, "-m", "mailtagger", "--config", str(config), "scan", "--folder", "INBOX"]
    command += ["--apply", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as running:
        assert running.stdout
        running.stdout.readline()  # from here on it fills the pipe, and then waits for us
        running.send_signal(signal.SIGINT)
        *_, last = running.stdout.read().splitlines()
    seen = json.loads(last)["summary"]["seen"]
    assert running.returncode == 130
    assert 0 < seen < 500
    done = mailtagger("--config", config, "scan", "--folder", "INBOX", "--apply", "--json")
    assert done.status == 0
    assert done.records[-1]["summary"] == {"seen": 500, "spam": 500, "unsure": 0, "ham": 0, "failed": 0}
    assert sum("judged before" in record["notes"] for record in done.records[:-1]) == seen
    assert all(flags == {"MailtaggerSpam", "$Junk"} for flags in folder(dovecot, "INBOX").values())


def test_scan_finds_the_only_account_with_the_folder(
    mailtagger: Mailtagger, tmp_path: Path, model: Path, dovecot: Dovecot
) -> None:
    """Of several accounts --account names one, unless only one has the folder; an unknown name is wrong usage."""
    with dovecot.client("bob") as client:
        client.create_folder("Only bob")
    try:
        accounts = account(dovecot), account(dovecot, "work", username="bob")
        config = configured(tmp_path, model, *accounts)
        assert mailtagger("--config", config, "scan", "--folder", "Only bob", "--json").status == 0
        for wrong in (["INBOX"], ["Nowhere"], ["INBOX", "--account", "hom"]):
            done = mailtagger("--config", config, "scan", "--folder", *wrong)
            assert (done.status, done.out) == (2, "")
            assert "home" in done.err
        assert mailtagger("--config", config, "scan", "--folder", "INBOX", "--account", "work").status == 0
    finally:
        with dovecot.client("bob") as client:
            client.delete_folder("Only bob")


def test_missing_folder_and_wrong_password_end_with_1(
    mailtagger: Mailtagger, tmp_path: Path, model: Path, dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence each, and no traceback."""
    config = configured(tmp_path, model, account(dovecot))
    done = mailtagger("--config", config, "scan", "--folder", "Nowhere")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "Nowhere" in done.err
    monkeypatch.setenv("MAILTAGGER_HOME_PASSWORD", "wrong")
    done = mailtagger("--config", config, "scan", "--folder", "INBOX")
    assert (done.status, done.err.count("\n")) == (1, 1)


def test_server_that_is_away_ends_with_75(
    mailtagger: Mailtagger, tmp_path: Path, model: Path, unused_port: int
) -> None:
    """Nobody listens: the same command may succeed later."""
    away = {"name": "home", "host": "127.0.0.1", "port": unused_port, "tls": "none", "username": "alice"}
    done = mailtagger("--config", configured(tmp_path, model, away), "scan", "--folder", "INBOX")
    assert (done.status, done.err.count("\n")) == (75, 1)


def test_no_password_ends_with_78(
    mailtagger: Mailtagger, tmp_path: Path, model: Path, dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names every place where a password could be."""
    monkeypatch.delenv("MAILTAGGER_HOME_PASSWORD")
    config = configured(tmp_path, model, account(dovecot))
    for command in ["scan", "--folder", "INBOX"], ["run"]:
        done = mailtagger("--config", config, *command)
        assert done.status == 78
        assert "home.password" in done.err and "MAILTAGGER_HOME_PASSWORD" in done.err


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port of this machine on which nobody listens."""
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


# --- run


def test_run_marks_new_mail_reloads_and_ends_in_time(tmp_path: Path, model: Path, dovecot: Dovecot) -> None:
    """`run` leaves what was there, deals with what arrives, survives a broken file on SIGHUP, and ends on SIGTERM."""
    dovecot.deliver("alice", message(SPAM_TEXT, "old"))
    config = configured(tmp_path, model, account(dovecot, mode="apply"))
    command = [sys.executable, "-m", "mailtagger", "--config", str(config), "run"]
    log = tmp_path / "log"
    with log.open("wb") as err, subprocess.Popen(command, stderr=err, cwd=ROOT) as daemon:
        try:
            eventually(lambda: "ready" in log.read_text(), daemon)
            dovecot.deliver("alice", SPAM)
            eventually(lambda: folder(dovecot, "Junk") == {"spam": {"MailtaggerSpam", "$Junk"}}, daemon)
            assert folder(dovecot, "INBOX") == {"old": set()}
            good = config.read_text()
            config.write_text("accounts: nonsense\n")
            daemon.send_signal(signal.SIGHUP)
            eventually(lambda: "the old one stays" in log.read_text(), daemon)
            config.write_text(good)
            dovecot.deliver("alice", message(SPAM_TEXT, "later"))
            eventually(lambda: "later" in folder(dovecot, "Junk"), daemon)
            began = time.monotonic()
            daemon.terminate()
            assert daemon.wait(10) == 0
            assert time.monotonic() - began < 5
        finally:
            daemon.kill()
    assert "Cheap pills" not in log.read_text(), "a subject is for level debug"


def eventually(condition: Callable[[], bool], daemon: "subprocess.Popen[bytes]", seconds: float = 15) -> None:
    """Returns when the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert daemon.poll() is None, "the daemon has ended"
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.05)


def test_second_run_is_refused(tmp_path: Path, model: Path, mailtagger: Mailtagger, unused_port: int) -> None:
    """Two daemons on one state directory would act twice: the second names the first and ends with 1."""
    from mailtagger.state import RunLock

    away = {"name": "home", "host": "127.0.0.1", "port": unused_port, "tls": "none", "username": "alice"}
    config = configured(tmp_path, model, away)
    with RunLock(tmp_path / "state"):
        done = mailtagger("--config", config, "run")
    assert done.status == 1
    assert str(os.getpid()) in done.err
