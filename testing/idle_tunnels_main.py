"""`python -m atoll.testing.idle_tunnels_main`: what idle tunnels cost a relay, as this user and as an ordinary one.

Exit code 1: more memory or CPU than the bar of the quality table.
"""

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from atoll.testing.relay_program import RelayProgram, relay_program

TUNNELS = 9_000
RSS_MB_BAR, CPU_BAR = 60.0, 0.03
WATCHED_S = 5.0
SAMPLE = 100
"""Every so many tunnels one is tried in the end."""
NOBODY = "65534"


@dataclass(frozen=True, slots=True)
class IdleCost:
    """What so many idle tunnels cost."""

    tunnels: int
    rss_mb_before: float
    rss_mb: float
    cpu: float
    """Of a core."""

    def line(self) -> str:
        """Say it."""
        each = (self.rss_mb - self.rss_mb_before) * 1e3 / self.tunnels
        return (
            f"{self.tunnels} idle tunnels: {self.rss_mb:.1f} MB ({self.rss_mb_before:.1f} before, {each:.2f} KB each), "
            f"{self.cpu * 100:.2f} % of a core"
        )


def as_ordinary_user() -> list[str] | None:
    """Give the words that run a command as nobody, without any privilege; None where this user cannot say them."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return None
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]


def measure(relay: RelayProgram, tunnels: int, watched_s: float = WATCHED_S) -> IdleCost:
    """Open tunnels, leave them alone, and see; in the end some of them are used, and all are closed.

    Raises:
        Unreachable: The relay refused one.
    """
    before_mb = relay.rss_mb()
    pairs: list[Sequence[socket.socket]] = []
    try:
        pairs.extend(relay.tunnel() for _ in range(tunnels))
        used_s = relay.cpu_s()
        time.sleep(watched_s)
        cost = IdleCost(tunnels, before_mb, relay.rss_mb(), (relay.cpu_s() - used_s) / watched_s)
        for one, other in pairs[::SAMPLE]:
            one.sendall(b"x" * 1000)
            if not other.recv(1000):
                raise ConnectionResetError("an idle tunnel ended")
    finally:
        for pair in pairs:
            for end in pair:
                end.close()
    return cost


@click.command()
@click.option("--tunnels", default=TUNNELS, show_default=True)
def main(tunnels: int) -> None:
    """Measure, print, judge."""
    costs = []
    for who, before in (("this user", []), ("an ordinary user", as_ordinary_user())):
        if before is None:
            click.echo("as an ordinary user: only root can try that, with setpriv")
            continue
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o777)
            with relay_program(Path(folder), before=before) as relay:
                costs.append(measure(relay, tunnels))
        click.echo(f"as {who}: {costs[-1].line()}")
    sys.exit(any(each.rss_mb > RSS_MB_BAR or each.cpu > CPU_BAR for each in costs))


if __name__ == "__main__":
    main()
