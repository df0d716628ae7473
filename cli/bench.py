"""`atoll bench`: each figure beside a raw baseline of the same run."""

import click

from atoll.cli.output import fail, print_json

RELAY_SIZES = "65000,1024,64"


@click.group("bench")
def command() -> None:
    """Measure relays and actors beside a raw baseline in the same run."""


@command.command("relay")
@click.option("--seconds", default=1.5, type=click.FloatRange(0.1, 60), help="Time per figure and thing compared.")
@click.option("--sizes", default=RELAY_SIZES, help="Message sizes in bytes, with commas between.")
@click.option("--tunnels", default=8, type=click.IntRange(2, 512), help="Tunnels that compete in the fairness test.")
@click.option(
    "--idle-tunnels", default=300, type=click.IntRange(1, 9000), help="Idle tunnels whose memory is measured."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def relay(seconds: float, sizes: str, tunnels: int, idle_tunnels: int, *, as_json: bool) -> None:
    """Measure a relay: throughput, round trips, switching, set-up, fairness, memory."""
    from atoll.bench import relay as bench
    from atoll.transport.errors import TransportError

    try:
        numbers = [int(each) for each in sizes.split(",")]
    except ValueError:
        fail(f"--sizes {sizes!r} is not a list of whole numbers", f"write it as {RELAY_SIZES}", code=2)
    try:
        report = bench.run(seconds, sizes=numbers, tunnels=tunnels, idle_tunnels=idle_tunnels)
    except TransportError as error:
        fail(f"the benchmark did not run: {error}", "see whether other processes hold the CPU or the ports")
    if as_json:
        print_json(report.as_dict())
    else:
        print(report.table())


@command.command("actors")
@click.option("--seconds", default=20.0, type=click.FloatRange(2, 600), help="Time of the whole run, about.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def actors(seconds: float, *, as_json: bool) -> None:
    """Measure actors on asyncio, uvloop and trio: tell, ask, spawn, memory, and across processes."""
    from atoll.bench import actors as bench

    try:
        report = bench.run(seconds)
    except ImportError as error:
        fail(f"a loop to measure on is missing: {error}", "install it: pip install 'atoll[trio]'")
    if as_json:
        print_json(report.as_dict())
    else:
        print(report.table())
