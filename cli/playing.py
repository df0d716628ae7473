"""Plays a cluster spec on this host, for `atoll up` and `atoll demo`: starts all, tells each step, ends all.

    ground --> processes --> services, supernodes --> [checks and faults] --> [stays until Ctrl-C] --> everything ended

Interrupted at any point, it removes what it made. Steps go to stdout as a table, or as one JSON object at the end;
everything else goes to stderr.
"""

import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from atoll.cli.output import fail, print_json
from atoll.cli.step_table import StepTable
from atoll.cluster_specs import ClusterSpec
from atoll.testing.cluster import Cluster
from atoll.testing.errors import ClusterFault, ProcessDied
from atoll.testing.ground import Ground
from atoll.testing.lab import Lab, obstacle
from atoll.testing.loopback import Loopback
from atoll.testing.rehearsal import Rehearsal
from atoll.testing.steps import StepDone


@dataclass(frozen=True, slots=True)
class Wish:
    """How it is to be played."""

    check: bool
    """Do the checks and faults of the spec."""
    stay: bool
    """Stay up afterwards, until interrupted."""
    loopback: bool
    keep: Path | None
    as_json: bool
    try_next: tuple[str, ...] = ()
    """Commands that are proposed while it stays up."""


@dataclass(slots=True)
class _Play:
    spec: ClusterSpec
    wish: Wish
    steps: list[StepDone] = field(default_factory=list)
    interrupted: bool = False
    fault: ClusterFault | None = None
    _table: StepTable = field(default_factory=StepTable)

    async def run(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async with anyio.create_task_group() as tasks:
                playing = anyio.CancelScope()

                async def watch() -> None:
                    async for _ in signals:
                        if not self.interrupted:
                            sys.stderr.write("ending; everything that was made is removed\n")
                        self.interrupted = True
                        playing.cancel()

                tasks.start_soon(watch)
                with playing:
                    try:
                        await self._play()
                    except ClusterFault as error:
                        self.fault = error
                tasks.cancel_scope.cancel()

    async def _play(self) -> None:
        began = anyio.current_time()
        ground = await _ground(self.spec, loopback=self.wish.loopback)
        sys.stderr.write(f"{self.spec.name}: {ground.words}\n")
        on_death = None if self.wish.check else _tell_death
        async with Cluster(self.spec, ground, self.wish.keep, on_death=on_death) as cluster:
            count = f"{len(cluster.processes)} processes are ready"
            self._tell(StepDone(f"start {self.spec.name}", anyio.current_time() - began, count, ok=True))
            rehearsal = Rehearsal(cluster)
            async for step in rehearsal.set_up():
                self._tell(step)
            if self.wish.check:
                async for step in rehearsal.play():
                    self._tell(step)
                if self.wish.stay:
                    async for step in rehearsal.revive():
                        self._tell(step)
            if self.wish.stay:
                cluster.tell_deaths(_tell_death)
                _propose(self.wish.try_next or (f"atoll --at {self.spec.node_names()[0]} status",))
                await anyio.sleep_forever()
            stopping = anyio.current_time()
        forced = f"by force: {', '.join(cluster.forced)}" if cluster.forced else "every process ended in order"
        self._tell(StepDone(f"stop {self.spec.name}", anyio.current_time() - stopping, forced, ok=not cluster.forced))

    def _tell(self, step: StepDone) -> None:
        self.steps.append(step)
        if not self.wish.as_json:
            self._table.tell(step)

    @property
    def good(self) -> bool:
        """Whether every step was as it should be; when it was to stay, an interruption is how it ends."""
        ended = self.fault is None and (self.wish.stay or not self.interrupted)
        return ended and all(step.ok for step in self.steps)


def play_and_exit(spec: ClusterSpec, wish: Wish) -> None:
    """Play it; exit with code 1 when a step failed, a process died or it was interrupted before its end."""
    play = _Play(spec, wish)
    anyio.run(play.run, backend_options={"use_uvloop": True})
    if wish.as_json:
        steps = [{"what": s.what, "took_s": round(s.took_s, 3), "detail": s.detail, "ok": s.ok} for s in play.steps]
        print_json({"spec": spec.name, "ok": play.good, "steps": steps})
    if play.fault is not None:
        fail(play.fault.what, play.fault.remedy)
    if not play.good:
        raise SystemExit(1)


def _tell_death(death: ProcessDied) -> None:
    sys.stderr.write(f"{death.what}; the rest goes on. {death.remedy}\n")


def _propose(commands: tuple[str, ...]) -> None:
    lines = "".join(f"    {command}\n" for command in commands)
    sys.stderr.write(f"running until Ctrl-C; try in another terminal:\n{lines}")


async def _ground(spec: ClusterSpec, *, loopback: bool) -> Ground:
    if loopback:
        return Loopback(spec)
    if (found := await obstacle()) is not None:
        sys.stderr.write(f"no network namespaces: {found.what}\n  {found.remedy}\n")
        return Loopback(spec)
    return Lab(spec)
