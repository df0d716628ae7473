"""`atoll sim`: a whole site in virtual time, under seeded faults; the same seed gives the same trace."""

import click

from atoll.cli.output import fail, print_json


@click.command("sim")
@click.argument("spec", metavar="SPEC")
@click.option("--hours", default=0.1, type=click.FloatRange(0.001, 10_000), help="Simulated hours, over all seeds.")
@click.option("--seed", default=0, type=click.IntRange(0), help="The first seed; a failing one is printed.")
@click.option("--faults", default="", help="Only these kinds, with commas between; `none` for a quiet site.")
@click.option("--jobs", default=1, type=click.IntRange(1, 256), help="Processes that share the seeds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(spec: str, hours: float, seed: int, faults: str, jobs: int, *, as_json: bool) -> None:
    """Simulate SPEC's first site under crashes, cuts, loss, pauses, suspends and drift.

    Its election, changes of its roster, placement, suspicion and duties run together; beyond 32 nodes the first two.
    """
    import time

    from atoll.cluster_specs import SpecInvalid, read_spec
    from atoll.testing.site_hours import WHOLE_NODES_MAX, WORLD_S, World, plan_with, run_all
    from atoll.transport.errors import UsageError

    try:
        site, plan = read_spec(spec).site[0], plan_with(faults)
    except SpecInvalid as error:
        fail(str(error), "mend the spec and run this again", code=2)
    except UsageError as error:
        fail(str(error), "name those of --faults that there are", code=2)
    count = max(1, round(hours * 3600 / WORLD_S))
    voters, seconds = len(site.voters), hours * 3600 / count
    began = time.monotonic()
    whole = len(site.node) <= WHOLE_NODES_MAX
    others = len(site.node) - voters
    worlds = (World(each, voters, others, plan, seconds, whole) for each in range(seed, seed + count))
    total = run_all(worlds, min(jobs, count))
    outcome = {
        "spec": spec,
        "site": site.name,
        "seed": seed,
        "seeds": count,
        "faults": faults or "all",
        "machines": "election, roster, placement, suspicion, duties" if whole else "election, roster",
        "simulated_s": total.simulated_s,
        "events": total.events,
        "elections": total.elections,
        "crashes": total.crashes,
        "partitions": total.partitions,
        "trace_hash": total.trace_hash,
        "violations": total.violations,
        "took_s": round(time.monotonic() - began, 3),
    }
    if as_json:
        print_json(outcome)
    else:
        for name, value in outcome.items():
            print(f"{name:12} {value}")
    if total.failing:
        chosen = f" --faults {faults}" if faults else ""
        replay = f"atoll sim {spec} --seed {total.failing[0]} --hours {seconds / 3600!r}{chosen}"
        fail(
            f"{len(total.violations)} violations in {total.failed} of {count} seeds", f"replay the first with: {replay}"
        )
