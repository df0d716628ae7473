"""`python -m atoll.testing.site_faults_main [KIND…]`: cuts, moves, loses and jumps in a site of real nodes.

Kinds are `cut`, `address`, `loss`, `clock` and `sleep`; without one, all of them, and the last two only where
libfaketime is. Exit code 1: something was not whole again, or two held a lease at once.
"""

import os
import shutil
import sys
from functools import partial
from pathlib import Path

import anyio
import click
from click import echo

from atoll.testing.cluster import Cluster, atoll_command, scratch_directory
from atoll.testing.errors import ProcessDied
from atoll.testing.failovers import site_of
from atoll.testing.lab import Lab
from atoll.testing.site_faults import KINDS, SiteFaults, with_jumping_clocks
from atoll.testing.wall_clock import library

CLOCK_KINDS = ("clock", "sleep")
HEAD = """\
| fault | another told after | longest without | changes | calls: longest silence, failed | whole again | two at once |
|---|---|---|---|---|---|---|"""


async def main(kinds: list[str], nodes: int, rounds: int) -> bool:
    """Do the faults of these kinds; gives whether all was well each time."""
    echo(f"{nodes} nodes, load {' '.join(f'{each:.1f}' for each in os.getloadavg())}\n{HEAD}")
    good = True
    for kind in kinds:
        directory = scratch_directory()
        try:
            good &= await _tried(kind, nodes, rounds, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    return good


async def _tried(kind: str, nodes: int, rounds: int, directory: Path) -> bool:
    spec, deaths, good = site_of(nodes), list[ProcessDied](), True
    lab, faketime, command = Lab(spec), None, atoll_command
    if kind in CLOCK_KINDS and (faketime := library()) is not None:
        command = partial(with_jumping_clocks, faketime, all_clocks=kind == "sleep")
    async with (
        Cluster(spec, lab, directory, command=command, on_death=deaths.append) as cluster,
        anyio.create_task_group() as tasks,
    ):
        faults = SiteFaults(cluster, lab, faketime)
        await faults.begin(tasks)
        for _ in range(rounds):
            for verdict in await faults.undergo(kind):
                echo(verdict.line)
                good &= not verdict.verdict.lacks
        faults.trials.end()
        tasks.cancel_scope.cancel()
    for each in (*faults.watch.leases.contradictions, *deaths):
        echo(each)
    return good and not deaths and not faults.watch.leases.contradictions


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice(KINDS))
@click.option("--nodes", default=3, type=click.IntRange(3, 7))
@click.option("--rounds", default=1, type=click.IntRange(1), help="How often each fault comes.")
def command(kinds: tuple[str, ...], nodes: int, rounds: int) -> None:
    """Try a site."""
    asked = list(kinds or KINDS)
    if library() is None and (left := [kind for kind in asked if kind in CLOCK_KINDS]):
        echo(f"left out: {', '.join(left)}, for libfaketime is not here (Debian: apt-get install libfaketime)")
        asked = [kind for kind in asked if kind not in left]
    sys.exit(0 if anyio.run(main, asked, nodes, rounds) else 1)


if __name__ == "__main__":
    command()
