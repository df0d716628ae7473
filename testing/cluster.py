"""Runs a whole cluster out of a spec: configs, processes in order, readiness, faults, and an end without remains.

    async with:  clouds  -->  relays and nodes  -->  all ready = up  --end-->  nodes, relays, clouds stopped in order
    any state    --a process ends by itself-->  the block is cancelled and ProcessDied is raised, with the log's end

The ground (`lab.py`, `loopback.py`) says where each process runs. A cluster never signals a process it did not start.
"""

import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from atoll.cluster_specs import ClusterSpec, Materials, NodeConfig, PlannedProcess, plan
from atoll.testing.api_client import NodeApi
from atoll.testing.errors import NoAnswer, NotReady, ProcessDied, UnknownName
from atoll.testing.ground import Ground
from atoll.testing.processes import ClusterProcess, environment_of_processes
from atoll.testing.runs import Run, published
from atoll.testing.warden_main import born

READY_S = 60.0
"""Starting Python nine times on two shared cores takes some seconds; this is far beyond."""
STOP_S = 6.0
"""A node lets calls in flight finish for up to 2 s, and the host may be busy."""
ELECTED_S = 15.0
LOOK_AGAIN_S = 0.025
RUN = "from atoll.cli import main; main(prog_name='atoll')"
"""The command by itself: no folder of scripts has to be on anybody's PATH."""
SCRATCH_CHARACTERS_MAX = 24
ORDER = ("cloud", "relay", "node")
"""The order of starting; they are stopped the other way round."""


def atoll_command(process: PlannedProcess, config: Path) -> list[str]:
    """Give the command that runs a process of the cluster."""
    return [sys.executable, "-P", "-c", RUN, process.kind, "run", "--config", str(config)]


def scratch_directory() -> Path:
    """Make a directory whose path is short, for a unix socket's has 107 bytes at most and some systems' are long."""
    usual = tempfile.gettempdir()
    short = usual if len(usual) <= SCRATCH_CHARACTERS_MAX or not Path("/tmp").is_dir() else "/tmp"  # noqa: S108  # mkdtemp makes it private.
    return Path(tempfile.mkdtemp(prefix="atoll-", dir=short))


