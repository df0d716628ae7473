"""`python -m atoll.testing.relay_tap FILE relay run …`: the real relay program; FILE gets every frame of its SEP port.

As the relay itself sees them, behind the CURVE of its links: what a relay that means no good could keep. Bearers are
opened by nobody, so what it sees of them is what passes over the network (`capture.py`).
"""

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.actors.tunnel_relay.frames import ANSWER, CALL, CIRCUIT_BYTES, LABEL_BYTES
from atoll.actors.tunnel_relay.sep_socket import SepSocket
from atoll.transport.arrivals import Arrived

_HEAD = struct.Struct(">32sI")


@dataclass(frozen=True, slots=True)
class Seen:
    """One frame that came to the relay."""

    key: bytes
    """The CURVE key of whoever sent it."""
    frame: bytes

    @property
    def record(self) -> bytes | None:
        """The record of a session in it, if there is one."""
        heads = {CALL: 1 + LABEL_BYTES, ANSWER: 1 + CIRCUIT_BYTES}
        return self.frame[heads[self.frame[0]] :] if self.frame[:1] and self.frame[0] in heads else None

    @property
    def is_call(self) -> bool:
        """It goes towards a label, from who has opened the session."""
        return self.frame[:1] == bytes([CALL])


def seen(path: Path) -> list[Seen]:
    """Read what a relay saw."""
    return list(_seen(path.read_bytes()))


def _seen(data: bytes) -> Iterator[Seen]:
    position = 0
    while position + _HEAD.size <= len(data):
        key, size = _HEAD.unpack_from(data, position)
        position += _HEAD.size + size
        if position <= len(data):
            yield Seen(key, data[position - size : position])


def _tap(path: Path) -> None:
    """Have every socket of a SEP port write down what comes to it."""
    genuine, file = SepSocket.__init__, path.open("ab", buffering=0)

    def opened(self: SepSocket, *how: Any) -> None:
        genuine(self, *how)
        receive = self.receive_nowait

        def receive_nowait() -> Any:
            event = receive()
            if isinstance(event, Arrived):
                file.write(_HEAD.pack(event.key, len(event.frame)) + event.frame)
            return event

        self.receive_nowait = receive_nowait

    SepSocket.__init__ = opened  # type: ignore[assignment, method-assign]  # what the tap is for


if __name__ == "__main__":
    from atoll.cli import main

    _tap(Path(sys.argv.pop(1)))
    main(prog_name="atoll")
