"""`python -m atoll.testing.relay_floods_main`: floods of a relay one after the other, and what good peers notice.

Exit code 1: a good peer's p99 was above the bar of the quality table, or somebody good was cut.
"""

import sys
import tempfile
from pathlib import Path

import click

from atoll.testing.relay_floods import Finding, Flood, flooded, good_peers
from atoll.testing.relay_program import relay_program

BAR_MS = 50.0
FLOODS = (
    None,
    Flood("garbage", "bearer", 5000),
    Flood("forged", "bearer", 5000),
    Flood("garbage", "sep", 5000),
    Flood("hello", "sep", 5000),
    Flood("idle", "bearer", 10_000),
    Flood("idle", "sep", 10_000),
    None,
)


@click.command()
@click.option("--seconds", default=20.0, show_default=True, help="For each flood.")
def main(seconds: float) -> None:
    """Flood a relay in every way, print what its good peers noticed, and judge it."""
    findings: list[Finding] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        relay_program(Path(folder), "metrics.port=0") as relay,
        good_peers(relay) as peers,
    ):
        for flood in FLOODS:
            findings.append(flooded(relay, peers, flood, seconds))
            click.echo(findings[-1].line())
        broken = list(peers.broken)
    late = [each.flood for each in findings if any(each.percentile_ms(path, 0.99) > BAR_MS for path in each.trips)]
    for each in late:
        click.echo(f"above {BAR_MS:g} ms: {each}", err=True)
    for words in broken:
        click.echo(f"broken: {words}", err=True)
    sys.exit(1 if late or broken else 0)


if __name__ == "__main__":
    main()
