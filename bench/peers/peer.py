"""One other tool between two ends: installed or not, started, ready, measured, stopped.

    installed --start()--> starting --a token comes through--> ready --close()--> gone, its children and folder too
                                    --it ends, or nothing comes through in time--> Unreachable, with its last words

A tool listens on a port of its own and connects on to ours, for each connection. Some need an agent beside the port
they lead to (ssh -R, frp, chisel, rathole): the relay stands in the middle, the agent is what a node would run.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import psutil

from atoll.bench.sockets import HOST, free_port, receive_exactly
from atoll.bench.way import Clocks, Pair, Way
from atoll.transport.bearer import make_bearer_ready
from atoll.transport.errors import TransportError, Unreachable

START_S = 15.0
PASS_S = 5.0
"""How long a token may take through a tool that is up."""
LOOK_S = 0.05
TOKEN_BYTES = 16
STOP_S = 10.0
LAST_WORDS_CHARACTERS = 400
_ADMIN_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin")
"""Not on everybody's PATH, but that is where distributions put servers."""


def program(name: str) -> str | None:
    """Find an installed program."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_ADMIN_FOLDERS))


def cpu_of(pid: int) -> float:
    """CPU seconds of a process, ended threads too, from its CPU clock as clock_getcpuclockid(3) makes it on Linux."""
    return time.clock_gettime((~pid << 3) | 2)


def tree_clocks(pid: int) -> dict[int, float]:
    """CPU seconds of a process and all below it that live."""
    clocks = {}
    try:
        for each in (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))):
            try:
                clocks[each] = cpu_of(each)
            except OSError:
                continue
    except psutil.NoSuchProcess:
        pass
    return clocks


class Peer(Way):
    """A tool in processes of its own, with a folder for its configuration; made, then started."""

    programs: ClassVar[tuple[str, ...]]
    """What must be installed."""
    install: ClassVar[str]
    """How to get it."""

    def __init__(self) -> None:
        self._keepers: list[subprocess.Popen[str]] = []
        self._pids: list[int] = []
        self._agents: list[int] = []
        self._seen: dict[int, float] = {}
        """The last that each process's clock has shown, ended ones too."""
        self._folder = tempfile.TemporaryDirectory(prefix="atoll-bench-")
        self.folder = Path(self._folder.name)
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(PASS_S)
        self.target = int(self._listener.getsockname()[1])
        """Our port, which the tool must connect on to."""
        self.port = free_port()
        """The tool's own."""

    @classmethod
    def absence(cls) -> str | None:
        """Tell why this tool cannot be measured here, and what to do; None if it can."""
        missing = [each for each in cls.programs if program(each) is None]
        return f"{' and '.join(missing)} not installed ({cls.install})" if missing else None

    def configure(self) -> None:
        """Write the tool's files into `folder`, and start its processes with `run`."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the tool and wait until something comes through.

        Raises:
            Unreachable: It ended, or nothing came through in time.
        """
        try:
            self._configure()
            give_up_at = time.monotonic() + START_S
            while True:
                try:
                    for sock in self.pair():
                        sock.close()
                    self.finish()
                except (OSError, TransportError) as error:
                    if any(each.poll() is not None for each in self._keepers) or time.monotonic() > give_up_at:
                        raise Unreachable(f"{self.name} did not start ({error}): {self._last_words()}") from None
                    time.sleep(LOOK_S)
                else:
                    return
        except BaseException:
            self.close()
            raise

    def _configure(self) -> None:
        try:
            self.configure()
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unreachable(f"{self.name} could not be configured: {error}") from error

    def run(self, *command: str, agent: bool = False) -> int:
        """Start one of the tool's programs under a keeper; gives its process id."""
        with (self.folder / "log").open("a") as log:
            keeper = subprocess.Popen(  # noqa: S603 - the peers' own commands
                [sys.executable, "-m", "atoll.bench.peers.keeper", program(command[0]) or command[0], *command[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.folder,
                process_group=0,
                text=True,
            )
        self._keepers.append(keeper)
        line = keeper.stdout.readline() if keeper.stdout else ""
        if not line:
            raise Unreachable(f"{self.name}'s {command[0]} did not start: {self._last_words()}")
        (self._agents if agent else self._pids).append(int(line))
        return int(line)

    def pair(self) -> Pair:
        """Connect through the tool; a token tells our connection from one of an earlier try."""
        near = socket.create_connection((HOST, self.port), PASS_S)
        try:
            self.prepare(near)
            token = os.urandom(TOKEN_BYTES)
            near.sendall(token)
            far = self._arrival(token)
        except BaseException:
            near.close()
            raise
        for sock in (near, far):
            make_bearer_ready(sock)
        return near, far

    def prepare(self, near: socket.socket) -> None:
        """Say what the tool wants to hear before it connects on; most want nothing."""

    def _arrival(self, token: bytes) -> socket.socket:
        give_up_at = time.monotonic() + PASS_S
        while time.monotonic() < give_up_at:
            far, _ = self._listener.accept()
            far.settimeout(PASS_S)
            with contextlib.suppress(OSError, Unreachable):
                if receive_exactly(far, TOKEN_BYTES) == token:
                    return far
            far.close()
        raise Unreachable(f"{self.name} let nothing through within {PASS_S:g} s")

    def clocks(self) -> Clocks:
        """CPU seconds of the relaying processes and their children."""
        return self._read(self._pids)

    def agent_clocks(self) -> Clocks:
        """CPU seconds of what a node would run beside its service."""
        return self._read(self._agents)

    def _read(self, roots: list[int]) -> Clocks:
        clocks = {pid: cpu_s for each in roots for pid, cpu_s in tree_clocks(each).items()}
        self._seen |= clocks
        return clocks

    def cpu_s(self) -> float:
        """CPU seconds of all its processes since their start, as far as their clocks were read."""
        self.clocks()
        self.agent_clocks()
        return sum(self._seen.values())

    @property
    def has_agents(self) -> bool:
        """Whether a node must run a part of this tool."""
        return bool(self._agents)

    def _last_words(self) -> str:
        log = self.folder / "log"
        said = " ".join(log.read_text(errors="replace").split()) if log.exists() else ""
        return said[-LAST_WORDS_CHARACTERS:] or "it said nothing"

    def close(self) -> None:
        """End all its processes, and forget its folder."""
        for keeper in reversed(self._keepers):
            for pipe in (keeper.stdin, keeper.stdout):
                if pipe:
                    pipe.close()
            try:
                keeper.wait(STOP_S)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
        self._keepers.clear()
        self._listener.close()
        self._folder.cleanup()
