"""`python -m atoll.testing.trials_main [KIND…]`: tries the cluster of the demo, and prints what its callers saw.

Kinds are `kill`, `freeze`, `cut`, `plug`, `many` and `rest` (ten minutes of calls, and what every process
holds of its host before and after); without one, all of them. Exit code 1: something was not whole again.
"""

import shutil
import sys
from collections.abc import Iterator

import anyio
from click import echo

from atoll.cluster_specs import CallCheck, read_spec
from atoll.testing.cluster import Cluster, scratch_directory
from atoll.testing.errors import ProcessDied
from atoll.testing.footprint import Footprint
from atoll.testing.lab import Lab
from atoll.testing.trials import Fault, Trials

SPEC = "two-sites"
CALLEE = "office/server"
CALLS = [
    CallCheck(caller, f"echo@{CALLEE}", "/hello")
    for caller in ("home/tv", "home/phone", "home/box", "office/desk", "office/laptop")
]
KINDS = ("kill", "freeze", "cut", "plug", "many", "rest")
FREEZE_S, LONG_FREEZE_S = 3.0, 15.0
CUT_S = 6.0
REST_S = 600.0
LOOK_EVERY_S = 60.0
HEAD = """\
| fault | other site: longest silence, failed calls | same site: the same | whole again after |
|---|---|---|---|"""


def faults(kind: str, trials: Trials, lab: Lab) -> Iterator[Fault]:
    """Give the faults of a kind, in order."""
    names = list(trials.cluster.processes)
    uplinks = [f"uplink of {site.name}" for site in trials.cluster.spec.site]
    match kind:
        case "kill":
            yield from map(trials.killed, names)
        case "freeze":
            yield from (trials.paused(name, lasts_s) for lasts_s in (FREEZE_S, LONG_FREEZE_S) for name in names)
        case "cut":
            for name in (*uplinks, "home/tv", CALLEE, "relay-1", "cloud"):
                yield trials.cut(lab, name, "both", CUT_S)
                yield trials.cut(lab, name, "out", CUT_S)
                yield trials.cut(lab, name, "in", CUT_S)
        case "plug":
            yield from (trials.unplugged(lab, name, CUT_S) for name in (*uplinks, "home/tv", CALLEE, "relay-2"))
            yield from (trials.without_address(lab, name, CUT_S) for name in ("home/tv", CALLEE, uplinks[0], "relay-1"))
        case "many":
            yield trials.killed("relay-1", "relay-2")
            yield trials.killed("cloud", "relay-1")
            yield trials.killed("home/tv", "home/box")
            yield trials.killed("office/desk", "office/laptop")
            yield trials.killed(*names)
            yield trials.all_stopped()
            yield trials.nodes_first()


async def main(kinds: list[str]) -> bool:
    """Try it; gives whether all was whole again each time."""
    directory = scratch_directory()
    try:
        spec, good = read_spec(SPEC), True
        for kind in kinds:
            echo(f"\n{kind}\n{HEAD if kind != 'rest' else ''}")
            deaths: list[ProcessDied] = []
            lab = Lab(spec)
            async with Cluster(spec, lab, directory / kind, on_death=deaths.append) as cluster:
                good &= await _tried(kind, cluster, lab)
            for death in deaths:
                echo(death)
            good &= not deaths
        return good
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _tried(kind: str, cluster: Cluster, lab: Lab) -> bool:
    trials, good = Trials(cluster, CALLS), True
    async with anyio.create_task_group() as tasks:
        await trials.begin(tasks)
        if kind == "rest":
            await _rest(trials)
        for fault in faults(kind, trials, lab):
            verdict = await trials.undergo(fault)
            echo(verdict.line)
            good &= not verdict.lacks
        trials.end()
    return good


async def _rest(trials: Trials) -> None:
    """Print what every process holds, each minute."""
    until = anyio.current_time() + REST_S
    while anyio.current_time() < until:
        await anyio.sleep(LOOK_EVERY_S)
        held = {name: Footprint.of(each) for name, each in trials.cluster.processes.items()}
        echo("; ".join(f"{name} {each}" for name, each in held.items()))
    echo(trials.seen)


if __name__ == "__main__":
    asked = sys.argv[1:] or list(KINDS)
    if unknown := set(asked) - set(KINDS):
        sys.exit(f"there is no kind {', '.join(sorted(unknown))}; there is {', '.join(KINDS)}")
    sys.exit(0 if anyio.run(main, asked) else 1)
