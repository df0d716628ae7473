"""`python -m atoll.testing.relay_deaths_main`: the relay in use dies a hundred times under 200 MB, in three ways.

Exit code 1: bytes were wrong or did not come, or stood still for longer than was promised.
"""

import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from random import Random

import anyio
import click
from click import echo

from atoll.testing.cluster import Cluster, scratch_directory
from atoll.testing.errors import ProcessDied
from atoll.testing.lab import Lab
from atoll.testing.real_moves import Pauses
from atoll.testing.relay_deaths import KINDS, RelayDeaths, Transfer, spec_of_two_sites

STALL_S_MAX = 2.0
"""What is promised."""


async def measured(kinds: tuple[str, ...], rounds: int, size: int, seed: int, directory: Path) -> list[Transfer]:
    """Make all transfers, the kinds in turn."""
    spec, deaths, transfers = spec_of_two_sites(), list[ProcessDied](), list[Transfer]()
    lab = Lab(spec)
    async with Cluster(spec, lab, directory, on_death=deaths.append) as cluster:
        trials = RelayDeaths(cluster, lab, Random(seed), size)
        async with trials.forwarding():
            for number in range(rounds * len(kinds)):
                transfers.append(await trials.undergo(kinds[number % len(kinds)], number // len(kinds)))
                done = transfers[-1]
                echo(
                    f"{number + 1}/{rounds * len(kinds)} {done.kind} {done.relay} {'up' if done.up else 'down'}: "
                    + (done.failure or f"still for {done.stall_s:.2f} s, {size / done.took_s / 1e6:.0f} MB/s"),
                    err=True,
                )
    if deaths:
        raise SystemExit("\n".join(map(str, deaths)))
    return transfers


def figures_of(transfers: list[Transfer]) -> dict[str, object]:
    """Give what each kind cost, in milliseconds, and all that was wrong."""
    found: dict[str, object] = {}
    for kind in dict.fromkeys(each.kind for each in transfers):
        of_kind = [each for each in transfers if each.kind == kind]
        whole = [each for each in of_kind if not each.failure]
        found[kind] = {
            "transfers": len(of_kind),
            "identical": len(whole),
            "late": sum(each.stall_s > STALL_S_MAX for each in whole),
            "stall_ms": asdict(Pauses.of(each.stall_s for each in whole)),
            "failures": [each.failure for each in of_kind if each.failure],
        }
    return found


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice(KINDS))
@click.option("--rounds", default=100, show_default=True, type=click.IntRange(1), help="Of each kind.")
@click.option("--megabytes", default=200, show_default=True, type=click.IntRange(5))
@click.option("--seed", default=0, help="Of the moments.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON alone.")
def command(kinds: tuple[str, ...], rounds: int, megabytes: int, seed: int, *, as_json: bool) -> None:
    """Kill, freeze and black-hole the relay in use under transfers from site to site."""
    directory = scratch_directory()
    try:
        transfers = anyio.run(measured, kinds or KINDS, rounds, megabytes * 1_000_000, seed, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    found = figures_of(transfers)
    if as_json:
        echo(json.dumps(found | {"megabytes": megabytes, "load": os.getloadavg()}))
    else:
        for kind, figures in found.items():
            echo(f"{kind}: {figures}")
    bad = any(each.failure or each.stall_s > STALL_S_MAX for each in transfers)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    command()
