"""A Dovecot of one's own on 127.0.0.1, for tests and the demo: free ports, a certificate, two users, nothing shared.

    with Dovecot() as server:
        server.deliver("alice", b"Subject: x\\r\\n\\r\\ny\\r\\n")
        server.client("bob").list_folders()

Works with Dovecot 2.3 and 2.4, as root or not; all it writes is in a temporary directory that goes with it.
"""

import contextlib
import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from imapclient import IMAPClient

INSTALL = "apt-get install --no-install-recommends dovecot-imapd"
USERS = ("alice", "bob")
PASSWORD = "secret"
SPECIAL_USE = ("Junk", "Trash", "Archive", "Drafts", "Sent")
PATIENCE = 10.0  # seconds for a start or a stop; 0.4 are usual

# The end of its standard input is the end of the server, so that it does not outlive a parent who was killed.
GUARDED = 'exec 3<&0 </dev/null; (read -r _ <&3; kill -TERM $$) & exec "$@" 3<&-'

COMMON = """\
base_dir = {state}/run
state_dir = {state}/run
log_path = {state}/dovecot.log
listen = 127.0.0.1
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
first_valid_gid = 1
auth_failure_delay = 0 secs
auth_mechanisms = plain login
mail_max_userip_connections = 100
ssl = yes
namespace inbox {{
  inbox = yes
  separator = {separator}
  prefix = {prefix}
{mailboxes}
}}
service imap-login {{
  chroot =
  process_min_avail = 1
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = {imaps_port}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
"""

# What the two versions call differently; 2.4 wants its version to come first.
V23 = """\
protocols = imap
ssl_cert = <{state}/server.pem
ssl_key = <{state}/server.key
disable_plaintext_auth = no
mail_location = maildir:~/mail
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {state}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {state}/users
  default_fields = uid={user} gid={group} home={state}/home/%u
}}
"""
V24 = """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
protocols {{
  imap = yes
}}
ssl_server_cert_file = {state}/server.pem
ssl_server_key_file = {state}/server.key
auth_allow_cleartext = yes
mail_driver = maildir
mail_path = ~/mail
passdb passwd-file {{
  passwd_file_path = {state}/users
}}
userdb passwd-file {{
  passwd_file_path = {state}/users
  fields {{
    uid = {user}
    gid = {group}
    home = {state}/home/%{{user}}
  }}
}}
"""


def missing() -> str:
    """Why no Dovecot can be started here, with the way out; nothing where it can."""
    if not _program("dovecot") or not any(Path(path, "dovecot/imap").exists() for path in ("/usr/lib", "/usr/libexec")):
        return f"Dovecot is not installed: {INSTALL}"
    return ""


