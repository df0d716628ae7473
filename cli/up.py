"""`atoll up`: a whole cluster out of a spec, on this host, until interrupted or until its checks are done."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atoll.cli.output import fail, print_json

if TYPE_CHECKING:
    from atoll.cluster_specs import ClusterSpec
    from atoll.testing.errors import ProcessDied
    from atoll.testing.ground import Ground
    from atoll.testing.rehearsal import StepDone


@dataclass(frozen=True, slots=True)
class Wanted:
    """How it is to be played."""

    once: bool
    loopback: bool
    keep: Path | None
    as_json: bool


@click.command("up")
@click.argument("spec", metavar="SPEC")
@click.option("--once", is_flag=True, help="Run the spec's checks and faults, and end with exit code 0 or 1.")
@click.option("--write", "write_to", type=click.Path(path_type=Path), help="Only write one config per process there.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="NAME=HOST",
    help="With --write: where others reach a cloud or relay.",
)
@click.option("--loopback", is_flag=True, help="Use no network namespaces, even where they can be had.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep configs, keys, state and logs there; without it nothing is kept.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON at the end.")
def command(
    spec: str,
    *,
    once: bool,
    write_to: Path | None,
    addresses: tuple[str, ...],
    loopback: bool,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Start the cloud, relays and nodes of SPEC (a file, or the name of one that ships: two-sites, lan-3)."""
    from atoll.cluster_specs import SpecInvalid, read_spec
    from atoll.testing.errors import ClusterFault, UnknownName

    try:
        read = read_spec(spec)
    except SpecInvalid as error:
        fail(str(error), "mend the spec and run this again", code=2)
    try:
        if write_to is not None:
            _write(read, write_to, addresses)
            return
        if addresses:
            fail("--address is for --write only", "leave it out: a lab has addresses of its own", code=2)
        _run(read, Wanted(once=once, loopback=loopback, keep=keep, as_json=as_json))
    except ClusterFault as error:
        fail(error.what, error.remedy)
    except UnknownName as error:
        fail(str(error), "see `atoll up --help`", code=2)


def _write(spec: ClusterSpec, directory: Path, addresses: tuple[str, ...]) -> None:
    from atoll.cluster_specs import Materials, Seat, plan

    reached = dict(each.partition("=")[::2] for each in addresses)
    public = [*(each.name for each in spec.cloud), *(each.name for each in spec.relay)]
    if unknown := sorted(set(reached) - set(public)):
        fail(f"--address {unknown[0]}: no cloud or relay is called so", f"there are {', '.join(public)}", code=2)
    if missing := [name for name in public if not reached.get(name)]:
        fail(f"where is {missing[0]} reached?", f"add --address {missing[0]}=HOST (an address of its host)", code=2)
    root = directory.absolute()
    seats = {name: Seat(root / name, host=reached.get(name, "0.0.0.0")) for name in spec.process_names()}
    for process in plan(spec, Materials.generate(spec), seats):
        config = process.write(seats[process.name].directory)
        print(f"{process.name}: atoll {process.kind} run --config {config}")
    sys.stderr.write("Copy each folder to its own host, to the same path; it holds the key of that process.\n")


def _run(spec: ClusterSpec, wanted: Wanted) -> None:
    import anyio

    outcome: list[StepDone] = []
    ended_well = anyio.run(partial(_play_interruptibly, spec, outcome, wanted), backend_options={"use_uvloop": True})
    ok = ended_well and all(step.ok for step in outcome)
    if wanted.as_json:
        steps = [{"what": s.what, "took_s": round(s.took_s, 3), "detail": s.detail, "ok": s.ok} for s in outcome]
        print_json({"spec": spec.name, "ok": ok, "steps": steps})
    if not ok:
        raise SystemExit(1)


async def _play_interruptibly(spec: ClusterSpec, outcome: list[StepDone], wanted: Wanted) -> bool:
    import anyio

    interrupted = False
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as tasks:
            playing = anyio.CancelScope()

            async def watch() -> None:
                nonlocal interrupted
                async for _ in signals:
                    if not interrupted:
                        sys.stderr.write("ending; everything that was made is removed\n")
                    interrupted = True
                    playing.cancel()

            tasks.start_soon(watch)
            with playing:
                await _play(spec, outcome, wanted)
            tasks.cancel_scope.cancel()
    # Without --once an interruption is how it ends.
    return not interrupted or not wanted.once


async def _play(spec: ClusterSpec, outcome: list[StepDone], wanted: Wanted) -> None:
    import anyio

    from atoll.testing.cluster import Cluster
    from atoll.testing.rehearsal import Rehearsal, StepDone

    def tell(step: StepDone) -> None:
        outcome.append(step)
        if not wanted.as_json:
            print(f"{'ok  ' if step.ok else 'FAIL'} {step.took_s:6.2f} s  {step.what}: {step.detail}", flush=True)

    def tell_death(death: ProcessDied) -> None:
        sys.stderr.write(f"{death.what}; the rest goes on. {death.remedy}\n")

    began = anyio.current_time()
    ground = await _ground(spec, loopback=wanted.loopback)
    sys.stderr.write(f"{spec.name}: {ground.words}\n")
    async with Cluster(spec, ground, wanted.keep, on_death=None if wanted.once else tell_death) as cluster:
        count = f"{len(cluster.processes)} processes are ready"
        tell(StepDone(f"start {spec.name}", anyio.current_time() - began, count, ok=True))
        rehearsal = Rehearsal(cluster)
        async for step in rehearsal.set_up():
            tell(step)
        if wanted.once:
            async for step in rehearsal.play():
                tell(step)
        else:
            node = spec.node_names()[0]
            sys.stderr.write(f"running until Ctrl-C; try `atoll --at {node} status`\n")
            await anyio.sleep_forever()
        stopping = anyio.current_time()
    forced = f"by force: {', '.join(cluster.forced)}" if cluster.forced else "every process ended in order"
    tell(StepDone(f"stop {spec.name}", anyio.current_time() - stopping, forced, ok=not cluster.forced))


async def _ground(spec: ClusterSpec, *, loopback: bool) -> Ground:
    from atoll.testing.lab import Lab, obstacle
    from atoll.testing.loopback import Loopback

    if loopback:
        return Loopback(spec)
    if (found := await obstacle()) is not None:
        sys.stderr.write(f"no network namespaces: {found.what}\n  {found.remedy}\n")
        return Loopback(spec)
    return Lab(spec)
