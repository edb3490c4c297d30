"""The services under their own sandbox: what the units forbid is forbidden, and mail is marked all the same.

`tests/sandbox.py` stands for systemd, which does not run in a container; what it cannot build is listed there.
"""

import ctypes
import ctypes.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest
import yaml

from mailtagger import artifact
from mailtagger.clean import clean_text
from mailtagger.dovecot import PASSWORD, Dovecot
from mailtagger.journal import FILE, Journal
from mailtagger.lessons import Lessons
from mailtagger.score import open_scorer
from tests.running import Daemon, spam
from tests.sandbox import USER, directives
from tests.test_retrain import OFFERS, lesson
from tests.tiny_model import tiny_model

ROOT = Path(__file__).parent.parent
RUN, RETRAIN = ROOT / "systemd" / "mailtagger.service", ROOT / "systemd" / "mailtagger-retrain.service"
MEGABYTE = 1 << 20


def missing() -> str:
    """Why no sandbox can be built here."""
    if os.geteuid() != 0:
        return "only root can build a sandbox as systemd does"
    if not Path("/proc/self/ns/user").exists() or platform.machine() not in ("x86_64", "aarch64"):
        return "no user namespaces here, or another processor"
    if not ctypes.util.find_library("seccomp"):
        return "libseccomp is missing: apt-get install libseccomp2"
    if not shutil.which("systemd-analyze"):
        return "systemd-analyze is missing: apt-get install systemd"
    code = "import ctypes; c = ctypes.CDLL(None); exit(bool(c.prctl(65, 1, 0, 0, 0) or c.unshare(0x20000)))"
    if subprocess.run([sys.executable, "-c", code]).returncode:
        return "this kernel is older than 6.3, or this container may not mount"
    return ""


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


class Service:
    """What is installed for a service: its configuration, its credential, its state, and the program."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.config, self.state = directory, directory / "config.yaml", directory / "state"
        directory.chmod(0o755)
        self.state.mkdir(mode=0o700)
        (directory / "credentials").mkdir(mode=0o500)
        (directory / "credentials" / "home.password").write_text(PASSWORD)
        self.environment = {
            "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "STATE_DIRECTORY": str(self.state),
            "CREDENTIALS_DIRECTORY": str(directory / "credentials"), "LANG": "C.UTF-8",
        }

    def command(self, unit: Path, *program: str) -> list[str]:
        """What runs a program as the service does; by then state and credential belong to the service's user."""
        for top in (self.state, self.directory / "credentials"):
            for path in (top, *top.rglob("*")):
                os.chown(path, USER, USER, follow_symlinks=False)
        return [str(ROOT / "tests" / "sandbox.py"), str(unit), str(self.state), *program]

    def program(self, unit: Path) -> list[str]:
        """ExecStart of the unit, with what is installed here in the place of /opt and /etc."""
        words = directives(unit)["ExecStart"][0].split()
        assert words[0].endswith("/bin/mailtagger") and words[1] == "--config"
        return [sys.executable, "-m", "mailtagger", "--config", str(self.config), *words[3:]]

    def confined(self, unit: Path, *program: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *self.command(unit, *program)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=400)


@pytest.fixture
def service() -> Iterator[Service]:
    """In /run, as /tmp is empty in the sandbox."""
    directory = Path(tempfile.mkdtemp(prefix="mailtagger-test-", dir="/run"))
    yield Service(directory)
    shutil.rmtree(directory)


PROBE = """
import json, mmap, os, socket, ctypes
def tried(what):
    try:
        return what() or "done"
    except OSError as error:
        return type(error).__name__ if error.errno != 30 else "read-only"
libc = ctypes.CDLL(None, use_errno=True)
def called(name, *given):
    if getattr(libc, name)(*given) < 0:
        raise OSError(ctypes.get_errno(), name)
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({
    "etc": tried(lambda: open("/etc/mailtagger-test", "w").close()),
    "program": tried(lambda: open(ROOT + "/mailtagger/evil.py", "w").close()),
    "state": tried(lambda: open(STATE + "/mine", "w").close()),
    "mode": oct(os.stat(STATE + "/mine").st_mode & 0o777),
    "tmp": [name for name in os.listdir("/tmp") if not ROOT.startswith("/tmp/" + name + "/")],
    "home": [name for name in os.listdir("/root")
             if not name.startswith(".pyenv") and not ROOT.startswith("/root/" + name + "/")],
    "devices": sorted(os.listdir("/dev")),
    "init": tried(lambda: os.listdir("/proc/1")),
    "sysctl": tried(lambda: open("/proc/sys/kernel/hostname", "w").close()),
    "netlink": tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()),
    "packet": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()),
    "inet": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()),
    "root": tried(lambda: os.setuid(0)),
    "namespace": tried(lambda: called("unshare", 0x10000000)),
    "mount": tried(lambda: called("mount", b"none", b"/tmp", b"tmpfs", 0, None)),
    "ptrace": tried(lambda: called("ptrace", 0, 0, 0, 0)),
    "code": tried(lambda: mmap.mmap(-1, 4096, prot=7).close()),
    "personality": tried(lambda: called("personality", 0x40000)),
    "user": [os.getuid(), os.getgid(), os.getgroups()],
    "capabilities": {name: int(status[name], 16) for name in status if name.startswith("Cap")},
    "flags": [status["NoNewPrivs"].strip(), status["Seccomp"].strip()],
    "environment": sorted(os.environ.keys() - {"LC_CTYPE"}),
}))
"""


