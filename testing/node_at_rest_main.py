"""`python -m atoll.testing.node_at_rest_main`: what a node alone takes: to its start, and of memory at rest.

    spawned --READY=1 (sd_notify)--> ready --rest--> looked at in /proc --SIGTERM--> gone, exit 0

Each run is a real `atoll node run` with an empty state folder. Exit code 1: more memory than the bar of the quality
table. Times are printed and not judged: who else works on this host has a part in them. `--lan 5` looks instead at so
many nodes in one local network (network namespaces), which have elected a supernode.
"""

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import click
import psutil

from atoll.testing.cluster import Cluster
from atoll.testing.errors import NotReady, ProcessDied
from atoll.testing.failovers import SITE, site_of
from atoll.testing.lab import Lab

RSS_MB_BAR = 60.0
SETTLE_S = 20.0
"""After the election, until duties are placed and everybody has told of itself."""
START_S_MAX = 60.0
END_S_MAX = 20.0
ATOLL = (sys.executable, "-c", "from atoll.cli import main; main()")
SETTINGS = ("links.port=0", "gateway.port=0", "log_level=warning")


@dataclass(frozen=True, slots=True)
class Rest:
    """One run of a node."""

    ready_s: float
    """From the spawning of its process."""
    start_cpu_s: float
    rss_mb: float
    cpu: float
    """At rest, of a core."""

    @classmethod
    def of(cls, folder: Path, beacon_port: int, rest_s: float) -> "Rest":
        """Run a node in an empty folder, and look at it when it has rested.

        Raises:
            NotReady: It did not start or did not end in time.
            ProcessDied: It ended, and not well.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(folder / "notify"))
            manager.settimeout(START_S_MAX)
            # Its beacons go out as any node's do, but at a port of their own: others on this host are no company.
            settings = (f"state_dir={folder}", f"run_dir={folder}", f"beacon.port={beacon_port}", *SETTINGS)
            words = [*ATOLL, "node", "run", *(word for each in settings for word in ("--set", each))]
            began = time.monotonic()
            environment = os.environ | {"NOTIFY_SOCKET": str(folder / "notify")}
            with subprocess.Popen(words, env=environment) as running:  # noqa: S603 - it is ours
                try:
                    manager.recv(100)
                    rest = cls._watched(psutil.Process(running.pid), time.monotonic() - began, rest_s)
                    running.send_signal(signal.SIGTERM)
                    if running.wait(END_S_MAX) != 0:
                        raise ProcessDied(f"the node ended with {running.returncode}", "it says above why")
                except (TimeoutError, subprocess.TimeoutExpired) as late:
                    raise NotReady(f"the node does not start or does not end: {late}", "it says above why") from late
                finally:
                    running.kill()
        return rest

    @classmethod
    def _watched(cls, node: psutil.Process, ready_s: float, rest_s: float) -> "Rest":
        start_cpu_s = sum(node.cpu_times()[:2])
        time.sleep(rest_s)
        cpu_s = sum(node.cpu_times()[:2]) - start_cpu_s
        return cls(ready_s, start_cpu_s, node.memory_info().rss / 1e6, cpu_s / rest_s)


@dataclass(frozen=True, slots=True)
class RestOfLan:
    """One look at all nodes of a local network, each figure by its node."""

    supernode: str
    cpu: dict[str, float]
    rss_mb: dict[str, float]


async def lan_at_rest(nodes: int, runs: int, rest_s: float) -> list[RestOfLan]:
    """Let so many nodes find each other, settle, and rest; look at them `runs` times."""
    spec, rests = site_of(nodes), []
    with tempfile.TemporaryDirectory() as folder:
        async with Cluster(spec, Lab(spec), Path(folder)) as cluster:
            elected = (await cluster.elected(SITE)).partition(",")[0]
            await anyio.sleep(SETTLE_S)
            watched = {name: psutil.Process(process.pid) for name, process in cluster.processes.items()}
            for _ in range(runs):
                before = {name: sum(node.cpu_times()[:2]) for name, node in watched.items()}
                await anyio.sleep(rest_s)
                cpu = {name: (sum(node.cpu_times()[:2]) - before[name]) / rest_s for name, node in watched.items()}
                rests.append(RestOfLan(elected, cpu, {n: node.memory_info().rss / 1e6 for n, node in watched.items()}))
    return rests


def free_port() -> int:
    """Find a UDP port that nobody has now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.bind(("", 0))
        return int(asked.getsockname()[1])


def line(what: str, values: Sequence[float], unit: str, digits: int) -> str:
    """Say the least, the middle and the greatest."""
    least, middle, greatest = (f"{each:.{digits}f}" for each in (min(values), statistics.median(values), max(values)))
    return f"{what}: {middle} {unit} ({least} to {greatest})"


@click.command()
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1))
@click.option("--rest", "rest_s", default=30.0, show_default=True, type=click.FloatRange(1), help="Seconds of rest.")
@click.option("--lan", default=1, show_default=True, type=click.IntRange(1, 64), help="Nodes of one local network.")
def main(runs: int, rest_s: float, lan: int) -> None:
    """Measure, print, judge."""
    if lan > 1:
        looks = anyio.run(lan_at_rest, lan, runs, rest_s)
        click.echo(f"{lan} nodes of one network, {runs} times {rest_s:g} s of rest, load {os.getloadavg()[0]:.1f}")
        members = [cpu for look in looks for name, cpu in look.cpu.items() if name != look.supernode]
        click.echo(line("CPU at rest, a member", [each * 100 for each in members], "% of a core", 2))
        click.echo(
            line("CPU at rest, the supernode", [each.cpu[each.supernode] * 100 for each in looks], "% of a core", 2)
        )
        memory = [each for look in looks for each in look.rss_mb.values()]
        click.echo(line("memory at rest", memory, "MB", 1))
        sys.exit(max(memory) > RSS_MB_BAR)
    rests = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            rests.append(Rest.of(Path(folder), free_port(), rest_s))
    click.echo(f"{runs} nodes one after the other, {rest_s:g} s of rest each, load {os.getloadavg()[0]:.1f}")
    click.echo(line("start to ready", [each.ready_s for each in rests], "s", 2))
    click.echo(line("CPU of the start", [each.start_cpu_s for each in rests], "s", 2))
    click.echo(line("memory at rest", [each.rss_mb for each in rests], "MB", 1))
    click.echo(line("CPU at rest", [each.cpu * 100 for each in rests], "% of a core", 2))
    sys.exit(max(each.rss_mb for each in rests) > RSS_MB_BAR)


if __name__ == "__main__":
    main()
