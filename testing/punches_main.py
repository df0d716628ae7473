"""`python -m atoll.testing.punches_main`: which kinds of NAT can be punched through to which others, counted in a lab.

It prints a table; no result of it is a failure, but an end that says nothing is.
"""

import shutil
from itertools import combinations_with_replacement

import anyio
import click
from click import echo

from atoll.cluster_specs.spec import Nat
from atoll.testing.cluster import scratch_directory
from atoll.testing.lab import Lab
from atoll.testing.punches import HEAD, KINDS, Pair, PunchTrials, spec_of_kinds
from atoll.testing.punching_nodes import tried_by_nodes


async def measured(pairs: list[Pair], times: int) -> None:
    """Try every pair so many times, between two ends that only try."""
    kinds = tuple(dict.fromkeys(kind for pair in pairs for kind in (pair.one, pair.other)))
    async with Lab(spec_of_kinds(kinds)) as lab:
        trials = PunchTrials(lab)
        async with trials.running():
            for pair in pairs:
                for number in range(times):
                    await trials.attempt(pair, number)
                echo(pair.line, err=True)


async def measured_by_nodes(pairs: list[Pair], times: int) -> None:
    """Try every pair so many times, each time between nodes that have just been started."""
    for pair in pairs:
        for _ in range(times):
            directory = scratch_directory()
            try:
                await tried_by_nodes(pair, directory)
            finally:
                shutil.rmtree(directory, ignore_errors=True)
        echo(pair.line, err=True)


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice(KINDS))
@click.option("--times", default=20, show_default=True, type=click.IntRange(1), help="Of each pair.")
@click.option("--nodes", is_flag=True, help="Between whole nodes, from their first bearer on: ten seconds each.")
def command(kinds: tuple[Nat, ...], times: int, *, nodes: bool) -> None:
    """Punch from behind every kind of NAT to every other one."""
    pairs = [Pair(one, other) for one, other in combinations_with_replacement(kinds or KINDS, 2)]
    anyio.run(measured_by_nodes if nodes else measured, pairs, times)
    echo(HEAD)
    for pair in pairs:
        echo(pair.line)


if __name__ == "__main__":
    command()
