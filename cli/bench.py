"""`atoll bench`: each figure beside a raw baseline of the same run. The report goes to stdout, progress to stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atoll.cli.output import fail, print_json

if TYPE_CHECKING:
    from atoll.bench.report import BenchReport

RELAY_SIZES = "65000,1024,64"
SESSION_SIZES = "64,1024,65000"
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table; it has every round, too.")
_svg = click.option(
    "--svg",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a picture of all figures to this file, too.",
)


def _progress(what: str) -> None:
    click.echo(f"measuring {what} …", err=True)


def _names(text: str) -> list[str]:
    return [name for each in text.split(",") if (name := each.strip())]


def _numbers(text: str, example: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        fail(f"--sizes {text!r} is not a list of whole numbers", f"write it as {example}", code=2)


@contextmanager
def _told(what_to_do: str) -> Iterator[None]:
    """Say what kept a benchmark from running, and end; `what_to_do` about settings that cannot be."""
    from atoll.transport.errors import TransportError, UsageError

    try:
        yield
    except UsageError as error:
        fail(f"the benchmark cannot run: {error}", what_to_do, code=2)
    except ImportError as error:
        fail(f"a loop to measure on is missing: {error}", "install it: pip install 'atoll[trio]'")
    except TransportError as error:
        fail(f"the benchmark did not come to its end: {error}", "try again when the host is less busy")


def _show(report: "BenchReport", svg: Path | None, *, as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict())
    else:
        print(report.table())
    if svg is None:
        return
    from atoll.bench.picture import picture

    try:
        svg.write_text(picture(report), encoding="utf-8")
    except OSError as error:
        fail(f"the picture was not written: {error}", "choose another file; the figures stand above")


@click.group("bench")
def command() -> None:
    """Measure relays, actors and sessions beside a raw baseline in the same run.

    Read the ratios and the CPU per unit, not the rates: a rate is only that of this machine in this minute. What is
    compared is measured turn and turn about, and min and max show how restless the machine was.
    """


@command.command("relay")
@click.option(
    "--seconds",
    default=30.0,
    show_default=True,
    type=click.FloatRange(1, 3600),
    help="Time of all that is measured; starting and ending take some seconds more.",
)
@click.option("--sizes", default=RELAY_SIZES, show_default=True, help="Message sizes in bytes, 1 to 65000.")
@click.option(
    "--tunnels",
    default=8,
    show_default=True,
    type=click.IntRange(2, 250),
    help="Tunnels that compete in the fairness test.",
)
@click.option(
    "--idle-tunnels",
    default=300,
    show_default=True,
    type=click.IntRange(1, 9000),
    help="Idle tunnels whose memory is measured.",
)
@click.option(
    "--peers",
    default="",
    metavar="NAMES",
    help="The same through other tools: all that are installed, or names with commas between; default none.",
)
@_svg
@_json
def relay(
    *, seconds: float, sizes: str, tunnels: int, idle_tunnels: int, peers: str, svg: Path | None, as_json: bool
) -> None:
    """Measure a relay: throughput, latency, load, switching, set-up, fairness, memory; beside other tools if asked.

    "raw TCP" is loopback without sealing, "direct TCP" the same with sealing, "bare splice" two kernel calls in a loop
    between two connections, "C switch" libzmq's own proxy; "session" is what nodes really speak.
    """
    from atoll.bench import relay as bench

    with _told("atoll bench relay --help names the limits"):
        report = bench.run(
            seconds,
            sizes=_numbers(sizes, RELAY_SIZES),
            tunnels=tunnels,
            idle_tunnels=idle_tunnels,
            peers=_names(peers),
            progress=_progress,
        )
    _show(report, svg, as_json=as_json)


@command.command("actors")
@click.option(
    "--seconds",
    default=20.0,
    show_default=True,
    type=click.FloatRange(2, 600),
    help="Time of the whole run, about; peers take as much again.",
)
@click.option(
    "--peers",
    default="",
    metavar="NAMES",
    help="The same with other libraries: all that are installed, or names with commas between; default none.",
)
@_svg
@_json
def actors(*, seconds: float, peers: str, svg: Path | None, as_json: bool) -> None:
    """Measure actors on asyncio, uvloop and trio: tell, ask, spawn, memory, and across processes."""
    from atoll.bench import actors as bench

    with _told("leave --peers out to measure without"):
        report = bench.run(seconds, peers=_names(peers), progress=_progress)
    _show(report, svg, as_json=as_json)


@command.command("sessions")
@click.option(
    "--seconds",
    default=12.0,
    show_default=True,
    type=click.FloatRange(0.5, 600),
    help="Time of the whole run, about.",
)
@click.option("--sizes", default=SESSION_SIZES, show_default=True, help="Message sizes in bytes, 1 to 65000.")
@_svg
@_json
def sessions(*, seconds: float, sizes: str, svg: Path | None, as_json: bool) -> None:
    """Measure sessions: handshakes, sealing and opening, streams; beside bare agreements and bare AES-GCM."""
    from atoll.bench import sessions as bench

    with _told("atoll bench sessions --help names the limits"):
        report = bench.run(seconds, sizes=_numbers(sizes, SESSION_SIZES), progress=_progress)
    _show(report, svg, as_json=as_json)
