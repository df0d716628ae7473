"""`atoll sim`: a site's election in virtual time, under seeded faults; the same seed gives the same trace."""

import click

from atoll.cli.output import fail, print_json

SECONDS_PER_RUN = 60.0
"""Each seed is one world of this length: many short worlds find more than one long one."""


@click.command("sim")
@click.argument("spec", metavar="SPEC")
@click.option("--hours", default=0.1, type=click.FloatRange(0.001, 10_000), help="Simulated hours, over all seeds.")
@click.option("--seed", default=0, type=click.IntRange(0), help="The first seed; a failing one is printed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(spec: str, hours: float, seed: int, *, as_json: bool) -> None:
    """Simulate the supernode election of SPEC's first site under crashes, cuts, loss, pauses, suspends and drift."""
    import hashlib
    import time

    from atoll.cluster_specs import SpecInvalid, read_spec
    from atoll.testing.elections import election_simulation

    try:
        site = read_spec(spec).site[0]
    except SpecInvalid as error:
        fail(str(error), "mend the spec and run this again", code=2)
    runs = max(1, round(hours * 3600 / SECONDS_PER_RUN))
    voters, bystanders = len(site.voters), len(site.node) - len(site.voters)
    seconds = hours * 3600 / runs
    digest, began = hashlib.sha256(), time.monotonic()
    totals = {"events": 0, "elections": 0, "crashes": 0, "partitions": 0}
    violations: list[str] = []
    failing: list[int] = []
    for number in range(seed, seed + runs):
        report = election_simulation(number, voters=voters, bystanders=bystanders).run(seconds)
        digest.update(report.trace_hash.encode())
        for name in totals:
            totals[name] += getattr(report, name)
        if report.violations:
            failing.append(number)
            violations += [f"seed {number}: {each}" for each in report.violations]
    outcome = {
        "spec": spec,
        "site": site.name,
        "seed": seed,
        "seeds": runs,
        "simulated_s": runs * seconds,
        **totals,
        "trace_hash": digest.hexdigest(),
        "violations": violations,
        "took_s": round(time.monotonic() - began, 3),
    }
    if as_json:
        print_json(outcome)
    else:
        for name, value in outcome.items():
            print(f"{name:12} {value}")
    if failing:
        replay = f"atoll sim {spec} --seed {failing[0]} --hours {seconds / 3600:g}"
        fail(f"{len(violations)} violations in {len(failing)} of {runs} seeds", f"replay the first with: {replay}")
