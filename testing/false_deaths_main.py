"""`python -m atoll.testing.false_deaths_main`: a day of a large site, simulated in one piece: is anybody wrongly dead?

Members have the links that a site of that size has (decision 0017: from 16 on, few), and each half minute some that
have none begin to talk and get one, for as long. A fifth of all messages is lost, and every three seconds somebody
stands still for up to four (promise R10). Exit code 1: more than one false death a day, or a message with more rumours
than fit into a packet. With `--json` standard output has one object. The progress goes to standard error.
"""

import json
import math
import sys
import time

import click
from click import echo

from atoll.testing.discovery import LOSS, BoundedGossip, FewSuspicions, NoFalseDeath, Talks, suspicion_simulation

TALK_S = 30.0
"""Simulated seconds for which a link to somebody talked to stays, as in `actors/discoverer/talks.py`."""
TOLD_EVERY_S = 30.0
A_DAY_H = 24.0


def main(hours: float, nodes: int, seed: int, *, as_json: bool) -> bool:
    """Run it; gives whether every invariant held."""
    deaths = NoFalseDeath(allowed=max(1, int(hours / A_DAY_H)))
    rumours, suspicions = BoundedGossip(), FewSuspicions(math.inf)
    simulation = suspicion_simulation(seed, nodes=nodes, probes=(deaths, rumours, suspicions))
    talks = Talks(simulation)
    told_at = began = time.monotonic()
    end = hours * 3600
    while True:
        talks.turn()
        report = simulation.run(min(TALK_S, end - simulation.now))
        if report.violations or simulation.now >= end:
            break
        if time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            left_s = (told_at - began) * (end / simulation.now - 1)
            echo(f"{simulation.now / 3600:.1f} of {hours:g} hours, about {left_s:.0f} s left", err=True)
    figures = {
        "nodes": nodes,
        "seed": seed,
        "simulated_hours": round(simulation.now / 3600, 3),
        "loss": LOSS,
        "false_deaths": deaths.deaths,
        "suspicions_refuted": suspicions.raised,
        "messages_per_node_and_second": round(rumours.messages / nodes / simulation.now, 3),
        "events": report.events,
        "took_s": round(time.monotonic() - began, 1),
        "violations": report.violations,
        "trace": report.trace_hash,
    }
    if as_json:
        echo(json.dumps(figures))
    else:
        echo(
            f"{deaths.deaths} false deaths in {simulation.now / 3600:g} simulated hours of {nodes} nodes, {LOSS:.0%} "
            f"loss, pauses; {suspicions.raised} suspicions raised and refuted; "
            f"{figures['messages_per_node_and_second']:.2f} messages a node and second; {report.events} events in "
            f"{figures['took_s']:.0f} s; trace {report.trace_hash}"
        )
    for each in report.violations:
        echo(f"seed {seed}: {each}", err=True)
    return not report.violations


@click.command()
@click.option("--hours", default=A_DAY_H, show_default=True, type=click.FloatRange(0.001, 8760), help="Simulated.")
@click.option("--nodes", default=50, show_default=True, type=click.IntRange(2, 200))
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(hours: float, nodes: int, seed: int, *, as_json: bool) -> None:
    """Simulate a site with loss and sick members, and count who is wrongly declared dead."""
    sys.exit(0 if main(hours, nodes, seed, as_json=as_json) else 1)


if __name__ == "__main__":
    command()
