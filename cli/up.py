"""`atoll up`: a whole cluster out of a spec, on this host, until interrupted or until its checks are done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atoll.cli.output import fail

if TYPE_CHECKING:
    from atoll.cluster_specs import ClusterSpec


@click.command("up")
@click.argument("spec", metavar="SPEC")
@click.option("--once", is_flag=True, help="Run the spec's checks and faults, and end with exit code 0 or 1.")
@click.option("--write", "write_to", type=click.Path(path_type=Path), help="Only write one config per process there.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="NAME=HOST",
    help="With --write: where others reach a cloud or relay.",
)
@click.option("--loopback", is_flag=True, help="Use no network namespaces, even where they can be had.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep configs, keys, state and logs there; without it nothing is kept.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON at the end.")
def command(
    spec: str,
    *,
    once: bool,
    write_to: Path | None,
    addresses: tuple[str, ...],
    loopback: bool,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Start the cloud, relays and nodes of SPEC (a file, or the name of one that ships: two-sites, lan-3)."""
    from atoll.cli.playing import Wish, play_and_exit
    from atoll.cluster_specs import SpecInvalid, read_spec
    from atoll.testing.errors import UnknownName

    try:
        read = read_spec(spec)
    except SpecInvalid as error:
        fail(str(error), "mend the spec and run this again", code=2)
    try:
        if write_to is not None:
            _write(read, write_to, addresses)
            return
        if addresses:
            fail("--address is for --write only", "leave it out: a lab has addresses of its own", code=2)
    except UnknownName as error:
        fail(str(error), "see `atoll up --help`", code=2)
    play_and_exit(read, Wish(check=once, stay=not once, loopback=loopback, keep=keep, as_json=as_json))


def _write(spec: ClusterSpec, directory: Path, addresses: tuple[str, ...]) -> None:
    from atoll.cluster_specs import Materials, Seat, plan

    reached = dict(each.partition("=")[::2] for each in addresses)
    public = [*(each.name for each in spec.cloud), *(each.name for each in spec.relay)]
    if unknown := sorted(set(reached) - set(public)):
        fail(f"--address {unknown[0]}: no cloud or relay is called so", f"there are {', '.join(public)}", code=2)
    if missing := [name for name in public if not reached.get(name)]:
        fail(f"where is {missing[0]} reached?", f"add --address {missing[0]}=HOST (an address of its host)", code=2)
    root = directory.absolute()
    seats = {name: Seat(root / name, host=reached.get(name, "0.0.0.0")) for name in spec.process_names()}
    for process in plan(spec, Materials.generate(spec), seats):
        config = process.write(seats[process.name].directory)
        print(f"{process.name}: atoll {process.kind} run --config {config}")
    sys.stderr.write("Copy each folder to its own host, to the same path; it holds the key of that process.\n")
