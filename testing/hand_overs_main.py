"""`python -m atoll.testing.hand_overs_main`: moves a durable actor between real processes, a thousand times.

Some of them are killed with SIGKILL in the midst of it and started again. Callers check every answer. Exit code 1: an
acknowledged operation was lost, doubled or answered differently, or one had no answer.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from random import Random

import anyio
import click
from click import echo

from atoll.cluster_specs import PlannedProcess
from atoll.testing.cluster import Cluster, scratch_directory
from atoll.testing.errors import ProcessDied
from atoll.testing.failovers import SITE, site_of
from atoll.testing.loopback import Loopback
from atoll.testing.real_moves import RealMoves, driver_of

MODULE = "atoll.testing.ledger_node"


def ledger_command(_process: PlannedProcess, config: Path) -> list[str]:
    """Give the command that runs a node which hosts the ledger."""
    return [sys.executable, "-P", "-m", MODULE, "--config", str(config)]


async def measured(nodes: int, moves: int, kill_every: int, state_bytes: int, seed: int) -> dict[str, object]:
    """Move so many times; gives the figures."""
    directory, deaths = scratch_directory(), list[ProcessDied]()
    spec = site_of(nodes)
    began = time.monotonic()
    try:
        async with (
            Cluster(spec, Loopback(spec), directory, command=ledger_command, on_death=deaths.append) as cluster,
            driver_of(cluster, SITE, directory) as driver,
        ):
            real = RealMoves(cluster, driver, Random(seed))
            await real.prepare(state_bytes)
            await real.run(moves, kill_every)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return real.figures | {
        "state_bytes": state_bytes,
        "nodes": nodes,
        "took_s": round(time.monotonic() - began, 1),
        "load": [round(each, 1) for each in os.getloadavg()],
        "deaths": [str(each) for each in deaths],
    }


@click.command()
@click.option("--nodes", default=3, type=click.IntRange(3, 7))
@click.option("--moves", default=1000, type=click.IntRange(1))
@click.option("--kill-every", default=10, type=click.IntRange(0), help="A kill at each so many moves; 0 for none.")
@click.option("--state-bytes", default=2**20, type=click.IntRange(0))
@click.option("--seed", default=0, help="Of targets, victims and times.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON alone.")
def command(nodes: int, moves: int, kill_every: int, state_bytes: int, seed: int, *, as_json: bool) -> None:
    """Measure real hand-overs."""
    figures = anyio.run(measured, nodes, moves, kill_every, state_bytes, seed)
    if as_json:
        echo(json.dumps(figures))
    else:
        for name, value in figures.items():
            echo(f"{name.replace('_', ' ')}: {value}")
    sys.exit(1 if figures["violations"] or figures["deaths"] else 0)


if __name__ == "__main__":
    command()
