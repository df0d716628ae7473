"""What a byte stream costs, both ends of it in one process, sealed as in a session, without any socket.

Beside it: only sealing and opening records of that size, and the same bytes as messages of a session's calls. Measured
by `atoll bench sessions`.
"""

import os
from collections.abc import Callable

from atoll.transport.fragments import Assembly, Outbox, frames_of
from atoll.transport.multipath import Multipath, Via
from atoll.transport.path_set import Rank
from atoll.transport.records import OVERHEAD_BYTES, Fault, Opener, Sealer
from atoll.transport.session import RECORD_BYTES_MAX

ROOM = RECORD_BYTES_MAX - OVERHEAD_BYTES
WRITE_BYTES = 256 * 1024
MESSAGE_BYTES = 65_000
STEP_S = 0.001
"""Virtual time between two turns."""
VIA = Via(Rank.BEARER, "nothing")


class _Direction:
    """Seals at one end and opens at the other."""

    def __init__(self) -> None:
        self._sealer, self._opener = Sealer(bytes(8), bytes(32), 0.0), Opener(bytes(32), 0.0)

    def carry(self, plain: bytes, path: int = 0) -> bytes:
        opened = self._opener.open(self._sealer.seal(plain, path, 0.0), 0.0)
        if isinstance(opened, Fault):
            raise TypeError(opened)
        return opened


def sealing(size: int) -> int:
    """Seal and open so many bytes; gives how many came."""
    direction, plain, done = _Direction(), os.urandom(ROOM), 0
    while done < size:
        done += len(direction.carry(plain))
    return done


def calls(size: int) -> int:
    """Send so many bytes as messages, one a record."""
    direction, outbox, assembly = _Direction(), Outbox(), Assembly()
    message, done = os.urandom(MESSAGE_BYTES), 0
    while done < size:
        outbox.put(message)
        for _, flags, number, offset, piece in frames_of(direction.carry(outbox.take(ROOM))):
            done += len(assembly.take(flags, number, offset, piece) or b"")
    return done


def streams(size: int) -> int:
    """Send so many bytes down a stream, with a reader that keeps up."""
    ends = [Multipath(initiator=True), Multipath(initiator=False)]
    directions = [_Direction(), _Direction()]
    now = 0.0

    def turn(who: int) -> None:
        ends[who].tick(now)
        for path, parts in ends[who].outgoing(ROOM, now):
            for frame in frames_of(directions[who].carry(b"".join(parts), path)):
                ends[1 - who].receive(frame, path, VIA, now)

    ends[0].paths.add(VIA.rank, VIA.name, now)
    stream = ends[0].streams.open("bench")
    data, done = os.urandom(WRITE_BYTES), 0
    while done < size:
        now += STEP_S
        while ends[0].streams.write(stream, data) == len(data):
            pass
        turn(0)
        while stream in ends[1].streams.numbers() and (piece := ends[1].streams.read(stream, RECORD_BYTES_MAX)):
            done += len(piece)
        turn(1)
    return done


KINDS: dict[str, Callable[[int], int]] = {"sealing alone": sealing, "calls": calls, "streams": streams}