def test_the_sandbox_is_one(service: Service) -> None:
    """All that the unit forbids fails in it, and what it grants does not."""
    code = PROBE.replace("ROOT", repr(str(ROOT))).replace("STATE", repr(str(service.state)))
    done = service.confined(RUN, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "etc": "read-only", "program": "read-only", "sysctl": "read-only",
        "state": "done", "mode": "0o600", "inet": "done",
        "tmp": [], "home": [], "devices": ["full", "null", "random", "tty", "urandom", "zero"],
        "init": "FileNotFoundError",
        **dict.fromkeys(("netlink", "packet", "root", "namespace", "mount"), "PermissionError"),
        **dict.fromkeys(("ptrace", "code", "personality"), "PermissionError"),
        "user": [USER, USER, []],
        "capabilities": dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0),
        "flags": ["1", "2"], "environment": sorted(service.environment),
    }


def test_mail_is_moved_under_the_sandbox(service: Service, dovecot: Dovecot) -> None:
    """`ExecStart` of mailtagger.service: over verified TLS, with its credential, it finds spam, moves it, and ends."""
    (service.directory / "ca.pem").write_bytes(dovecot.ca_file.read_bytes())
    account = {
        "name": "home", "host": "localhost", "port": dovecot.imaps_port, "ca_file": "ca.pem", "username": "alice",
        "mode": "apply",
    }
    model = tiny_model(service.directory)
    service.config.write_text(yaml.safe_dump({"accounts": [account], "model": str(model), "log": {"level": "debug"}}))
    daemon = Daemon(service.config, service.command(RUN, *service.program(RUN)), service.environment)
    try:
        daemon.ready()
        dovecot.deliver("alice", spam("1"))
        with dovecot.client("alice") as alice:
            alice.select_folder("Junk", readonly=True)

            def moved() -> bool:
                alice.noop()
                return bool(alice.search(["KEYWORD", "MailtaggerSpam"]))

            daemon.until(moved)
        [child] = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
        status = dict(line.split(":", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
        assert int(status["VmHWM"].split()[0]) * 1024 < int(directives(RUN)["MemoryMax"][0].rstrip("M")) * MEGABYTE
        assert int(status["Threads"]) < int(directives(RUN)["TasksMax"][0])
        assert {Path(f"/proc/{child}/status").stat().st_uid, int(status["Uid"].split()[0])} == {USER}
        assert daemon.end() < 10
    finally:
        daemon.close()
    files = {path.name: oct(path.stat().st_mode & 0o777) for path in service.state.iterdir()}
    assert files[FILE] == "0o600" and set(files.values()) == {"0o600"}


@pytest.mark.slow
@pytest.mark.train
@pytest.mark.skipif(not util.find_spec("torch"), reason="torch is missing: pip install 'mailtagger[train]'")
def test_retraining_under_the_sandbox(service: Service) -> None:
    """`ExecStart` of mailtagger-retrain.service: without a network it trains, asks the gate, and says what came out."""
    service.config.write_text(yaml.safe_dump({"accounts": [{"name": "home", "host": "localhost", "username": "x"}]}))
    artifact.install(tiny_model(service.directory), service.state, open_scorer)
    with Journal(service.state / FILE) as journal:
        for text in (*OFFERS, clean_text("", "a word")):
            Lessons(journal).learn(lesson(text))
    done = service.confined(RETRAIN, *service.program(RETRAIN), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    assert summary["lessons"] >= 5 and (service.state / "models" / summary["candidate"]).is_dir()
    assert not (service.state / "models" / ".retrain").exists()
