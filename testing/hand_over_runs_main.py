"""`python -m atoll.testing.hand_over_runs_main`: simulated moves and crashes of migratable actors.

It goes on until there are enough. A seed that fails prints the command that replays it. Exit code 1: something
acknowledged was lost, doubled or answered differently, or somebody got no answer though all was well again. With
`--json` standard output has one object, and the progress goes to standard error.
"""

import json
import sys
import time

import click
from click import echo

from atoll.testing.hand_over_runs import Outcome, Sum, outcomes
from atoll.testing.site_hours import cores

TOLD_EVERY_S = 30.0
FAILURES_SHOWN_MAX = 10


def main(moves: int, crashes: int, seed: int, jobs: int, *, as_json: bool) -> bool:
    """Run them; gives whether every invariant held."""
    total, began = Sum(), time.monotonic()
    told_at = began
    for outcome in outcomes(seed, jobs):
        total.add(outcome)
        if outcome.violations and len(total.failing) <= FAILURES_SHOWN_MAX:
            echo(failure(outcome), err=as_json)
        if time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            share = min(total.moves / moves if moves else 1.0, total.crashes / crashes if crashes else 1.0)
            after_s = told_at - began
            left_s = after_s / share - after_s if share else float("inf")
            echo(
                f"{total.moves} moves, {total.crashes} crashes, {total.violations} violations after {after_s:.0f} s; "
                f"{share:.0%}, about {left_s:.0f} s left",
                err=True,
            )
        if total.enough(moves, crashes):
            break
    tell(total, seed, jobs, time.monotonic() - began, as_json=as_json)
    return not total.violations


def failure(outcome: Outcome) -> str:
    """Say what broke, and how to see it again."""
    replay = f"python -m atoll.testing.hand_over_runs_main --seed {outcome.seed} --moves 0 --crashes 0 --jobs 1"
    return f"seed {outcome.seed} ({outcome.kind}): {outcome.violations[0]}; replay with: {replay}"


def tell(total: Sum, seed: int, jobs: int, took_s: float, *, as_json: bool) -> None:
    """Say what came out."""
    worlds = total.worlds.total()
    if as_json:
        figures = {
            "seeds": [seed, seed + worlds - 1],
            "worlds": dict(sorted(total.worlds.items())),
            "simulated_s": round(total.simulated_s, 3),
            "moves": total.moves,
            "changes_of_stores": total.changes,
            "relocations": total.relocations,
            "acknowledged": total.acknowledged,
            "crashes": total.crashes,
            "torn_writes": total.torn,
            "violations": total.violations,
            "failing_seeds": total.failing,
            "trace": total.trace_hash,
            "jobs": jobs,
            "took_s": round(took_s, 1),
        }
        echo(json.dumps(figures))
        return
    echo(
        f"{total.moves} moves, {total.crashes} crashes ({total.torn} in the midst of a write), {total.changes} changes "
        f"of stores, {total.relocations} relocations, {total.acknowledged} operations acknowledged in "
        f"{total.simulated_s / 3600:.1f} simulated hours, {worlds} worlds, seeds {seed} to {seed + worlds - 1}; "
        f"{total.violations} violations in {len(total.failing)} seeds; {took_s:.0f} s on {jobs} cores; "
        f"trace {total.trace_hash}"
    )


@click.command()
@click.option("--moves", default=1_000_000, type=click.IntRange(0), help="At least so many.")
@click.option("--crashes", default=100_000, type=click.IntRange(0), help="At least so many, torn writes among them.")
@click.option("--seed", default=0, type=click.IntRange(0), help="The first one.")
@click.option("--jobs", default=cores(), type=click.IntRange(1, 256))
@click.option("--json", "as_json", is_flag=True, help="One object on standard output.")
def command(moves: int, crashes: int, seed: int, jobs: int, *, as_json: bool) -> None:
    """Simulate hand-overs."""
    sys.exit(0 if main(moves, crashes, seed, jobs, as_json=as_json) else 1)


if __name__ == "__main__":
    command()
