"""`python -m atoll.testing.site_hours_main --hours 100`: simulated site-hours of the election, over all cores.

Sites of 1 to 7 voters under every plan of faults. A seed that fails prints the command that replays it. Exit code 1: an
invariant was broken.
"""

import sys
import time

import click
from click import echo

from atoll.testing.site_hours import WORLD_S, Total, cores, reports, world_of

TOLD_EVERY_S = 60.0


def main(hours: float, seed: int, jobs: int) -> bool:
    """Run them; gives whether every invariant held."""
    total, began = Total(), time.monotonic()
    told_at = began
    count = max(1, round(hours * 3600 / WORLD_S))
    for report in reports((world_of(number) for number in range(seed, seed + count)), min(jobs, count)):
        total.add(report)
        if report.violations and total.failed <= 10:
            echo(f"seed {report.seed}: {report.violations[0]}; replay with: {replay(report.seed)}")
        if time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            echo(f"{total.simulated_s / 3600:.1f} site-hours after {told_at - began:.0f} s")
    took_s, last = time.monotonic() - began, seed + count - 1
    echo(
        f"{total.simulated_s / 3600:.1f} site-hours in {took_s:.0f} s on {jobs} cores, seeds {seed} to {last}: "
        f"{total.elections} elections, {total.crashes} crashes, {total.partitions} cuts, {total.events} events, "
        f"{len(total.violations)} violations in {total.failed} seeds; trace {total.trace_hash}"
    )
    return not total.failed


def replay(seed: int) -> str:
    """Give the command that runs one seed again."""
    return f"python -m atoll.testing.site_hours_main --seed {seed} --hours {WORLD_S / 3600:.4f}"


@click.command()
@click.option("--hours", default=100.0, type=click.FloatRange(0.001))
@click.option("--seed", default=0, type=click.IntRange(0), help="The first one.")
@click.option("--jobs", default=cores(), type=click.IntRange(1, 256))
def command(hours: float, seed: int, jobs: int) -> None:
    """Simulate site-hours."""
    sys.exit(0 if main(hours, seed, jobs) else 1)


if __name__ == "__main__":
    command()
