"""A service's sandbox, built by hand where no systemd runs: what systemd/*.service forbids is forbidden here as well.

    python tests/sandbox.py UNIT STATE_DIR PROGRAM...

run by root, on a 64-bit Linux of 6.3 or later with libseccomp. It reads the unit and translates each directive to what
systemd does for it; `TRANSLATED` are those it knows, `LEFT` those that need systemd itself or the kernel's control
groups. A directive that is in neither is an error: none is forgotten. The program runs as a user that has no name, with
no environment but what systemd would give it.
"""

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

NEW_FILES, NEW_NAMES, NEW_IPC, NEW_USER, NEW_NET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x40000000
NAMESPACES = 0x7E020080  # all of CLONE_NEW*
PDEATHSIG, CAPBSET_DROP, NO_NEW_PRIVS, SET_MDWE, CAP_AMBIENT, CLEAR_ALL = 1, 24, 38, 65, 47, 4
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026  # SCMP_ACT_ERRNO(...)
EQUAL, MASKED_EQUAL = 4, 7
READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
ENVIRONMENT = {"LANG", "PATH", "NOTIFY_SOCKET", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "PYTHONPATH"}
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
USER = 61_234  # DynamicUser takes one of 61184 to 65519

TRANSLATED = {
    "CapabilityBoundingSet", "AmbientCapabilities", "NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp",
    "PrivateDevices", "PrivateUsers", "ProtectProc", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules",
    "ProtectKernelTunables", "ProtectControlGroups", "RestrictNamespaces", "LockPersonality", "MemoryDenyWriteExecute",
    "RestrictAddressFamilies", "SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber", "DynamicUser",
    "User", "StateDirectory", "StateDirectoryMode", "UMask", "LimitCORE", "TasksMax", "PrivateNetwork",
    "ProtectClock", "RestrictRealtime",  # by the capabilities and system calls that are gone
}
LEFT = {
    "MemoryMax", "IPAddressDeny",  # control groups: the test measures the first, PrivateNetwork has the second
    "Nice",  # it keeps nobody out, and beside busy tests a process of 19 is never given a turn
    "RestrictSUIDSGID", "RemoveIPC", "KeyringMode", "IOSchedulingClass",
    "Type", "NotifyAccess", "ExecStart", "ExecReload", "WatchdogSec", "TimeoutStartSec", "TimeoutStopSec", "Restart",
    "RestartSec", "RestartPreventExitStatus", "LoadCredential",
}
libc = ctypes.CDLL(None, use_errno=True)


