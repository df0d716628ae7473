"""Two whole sites behind NAT, a cloud and two relays: when their stream goes over a punched path, or why it does not.

a stream is opened --> it goes over a bearer --an attempt--> it goes over a punched path, or `status` says why not
"""

from pathlib import Path
from random import Random

import anyio

from atoll.testing.cluster import Cluster
from atoll.testing.errors import NotReady, ProcessDied
from atoll.testing.lab import Lab
from atoll.testing.punches import Pair
from atoll.testing.relay_deaths import NEAR, RelayDeaths, spec_of_two_sites

WITHIN_S = 120.0
LOOK_AGAIN_S = 0.01


async def tried_by_nodes(pair: Pair, directory: Path) -> None:
    """Start two nodes with everything they need, open a stream, and note in the pair what came of it.

    Raises:
        NotReady: Nothing came of it for two minutes.
    """
    spec, deaths = spec_of_two_sites(home=pair.one, office=pair.other), list[ProcessDied]()
    lab = Lab(spec)
    with anyio.move_on_after(WITHIN_S) as waited:
        async with Cluster(spec, lab, directory, on_death=deaths.append) as cluster:
            trials, over = RelayDeaths(cluster, lab, Random(0), 0), anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_watch, cluster, pair, over)
                async with trials.forwarding():
                    await over.wait()
    if waited.cancelled_caught or deaths:
        raise NotReady(f"nothing came of it: {deaths}", "see the nodes' logs")


async def _watch(cluster: Cluster, pair: Pair, over: anyio.Event) -> None:
    """Look at what a user sees, again and again: when a bearer is used first, and what came then."""
    bearer_at: float | None = None
    while not over.is_set():
        for route in (await cluster.status(NEAR))["routes"] if NEAR in cluster.processes else ():
            if not route["paths"]:
                continue
            now = anyio.current_time()
            if route["kind"] == "bep" and bearer_at is None:
                bearer_at = now
            if route["kind"] == "punched":
                # Where it was quicker than we look.
                pair.took_s.append(now - (bearer_at or now))
                over.set()
            elif route["punching"].startswith("not punched"):
                pair.failures[route["punching"].removeprefix("not punched through NAT: ").partition(" (")[0]] += 1
                over.set()
        await anyio.sleep(LOOK_AGAIN_S)
