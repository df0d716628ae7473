"""`python -m atoll.testing.punches_main`: which kinds of NAT can be punched through to which others, counted in a lab.

It prints a table; no result of it is a failure, but an end that says nothing is.
"""

from itertools import combinations_with_replacement

import anyio
import click
from click import echo

from atoll.cluster_specs.spec import Nat
from atoll.testing.lab import Lab
from atoll.testing.punches import HEAD, KINDS, Pair, PunchTrials, spec_of_kinds


async def measured(kinds: tuple[Nat, ...], times: int) -> list[Pair]:
    """Try every pair so many times."""
    pairs = [Pair(one, other) for one, other in combinations_with_replacement(kinds, 2)]
    lab = Lab(spec_of_kinds(kinds))
    async with lab:
        trials = PunchTrials(lab)
        async with trials.running():
            for pair in pairs:
                for number in range(times):
                    await trials.attempt(pair, number)
                echo(pair.line, err=True)
    return pairs


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice(KINDS))
@click.option("--times", default=20, show_default=True, type=click.IntRange(1), help="Of each pair.")
def command(kinds: tuple[Nat, ...], times: int) -> None:
    """Punch from behind every kind of NAT to every other one."""
    pairs = anyio.run(measured, kinds or KINDS, times)
    echo(HEAD)
    for pair in pairs:
        echo(pair.line)


if __name__ == "__main__":
    command()
