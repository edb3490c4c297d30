"""demo.py and demo_server.py: the demo runs to its end on either server, leaves nothing behind, and tells the truth."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mailtagger import demo
from mailtagger.demo import Found, Sample, samples, tabulate
from mailtagger.parse import parse
from tests.imap_server import needs_dovecot
from tests.tiny_model import tiny_model

ROOT = Path(__file__).parent.parent
EXAMPLES = r"(.*\.)?example(\.(com|net|org|de))?|192\.0\.2\.\d+|198\.51\.100\.\d+|203\.0\.113\.\d+"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that knows obvious spam."""
    return tiny_model(tmp_path)


def test_samples_are_of_all_kinds() -> None:
    """A dozen messages and more: good ones, spam of several kinds, a broken one and an empty one, none twice."""
    found = samples()
    kinds = [sample.expected for sample in found]
    assert set(kinds) == {"ham", "spam", "unsure"}
    assert kinds.count("ham") >= 7 and kinds.count("spam") >= 4
    assert len({sample.message_id for sample in found}) == len(found) >= 12
    notes = {sample.name: parse(sample.raw).notes for sample in found}
    assert any("broken" in note for note in notes["ham-broken-mime"])
    assert not parse(next(sample.raw for sample in found if sample.expected == "unsure")).body


def test_samples_name_no_real_host() -> None:
    """Hosts and addresses are those that RFC 2606 and RFC 5737 keep free for examples."""
    for sample in samples():
        text = sample.raw.decode("latin-1")
        for host in re.findall(r"(?:@|https?://)([\w.-]+)", text):
            assert re.fullmatch(EXAMPLES, host.rstrip(".")), (sample.name, host)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["pymap", pytest.param("dovecot", marks=needs_dovecot)])
def test_demo_ends_by_itself_with_a_table(server: str, model: Path) -> None:
    """Every sample is judged while `run` watches, and again by `scan`; all are intact, and the status is 0."""
    command = [sys.executable, "-m", "mailtagger", "demo", "--server", server, "--model", str(model)]
    with tempfile.TemporaryDirectory() as aside:
        Path(aside).chmod(0o755)  # Dovecot does not run as root
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, timeout=60, env=os.environ | {"TMPDIR": aside}
        )
        left = list(Path(aside).iterdir())
    assert (done.returncode, done.stderr) == (0, "")
    assert server in done.stdout.splitlines()[0].lower()
    live, _, rest = done.stdout.partition("was told to stop and did, with exit status 0")
    assert len(re.findall(r"^INBOX .* \d+\.\d\d s ", live, re.MULTILINE)) == len(samples())
    assert f"{len(samples())} messages: " in rest
    table = rest.partition("What the server has now:")[2]
    for sample in samples():
        assert re.search(rf"^{sample.name.partition('-')[2]} +{sample.expected} ", table, re.MULTILINE), sample.name
    assert "Every message is there once in each account, byte for byte as it came, and none is marked as read." in table
    assert left == []


@pytest.mark.slow
def test_keep_leaves_the_server_up_until_interrupted(model: Path) -> None:
    """With --keep the lines to reach the server are printed; Ctrl-C then ends everything, with status 0."""
    command = [sys.executable, "-m", "mailtagger", "demo", "--keep", "--server", "pymap", "--model", str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout
        said = ""
        while not said.endswith(" run\n"):
            line = running.stdout.readline()
            assert line, said
            said += line
        port = re.search(r"IMAP server 127\.0\.0\.1, port (\d+)", said)
        config = re.search(r"--config (\S+)", said)
        assert port and config and Path(config[1]).exists()
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 0
        assert not Path(config[1]).exists()


@pytest.mark.parametrize(
    ("flags", "folder", "change", "faults", "says"),
    [
        ({"mailtaggerspam", "$junk"}, "Junk", None, 0, "0 of 1 as a person would say; false positive: ham-a."),
        (set(), "INBOX", None, 0, "1 of 1 as a person would say."),
        ({"\\seen"}, "INBOX", None, 1, "HARMED"),
        (set(), "INBOX", lambda raw: raw + b"x", 1, "HARMED"),
    ],
)
def test_table_tells_the_truth(
    flags: set[str], folder: str, change: Callable[[bytes], bytes] | None, faults: int, says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A verdict that a person would not give is called so, and a message that was harmed makes the demo fail."""
    raw = b"Message-ID: <a@example.org>\r\n\r\nhello\r\n"
    there = {"a@example.org": [Found(folder, frozenset(flags), change(raw) if change else raw)]}
    intact = {"a@example.org": [Found(folder, frozenset(flags - {"\\seen"}), raw)]}
    assert tabulate([Sample("ham-a", raw, "a@example.org", "")], there, intact) == faults
    assert says in capsys.readouterr().out


def test_table_misses_a_lost_message(capsys: pytest.CaptureFixture[str]) -> None:
    """A message that is nowhere, or there twice, is a fault."""
    raw = b"Message-ID: <a@example.org>\r\n\r\nhello\r\n"
    there = Found("INBOX", frozenset(), raw)
    mails = [Sample("ham-a", raw, "a@example.org", "")]
    assert tabulate(mails, {}, {"a@example.org": [there]}) == 1
    assert tabulate(mails, {"a@example.org": [there]}, {"a@example.org": [there, there]}) == 1
    assert capsys.readouterr().out.count("HARMED") == 2


def test_pymap_keeps_keywords() -> None:
    """The embedded server announces that it keeps keywords, and does; unpatched pymap would drop them."""
    with demo.serving("pymap") as server, demo.connected(server, "alice") as client:
        demo.append(client, "INBOX", b"Subject: x\r\n\r\ny\r\n")
        client.select("INBOX")
        assert rb"\*" in client.response("PERMANENTFLAGS")[1][0]  # type: ignore[operator]
        client.store("1", "+FLAGS", "(MailtaggerSpam $Junk)")
        client.select("Junk")
        client.select("INBOX")
        flags = client.fetch("1", "(FLAGS)")[1][0]
    assert b"MailtaggerSpam" in flags and b"$Junk" in flags  # type: ignore[operator]