class Dovecot:
    """One server; `port` speaks plain IMAP and STARTTLS, `imaps_port` TLS, under a certificate from `ca_file`."""

    def __init__(self, *, prefix: str = "", separator: str = "/", special_use: bool = True, extra: str = "") -> None:
        if reason := missing():
            raise RuntimeError(reason)
        self._state = Path(tempfile.mkdtemp(prefix="dovecot-"))  # short: a socket's path has at most 107 bytes
        self._dovecot = _program("dovecot")
        # Dovecot handles no mail as root; as root everything runs as nobody.
        account = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        self._identity: dict[str, Any] = {}
        if os.getuid() == 0:
            self._identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        self.host = "127.0.0.1"
        self.ca_file = self._state / "ca.pem"
        self.log = self._state / "dovecot.log"
        self.port, self.imaps_port = _free_ports()
        self.version = _run([self._dovecot, "--version"]).decode().split()[0]
        (self._state / "users").write_text("".join(f"{user}:{{PLAIN}}{PASSWORD}::::::\n" for user in USERS))
        for name in ("run", "home"):
            (self._state / name).mkdir()
        certify(self._state)
        self._options: dict[str, Any] = {
            "state": self._state, "user": account.pw_name, "group": _group(account.pw_gid),
            "prefix": prefix, "separator": separator, "mailboxes": _mailboxes(special_use),
        }
        self._extra = extra

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Answers when this returns; after `stop` or `kill` with the same mail on the same ports."""
        for _ in range(3):  # another program may take a port between our looking and Dovecot's binding
            if self._launch():
                return
            self.port, self.imaps_port = _free_ports()
        raise RuntimeError(f"Dovecot {self.version} does not start: {self._said()}")

    def stop(self) -> None:
        """An orderly end; the mail stays."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
            self.kill()

    def kill(self) -> None:
        """A crash: everything gone at once, with no word to the clients."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None

    def empty(self) -> None:
        """All mail and all folders gone, as on the first day."""
        for home in (self._state / "home").iterdir():
            shutil.rmtree(home)

    def close(self) -> None:
        """Gone, with all its files."""
        self.kill()
        shutil.rmtree(self._state, ignore_errors=True)

    def deliver(self, user: str, raw: bytes, folder: str = "INBOX") -> None:
        """A message stored as it is, by another process than the IMAP server, as an MTA would."""
        self.doveadm("save", "-u", user, "-m", folder, stdin=raw)

    def doveadm(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """What doveadm prints, as in `doveadm("mailbox", "update", "--uid-validity", "77", "-u", "alice", "INBOX")`."""
        command = [_program("doveadm"), "-c", str(self._state / "dovecot.conf"), *arguments]
        return _run(command, input=stdin, **self._identity)

    def client(self, user: str) -> IMAPClient:
        """Another mail program, logged in over plain IMAP."""
        client = IMAPClient(self.host, self.port, ssl=False, timeout=20)
        client.login(user, PASSWORD)
        return client

    def _launch(self) -> bool:
        """Whether it answers; False when a port was taken."""
        template = COMMON + V23 if self.version.startswith("2.3") else V24 + COMMON
        config = self._state / "dovecot.conf"
        config.write_text(
            template.format(port=self.port, imaps_port=self.imaps_port, **self._options) + self._extra
        )
        self._hand_over()
        with (self._state / "start.log").open("wb") as said:
            self._process = subprocess.Popen(
                ["sh", "-c", GUARDED, "sh", self._dovecot, "-F", "-c", str(config)],
                stdin=subprocess.PIPE, stdout=said, stderr=said,
                start_new_session=True, **self._identity,  # Ctrl-C at the terminal is not for it
            )
        process = self._process
        if _within(PATIENCE, lambda: process.poll() is not None or self._answers()) and process.poll() is None:
            return True
        self.kill()
        if "already in use" in self._said():
            return False
        raise RuntimeError(f"Dovecot {self.version} does not start: {self._said()}")

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), 1) as sock:
                sock.settimeout(2)
                return sock.recv(4) == b"* OK"
        except OSError:
            return False

    def _said(self) -> str:
        files = (self._state / "start.log", self.log)
        return "\n".join(file.read_text(errors="replace")[-1000:] for file in files if file.exists())

    def _hand_over(self) -> None:
        """All files belong to the one as whom it runs."""
        if self._identity:
            for path in (self._state, *self._state.rglob("*")):
                os.chown(path, self._identity["user"], self._identity["group"], follow_symlinks=False)


def certify(directory: Path, names: str = "DNS:localhost,IP:127.0.0.1", days: int = 3650) -> None:
    """`server.pem` and `server.key` for these names, signed by the authority in `ca.pem`, which is made if need be."""
    def openssl(*arguments: str) -> None:
        _run(["openssl", *arguments], cwd=directory)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    if not (directory / "ca.pem").exists():
        openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "3650",
                "-subj", "/CN=mailtagger test authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    (directory / "extensions").write_text(
        f"subjectAltName={names}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    openssl("req", "-new", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=mailtagger test server")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", str(days), "-extfile", "extensions", "-out", "server.pem")


def _mailboxes(special_use: bool) -> str:
    lines = []
    for name in SPECIAL_USE:
        lines += [f"  mailbox {name} {{", "    auto = subscribe"]
        lines += [f"    special_use = \\{name}"] if special_use else []
        lines += ["  }"]
    return "\n".join(lines)


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def _program(name: str) -> str:
    """The program's path, or nothing; Debian keeps Dovecot where only root looks."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))) or ""


def _group(gid: int) -> str:
    return grp.getgrgid(gid).gr_name


def _run(command: list[str], **options: Any) -> bytes:
    """What the command prints; RuntimeError with what it said where it fails."""
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    said: bytes = done.stdout
    return said


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
