"""A process of its own that holds a lab's network namespaces, and ends everything when whoever started it is gone.

It is run as a script, by itself, on the standard library alone:

    warden_main.py hold [none | root | user]   JSON requests on stdin, one answer a line on stdout
    warden_main.py enter NET USER ARGV…        become ARGV inside a namespace that a warden holds (USER `-`: none)

    holding  --end of stdin-->  nobody enters any more, killing  --nobody is left-->  gone

Namespaces have no names here: each is an open file of this process and is reached as `/proc/PID/fd/N`. When the process
ends, however it ends, the kernel takes them down. An end of stdin means that the starter is gone, be it by SIGKILL.
It must never kill a process that it was not told of and that is in none of its namespaces.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
ROUNDS_MAX = 50
"""How often processes are looked for that were started while others were being killed."""
ROUND_S = 0.02
JOB_S = 20.0


class CallFailed(OSError):
    """A system call was refused."""


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise CallFailed(number, f"{name}: {os.strerror(number)}")


def born(pid: int) -> str | None:
    """Give when a process was started, in words that differ from its number's next owner; None: there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        # No Linux: there is no /proc to ask.
        done = subprocess.run(["ps", "-p", str(pid), "-o", "lstart="], capture_output=True, text=True, check=False)  # noqa: S603,S607  # a number
        return done.stdout.strip() or None
    except (ProcessLookupError, PermissionError):
        return None
    fields = text.rpartition(")")[2].split()
    # Field 3 is the state, 22 the start; a zombie is nobody that could be killed.
    return None if fields[0] in "ZX" else fields[19]


def kill_if_same(pid: int, birth: str | None) -> bool:
    """Kill a process, unless its number belongs to another one by now."""
    if birth is None or born(pid) != birth:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _become_root_of_a_user_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


class Warden:
    """The namespaces by name, and the processes that must not outlive the starter."""

    def __init__(self) -> None:
        self.namespaces: dict[str, int] = {}
        self.guarded: dict[int, str | None] = {}
        self.discarded: list[str] = []
        """Paths that go when the starter is gone."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request."""
        doing = request["do"]
        if doing == "open":
            for name in request["names"]:
                _call("unshare", CLONE_NEWNET)
                self.namespaces[name] = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            return {"files": self.namespaces}
        if doing == "jobs":
            for job in request["jobs"]:
                self._job(job)
        elif doing == "guard":
            self.guarded[request["pid"]] = born(request["pid"])
        elif doing == "release":
            self.guarded.pop(request["pid"], None)
        elif doing == "discard":
            self.discarded.append(request["path"])
        else:
            raise ValueError(f"no such request: {doing}")
        return {}

    def _job(self, job: dict[str, Any]) -> None:
        _call("setns", self.namespaces[job["in"]], CLONE_NEWNET)
        for setting, value in job.get("settings", {}).items():
            # A kernel without IPv6 has none of its settings.
            path = Path("/proc/sys/net", setting)
            if path.exists() or "ipv6" not in setting:
                path.write_text(value)
        if argv := job.get("argv"):
            text = job.get("input", "").replace("{warden}", str(os.getpid()))
            done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=JOB_S, check=False)  # noqa: S603  # The starter's own.
            if done.returncode:
                raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")

    def end_all(self) -> None:
        """Kill every process that is guarded or in one of the namespaces, and remove what was to go."""
        for pid, birth in self.guarded.items():
            kill_if_same(pid, birth)
        held = self._withdraw()
        for _ in range(ROUNDS_MAX):
            if not held or not self._kill_inside(held):
                break
            time.sleep(ROUND_S)
        for path in self.discarded:
            if Path(path).is_dir():
                shutil.rmtree(path, ignore_errors=True)  # Somebody else may be clearing it at the same time.
            else:
                Path(path).unlink(missing_ok=True)

    def _withdraw(self) -> set[int]:
        """Let nobody enter any more, and give the namespaces' numbers; they stay held, so that these are nobody else's.

        Who was on the way in before is inside when `_kill_inside` looks, or finds out that it is too late (`enter`).
        """
        held = [os.dup(file) for file in self.namespaces.values()]
        for file in self.namespaces.values():
            os.close(file)
        return {os.fstat(file).st_ino for file in held}

    def _kill_inside(self, held: set[int]) -> bool:
        found = False
        for path in Path("/proc").iterdir():
            entry = path.name
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                # The files are held open, so that these numbers belong to no other namespace.
                inside = (path / "ns/net").stat().st_ino in held
                if inside and born(int(entry)) is not None:
                    os.kill(int(entry), signal.SIGKILL)
                    found = True
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # It ended meanwhile, or is another user's and so none of ours.
        return found


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def hold(power: str) -> None:
    """Answer requests until stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Whoever interrupts a lab means its starter, which then ends stdin.
        signal.signal(number, signal.SIG_IGN)
    warden = Warden()
    try:
        if power == "user":
            _become_root_of_a_user_namespace()
        _say({"pid": os.getpid()})
    except OSError as error:
        _say({"error": str(error)})
        return
    try:
        for line in sys.stdin:
            try:
                reply = warden.answer(json.loads(line))
            except (OSError, ValueError, KeyError, RuntimeError, subprocess.SubprocessError) as error:
                reply = {"error": f"{error}"}
            _say(reply)
    except BrokenPipeError:
        pass  # The starter is gone in the middle of an answer.
    finally:
        warden.end_all()


def _is_offered(net: str, held: int) -> bool:
    try:
        return os.path.samestat(Path(net).stat(), os.fstat(held))
    except FileNotFoundError:
        return False


def enter(net: str, user: str, argv: list[str]) -> None:
    """Become `argv` in a namespace."""
    try:
        held = os.open(net, os.O_RDONLY | os.O_CLOEXEC)
        if user != "-":
            _call("setns", os.open(user, os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWUSER)
        _call("setns", held, CLONE_NEWNET)
        # Once inside: who looks before could be overtaken by the end of the lab, and be killed by nobody.
        if not _is_offered(net, held):
            sys.exit(f"cannot start {argv[0]} in the lab: it has ended")
        os.execvp(argv[0], argv)  # noqa: S606  # That is the whole point.
    except OSError as error:
        sys.exit(f"cannot start {argv[0]} in the lab: {error}")


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        hold(sys.argv[2])
    else:
        enter(sys.argv[2], sys.argv[3], sys.argv[4:])
