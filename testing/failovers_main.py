"""`python -m atoll.testing.failovers_main`: takes the supernode of a site of real nodes away, hundreds of times.

Exit code 1: one was not replaced within 10 s, the site was not whole again, or two held a lease at once.
"""

import os
import shutil
import sys
import time
from random import Random

import anyio
import click
from click import echo

from atoll.testing.cluster import Cluster, scratch_directory
from atoll.testing.errors import ProcessDied
from atoll.testing.failovers import Failovers, How, site_of
from atoll.testing.lab import Lab

HEAD = """\
| fault | n | min s | p50 | p99 | max | never |
|---|---|---|---|---|---|---|"""


async def main(nodes: int, plan: list[How], seed: int) -> bool:
    """Do it in the plan's order; gives whether all went well."""
    directory, deaths = scratch_directory(), list[ProcessDied]()
    spec = site_of(nodes)
    began = time.monotonic()
    try:
        async with (
            Cluster(spec, Lab(spec), directory, on_death=deaths.append) as cluster,
            anyio.create_task_group() as tasks,
        ):
            failovers = Failovers(cluster, Random(seed))
            tasks.start_soon(failovers.watch.run)
            for number, how in enumerate(plan, 1):
                failover = await failovers.once(how)
                echo(f"{number}/{len(plan)} {failover.line}")
            tasks.cancel_scope.cancel()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    leases = failovers.watch.leases
    echo(
        f"\n{nodes} nodes, {time.monotonic() - began:.0f} s, load {' '.join(f'{each:.1f}' for each in os.getloadavg())}"
    )
    echo("\n".join([HEAD, *failovers.rows()]))
    echo(f"{leases.looks} looks, {len(leases.contradictions)} contradictions of leases")
    for each in (*leases.contradictions, *(f"{late.line}; {late.why}" for late in failovers.late), *deaths):
        echo(each)
    return not (leases.contradictions or failovers.late or deaths)


@click.command()
@click.option("--nodes", default=3, type=click.IntRange(3, 7))
@click.option("--kills", default=300, type=click.IntRange(0))
@click.option("--stops", default=300, type=click.IntRange(0))
@click.option("--seed", default=0, help="Of the times at which faults come.")
def command(nodes: int, kills: int, stops: int, seed: int) -> None:
    """Measure fail-overs, kills and stops in turn."""
    plan: list[How] = []
    for number in range(max(kills, stops)):
        if number < kills:
            plan.append("kill")
        if number < stops:
            plan.append("stop")
    sys.exit(0 if anyio.run(main, nodes, plan, seed) else 1)


if __name__ == "__main__":
    command()
