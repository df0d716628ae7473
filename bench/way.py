"""What lies between two ends under measurement: nothing, a bare splice, our relay, or another tool."""

import socket
from collections.abc import Mapping
from typing import ClassVar, TypeAlias

Pair: TypeAlias = tuple[socket.socket, socket.socket]
Clocks: TypeAlias = Mapping[int, float]


def spent_s(before: Clocks, after: Clocks) -> float:
    """CPU seconds between two readings; a process that has come since began at nothing."""
    return sum(after_s - before.get(pid, 0.0) for pid, after_s in after.items())


class Way:
    """One thing that carries bytes from one socket to another; `name` is what the report calls it."""

    name: ClassVar[str]
    ends: ClassVar[str] = ""
    """How the ends must speak: the prefix of their operations (`relay_ends.OPERATIONS`)."""

    half_closes: ClassVar[bool] = True
    """Whether one direction may end before the other without loss."""

    def pair(self) -> Pair:
        """Open a way through: what goes into one socket comes out of the other, both ways.

        Raises:
            Unreachable: Nothing comes through.
        """
        raise NotImplementedError

    def clocks(self) -> Clocks:
        """CPU seconds of what lies between, by process id; ended ones are not in it."""
        return {}

    def finish(self) -> None:
        """Clean up behind a pair whose ends are closed."""