def directives(unit: Path) -> dict[str, list[str]]:
    """Key → values in order, of the section [Service]."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().split("[Service]")[1].split("[Install]")[0].splitlines():
        if match := re.match(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    if unknown := found.keys() - TRANSLATED - LEFT:
        raise SystemExit(f"tests/sandbox.py does not know {', '.join(sorted(unknown))}")
    return found


def check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str, target: str, kind: str = "", flags: int = BIND, data: str = "") -> None:
    words = (text.encode() for text in (source, target, kind))
    check(libc.mount(*words, ctypes.c_ulong(flags), data.encode()), f"mount {target}")


def hide(unit: dict[str, list[str]], state: Path) -> None:
    """The file systems as the service sees them: read-only but for its state, and much of them empty."""
    assert unit["ProtectSystem"] == ["strict"]
    hidden = ("/root/", "/home/", "/tmp/", "/var/tmp/")  # a service's program is never there; here it may be
    ours = {path for path in (sys.base_prefix, sys.prefix, str(ROOT)) if path.startswith(hidden)}
    program = {path: os.open(path, os.O_PATH) for path in ours
               if not any(path.startswith(f"{other}/") for other in ours)}
    kept = os.open(state, os.O_PATH)
    names = ("null", "zero", "full", "random", "urandom", "tty")
    devices = {name: os.open(f"/dev/{name}", os.O_PATH) for name in names}
    empty = [("/tmp", 0o1777), ("/var/tmp", 0o1777)] if unit["PrivateTmp"] == ["yes"] else []
    empty += [(home, 0o755) for home in ("/home", "/root", "/run/user")] if unit["ProtectHome"] == ["yes"] else []
    empty += [("/dev", 0o755)] if unit["PrivateDevices"] == ["yes"] else []
    empty += [("/usr/lib/modules", 0)] if unit["ProtectKernelModules"] == ["yes"] else []
    empty += [("/sys/fs/cgroup", 0o755)] if unit["ProtectControlGroups"] == ["yes"] else []
    for path, mode in empty:
        if Path(path).is_dir():
            mount("tmpfs", path, "tmpfs", NO_SUID if path == "/dev" else NO_SUID | NO_DEVICES, f"mode={mode:o}")
    for name, descriptor in devices.items():
        Path("/dev", name).touch()
        mount(f"/proc/self/fd/{descriptor}", f"/dev/{name}")
    for path, descriptor in program.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{descriptor}", path)
    mount(f"/proc/self/fd/{kept}", str(state))
    mount("proc", "/proc", "proc", NO_SUID, "hidepid=invisible" if unit["ProtectProc"] == ["invisible"] else "")
    for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/kmsg"):
        if Path(path).exists():
            mount("/dev/null" if path == "/proc/kmsg" else path, path)
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted(set(points), key=len):
        own = point in ("/tmp", "/var/tmp", "/proc", str(state)) or point.startswith("/dev")
        if not own and Path(point).exists():  # what lies below an empty one is out of reach
            mount("", point, "", READ_ONLY | REMOUNT | BIND)
    for descriptor in (*program.values(), kept, *devices.values()):
        os.close(descriptor)


def become(user: int, private: bool) -> None:
    """Nobody else from here on: a user namespace that knows this user alone (PrivateUsers), and no way back."""
    os.setgroups([])
    if not private:
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        return
    parent, child = os.pipe(), os.pipe()
    if pid := os.fork():
        os.read(child[0], 1)
        for name, content in (("setgroups", "deny"), ("gid_map", f"{user} {user} 1"), ("uid_map", f"{user} {user} 1")):
            Path(f"/proc/{pid}/{name}").write_text(content)
        os.write(parent[1], b"x")
        signal.signal(signal.SIGTERM, lambda number, frame: os.kill(pid, number))
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    check(libc.unshare(NEW_USER), "unshare")
    os.write(child[1], b"x")
    os.read(parent[0], 1)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    check(libc.prctl(PDEATHSIG, signal.SIGKILL), "prctl")  # whoever ends the parent ends us


def calls(words: str) -> set[str]:
    """The system calls in a list of names and @sets, as systemd knows them."""
    found: set[str] = set()
    for word in words.split():
        if word.startswith("@"):
            said = subprocess.run(["systemd-analyze", "syscall-filter", word], stdout=subprocess.PIPE, check=True)
            lines = [line.strip() for line in said.stdout.decode().splitlines()[1:]]
            found |= calls(" ".join(line for line in lines if line and not line.startswith("#")))
        else:
            found.add(word)
    return found


class Condition(ctypes.Structure):
    """struct scmp_arg_cmp"""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """A seccomp filter that allows what it is told and answers everything else with EPERM, as the unit says."""

    def __init__(self, unit: dict[str, list[str]]) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2")
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._lib.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
        self._filter = ctypes.c_void_p(self._lib.seccomp_init(ctypes.c_uint32(EPERM)))
        assert unit["SystemCallErrorNumber"] == ["EPERM"]
        allowed = calls("@default")
        for line in unit["SystemCallFilter"]:
            allowed = allowed - calls(line[1:]) if line.startswith("~") else allowed | calls(line)
        for name in sorted(allowed - {"socket", "clone", "clone3", "unshare", "setns", "personality"}):
            self.rule(name)
        for family in unit["RestrictAddressFamilies"][0].split():
            self.rule("socket", Condition(0, EQUAL, FAMILIES[family], 0))
        self.rule("clone", Condition(0, MASKED_EQUAL, NAMESPACES, 0))
        self.rule("clone3", action=ENOSYS)  # its flags cannot be seen: libc takes clone instead
        self.rule("personality", Condition(0, EQUAL, 0, 0))

    def rule(self, name: str, *conditions: Condition, action: int = ALLOW) -> None:
        number = self._lib.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # a name of another architecture has none here
            array = (Condition * len(conditions))(*conditions)
            check(self._lib.seccomp_rule_add_array(
                self._filter, ctypes.c_uint32(action), number, len(conditions), array), f"seccomp: {name}")

    def load(self) -> None:
        check(self._lib.seccomp_load(self._filter), "seccomp_load")


def main() -> None:
    unit, state, program = directives(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3:]
    calls_allowed = Filter(unit)
    network = NEW_NET if unit.get("PrivateNetwork") == ["yes"] else 0
    check(libc.unshare(NEW_FILES | NEW_NAMES | NEW_IPC | network), "unshare")
    mount("", "/", "", RECURSIVE | PRIVATE)
    os.umask(0o022)  # systemd's own, for the directories that it makes
    hide(unit, state)
    os.umask(int(unit["UMask"][0], 8))
    resource.setrlimit(resource.RLIMIT_CORE, (int(unit["LimitCORE"][0]),) * 2)
    resource.setrlimit(resource.RLIMIT_NPROC, (int(unit["TasksMax"][0]),) * 2)
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == [""]
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    become(USER, unit["PrivateUsers"] == ["yes"])
    for capability in range(last + 1):
        libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(CAP_AMBIENT, CLEAR_ALL, 0, 0, 0)
    check(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if unit["MemoryDenyWriteExecute"] == ["yes"]:
        check(libc.prctl(SET_MDWE, 1, 0, 0, 0), "PR_SET_MDWE (Linux 6.3)")
    os.chdir("/")
    calls_allowed.load()
    os.execve(program[0], program, {name: value for name, value in os.environ.items() if name in ENVIRONMENT})


if __name__ == "__main__":
    main()