class Cluster:
    """A cluster that runs while the block lasts."""

    def __init__(
        self,
        spec: ClusterSpec,
        ground: Ground,
        directory: Path | None = None,
        *,
        command: Callable[[PlannedProcess, Path], list[str]] = atoll_command,
        on_death: Callable[[ProcessDied], None] | None = None,
        ready_s: float = READY_S,
        stop_s: float = STOP_S,
    ) -> None:
        """Take a spec and a ground; a `directory` is kept afterwards, without one a temporary one is used.

        With `on_death` the rest goes on when a process ends by itself after all are ready; without, the block ends.
        """
        self.spec = spec
        self.ground = ground
        self.planned: dict[str, PlannedProcess] = {}
        self.processes: dict[str, ClusterProcess] = {}
        self.forced: list[str] = []
        """Processes that did not end in time when they were stopped, and were killed."""
        self._directory = directory
        self._command = command
        self._tell_death = on_death
        self._up = False
        self._ready_s = ready_s
        self._stop_s = stop_s
        self._configs: dict[str, Path] = {}
        self._deaths: list[ProcessDied] = []
        self._block: anyio.CancelScope | None = None
        self._tasks: TaskGroup | None = None
        self._run: Run | None = None
        self._running = self._run_all()

    async def __aenter__(self) -> Self:
        try:
            await self._running.__aenter__()
        except BaseExceptionGroup as group:
            raise _only(group) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._running.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            raise _only(group) from None

    @contextlib.asynccontextmanager
    async def _run_all(self) -> AsyncIterator[None]:
        scratch = None if self._directory else scratch_directory()
        directory = self._directory or scratch
        if directory is None:
            raise RuntimeError("a cluster without a directory")
        try:
            async with self.ground:
                if scratch:
                    await self.ground.discard(scratch)
                self._write_down(directory)
                with published(self.spec.name, self._sockets(), scratch) as self._run:
                    await self.ground.discard(self._run.file)
                    async with anyio.create_task_group() as self._tasks:
                        try:
                            with anyio.CancelScope() as self._block:
                                await self._start_all()
                                self._up = True
                                yield
                        finally:
                            with anyio.CancelScope(shield=True):
                                await self._stop_all()
        finally:
            if scratch:
                shutil.rmtree(scratch, ignore_errors=True)
        if self._deaths:
            raise self._deaths[0]

    def _write_down(self, directory: Path) -> None:
        seats = self.ground.seats(directory)
        for process in plan(self.spec, Materials.generate(self.spec), seats):
            self.planned[process.name] = process
            self._configs[process.name] = process.write(seats[process.name].directory)

    def _sockets(self) -> Mapping[str, Path]:
        return {
            name: process.config.api_socket
            for name, process in self.planned.items()
            if isinstance(process.config, NodeConfig)
        }

    async def _start_all(self) -> None:
        for kinds in (ORDER[:1], ORDER[1:]):
            wave = [name for name, process in self.planned.items() if process.kind in kinds]
            for name in wave:
                await self._start(name)
            for name in wave:
                await self.processes[name].wait_ready(self._ready_s)

    async def _start(self, name: str) -> None:
        if self._tasks is None or self._run is None:
            raise RuntimeError("this cluster does not run")
        planned, config = self.planned[name], self._configs[name]
        process = ClusterProcess(name, planned.kind, config.parent)
        self.processes[name] = process
        argv = self.ground.command(name, self._command(planned, config))
        # Shielded, or an interruption just now could leave a process that nobody knows of.
        with anyio.CancelScope(shield=True):
            await self._tasks.start(process.run, argv, environment_of_processes(), self._on_death)
            await self.ground.guard(process.pid)
        self._run.processes[name] = (process.pid, born(process.pid))
        self._run.write()

    def _on_death(self, death: ProcessDied) -> None:
        if self._up and self._tell_death is not None:
            self._tell_death(death)
            return
        self._deaths.append(death)
        if self._block is not None:
            self._block.cancel()

    async def _stop_all(self) -> None:
        for kind in reversed(ORDER):
            async with anyio.create_task_group() as stopping:
                for process in self.processes.values():
                    if process.kind == kind and process.alive:
                        stopping.start_soon(self._stop, process)

    async def _stop(self, process: ClusterProcess) -> None:
        # A relay that is told SIGTERM waits for its nodes to move away; here they have all ended.
        first = signal.SIGINT if process.kind == "relay" else signal.SIGTERM
        if not await process.stop(self._stop_s, first):
            self.forced.append(process.name)

    def tell_deaths(self, told: Callable[[ProcessDied], None]) -> None:
        """From now on the rest goes on when a process ends by itself, as with `on_death`."""
        self._tell_death = told

    def process(self, name: str) -> ClusterProcess:
        """Give a process by name.

        Raises:
            UnknownName: Nothing is called so.
        """
        try:
            return self.processes[name]
        except KeyError:
            raise UnknownName(
                f"the cluster has no process {name!r}; it has {', '.join(list(self.planned)[:12])}"
            ) from None

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> float:
        """Send a signal to a process; if it is one to die of, wait until it has ended; gives when, on anyio's clock."""
        process = self.process(name)
        process.signal(number)
        at = anyio.current_time()
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            with anyio.move_on_after(self._stop_s):
                await process.ended.wait()
        return at

    async def restart(self, name: str) -> None:
        """Start a process again, with the state it had, and wait until it is ready; kill it first if it lives."""
        process = self.process(name)
        if process.alive:
            await process.stop(0.0, signal.SIGKILL)
        await self._start(name)
        await self.processes[name].wait_ready(self._ready_s)

    def living_nodes(self, site: str) -> list[str]:
        """Name the nodes of a site that run."""
        return [name for name, each in self.processes.items() if name.startswith(f"{site}/") and each.alive]

    def api(self, name: str) -> NodeApi:
        """Give the REST interface of a node.

        Raises:
            UnknownName: No node is called so.
        """
        config = self.planned[self.process(name).name].config
        if not isinstance(config, NodeConfig):
            raise UnknownName(f"{name} is no node and has no REST interface")
        return NodeApi(config.api_socket)

    async def status(self, name: str) -> dict[str, Any]:
        """Give the status of a node, as `/atoll/v1/status` does.

        Raises:
            NoAnswer: It did not answer.
        """
        status: dict[str, Any] = await self.api(name).get("/atoll/v1/status")
        return status

    async def supernode_of(self, site: str) -> str | None:
        """Ask the nodes of a site, one after the other, for a living supernode with a majority behind it."""
        names = {str(each.key.node_id): name for name, each in self.planned.items()}
        for node in self.living_nodes(site):
            try:
                told = (await self.status(node)).get("supernode") or {}
            except NoAnswer:
                continue
            name = names.get(told.get("node", ""))
            if name is not None and told.get("confirmed") and self.processes[name].alive:
                return name
        return None

    async def elected(self, site: str) -> str:
        """Wait until a site has a supernode that lives, and say which and why.

        Raises:
            NotReady: It has none within `ELECTED_S`, or no node is left.
        """
        if not self.living_nodes(site):
            raise NotReady(f"no node of {site} is left", "kill fewer")
        with anyio.move_on_after(ELECTED_S):
            while True:
                if (name := await self.supernode_of(site)) is not None:
                    with contextlib.suppress(NoAnswer):
                        # Its own word counts: others may have heard of it before it says so, or after it gave up.
                        if told := (await self.status(name))["supernode"]:
                            return f"{name}, epoch {told['epoch']}: {told['why']}"
                await anyio.sleep(LOOK_AGAIN_S)
        raise NotReady(f"{site} has no supernode within {ELECTED_S:g} s", "see `problems` in the status of its nodes")


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Give the one exception in it; several stay a group."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found
