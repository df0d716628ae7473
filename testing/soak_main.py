"""`python -m atoll.testing.soak_main [TARGET…] --cases N --seed S`: hostile input, N cases for each target.

Exit code 1: something raised, or changed what it should not have, or memory grew by more than it may, for good or for a
moment (without what making the cases needs).
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import click
from click import echo

from atoll.testing.blob_fuzz import BlobFuzz
from atoll.testing.discovery_fuzz import BeaconFuzz, SuspicionFuzz
from atoll.testing.election_fuzz import ElectionFuzz
from atoll.testing.frame_fuzz import FrameFuzz
from atoll.testing.memory import PEAK, resident_mb
from atoll.testing.relay_fuzz import RelayFuzz
from atoll.testing.standing_fuzz import StandingFuzz
from atoll.testing.stream_fuzz import StreamFuzz
from atoll.testing.topic_fuzz import TopicFuzz

GROWTH_MB_MAX = 64.0
PEAK_MB_MAX = 64.0
"""And for a moment, above what there was when a part began."""
SHARE = 20
"""Cases are run in so many parts, each with a seed of its own and machines from other simulations."""
FATES_SHOWN = 12


class Target(Protocol):
    """What can be fuzzed."""

    findings: list[str]
    fates: Counter[str]
    cases: int

    def run(self, cases: int) -> None:
        """Run so many cases."""


TARGETS: dict[str, Callable[[int], Target]] = {
    "election": ElectionFuzz,
    "frames": FrameFuzz,
    "standings": StandingFuzz,
    "beacons": BeaconFuzz,
    "suspicion": SuspicionFuzz,
    "streams": StreamFuzz,
    "blobs": BlobFuzz,
    "relay": RelayFuzz,
    "topics": TopicFuzz,
}
"""By name, made from a seed."""


def main(name: str, cases: int, seed: int) -> bool:
    """Run the cases of a target; gives whether nothing was found."""
    began, done, findings = time.process_time(), 0, list[str]()
    fates: Counter[str] = Counter()
    first_mb = peak_mb = 0.0
    for part in range(SHARE):
        target = TARGETS[name](seed + part)
        PEAK.begin()
        target.run(max(1, cases // SHARE))
        peak_mb = max(peak_mb, PEAK.above_mb)
        first_mb = first_mb or resident_mb()
        done += target.cases
        findings += target.findings
        fates += target.fates
    grown_mb = resident_mb() - first_mb
    took_s = time.process_time() - began
    moment = f"+{peak_mb:.0f} MB for a moment" if PEAK.known else "peak not known on this system"
    echo(f"{name}: {done} cases in {took_s:.0f} s of CPU, {len(findings)} findings, +{grown_mb:.0f} MB, {moment}")
    echo("  " + "; ".join(f"{fate} {count}" for fate, count in fates.most_common(FATES_SHOWN)))
    for finding in findings[:FATES_SHOWN]:
        echo(
            f"  {finding[:600]}\n  replay with: python -m atoll.testing.soak_main {name} --seed {seed} --cases {cases}"
        )
    return not findings and grown_mb <= GROWTH_MB_MAX and peak_mb <= PEAK_MB_MAX


@click.command()
@click.argument("targets", nargs=-1, type=click.Choice(list(TARGETS)))
@click.option("--cases", default=1_000_000, type=click.IntRange(1), help="For each target.")
@click.option("--seed", default=0, type=click.IntRange(0))
def command(targets: tuple[str, ...], cases: int, seed: int) -> None:
    """Fuzz."""
    good = [main(name, cases, seed) for name in targets or TARGETS]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    command()
