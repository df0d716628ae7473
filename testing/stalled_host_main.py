"""`python -m atoll.testing.stalled_host_main -- COMMAND`: runs a command on a host that stands still now and then.

All processes of the command are in a control group of their own (cgroups(7), version 2), which is frozen for a while
and goes on, as a virtual machine does whose host runs others first. Their clocks go on meanwhile. It asks for root.

`make lab-stalled` puts the lab through it. What is late only by as much as the host was is right; what loses an answer,
a session or a minute by it is a fault.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from click import echo

from atoll.transport.errors import UsageError

EVERY_S = 4.0
MOST_S = 0.7
LEAST_S = 0.05
LONG_PART = 0.1
"""Of all stalls; a long one lasts twice `MOST_S`, longer than a supernode's lease."""
REMOVAL_S = 10.0
"""For the group to be empty: what was started in the background may still be ending."""


class Group:
    """A control group that can be frozen."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def enter(self) -> None:
        """Put this process, and all that it starts from now on, into the group."""
        (self._path / "cgroup.procs").write_text(str(os.getpid()))

    def stall(self, seconds: float) -> None:
        """Let all processes of the group stand still, and go on."""
        try:
            (self._path / "cgroup.freeze").write_text("1")
            time.sleep(seconds)
        finally:
            (self._path / "cgroup.freeze").write_text("0")


def hierarchy(mounts: str) -> Path:
    """Find where control groups of version 2 are mounted, in the text of /proc/self/mounts.

    Raises:
        UsageError: They are not.
    """
    for line in mounts.splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise UsageError("no control groups of version 2 are mounted here (cgroup2, see cgroups(7)): nothing can be frozen")


@contextmanager
def group() -> Iterator[Group]:
    """Make a control group for the block.

    Raises:
        UsageError: This user may not, or this host has none.
    """
    path = hierarchy(Path("/proc/self/mounts").read_text()) / f"atoll-stalled-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        raise UsageError(f"no control group can be made ({error}): be root") from error
    try:
        yield Group(path)
    finally:
        deadline = time.monotonic() + REMOVAL_S
        while path.exists() and time.monotonic() < deadline:
            with suppress(OSError):
                path.rmdir()
            time.sleep(0.05)


def run(command: list[str], every_s: float, most_s: float, seed: int) -> int:
    """Run a command among stalls; gives its exit code, or minus the signal that ended it."""
    chance, stalls, still_s = random.Random(seed), 0, 0.0
    with group() as stalled, subprocess.Popen(command, preexec_fn=stalled.enter) as process:  # noqa: S603, PLW1509 - what the user says
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.expovariate(1 / every_s))
                break
            seconds = 2 * most_s if chance.random() < LONG_PART else chance.uniform(LEAST_S, most_s)
            stalled.stall(seconds)
            stalls, still_s = stalls + 1, still_s + seconds
    echo(f"the host stood still {stalls} times, for {still_s:.1f} s in all", err=True)
    return process.returncode


@click.command()
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--every", default=EVERY_S, show_default=True, type=click.FloatRange(0.01), help="Seconds, on average.")
@click.option(
    "--most", default=MOST_S, show_default=True, type=click.FloatRange(LEAST_S), help="Seconds; one in ten: twice."
)
@click.option("--seed", default=0, help="Of the moments.")
def main(command: tuple[str, ...], every: float, most: float, seed: int) -> None:
    """Run a command on a host that stands still now and then."""
    try:
        sys.exit(run(list(command), every, most, seed))
    except UsageError as error:
        echo(f"error: {error}", err=True)
        sys.exit(2)
    except FileNotFoundError as error:
        echo(f"error: there is no program {error.filename}", err=True)
        sys.exit(127)


if __name__ == "__main__":
    main()
