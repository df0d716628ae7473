"""`python -m atoll.testing.hostile_relay FILE relay run …`: the relay program, but its SEP port misuses records.

Two in three records are dropped, bent, cut, doubled, held until others have overtaken them, or swapped for one of
somebody else's; FILE says how many deeds of each kind were done. Everything else is the real relay.
"""

import json
import sys
from collections import Counter, deque
from pathlib import Path
from random import Random
from typing import Any

from atoll.actors.tunnel_relay.frames import CIRCUIT_BYTES, INBOUND, LABEL_BYTES, RETURN
from atoll.actors.tunnel_relay.sep_socket import SepSocket

DEEDS = ("drop", "bend", "cut", "double", "hold", "swap")
HEADS = {INBOUND: 1 + CIRCUIT_BYTES + LABEL_BYTES, RETURN: 1 + LABEL_BYTES}
"""What stands in front of a record."""
REMEMBERED = 30


def _misuse(path: Path) -> None:
    genuine, rng, done = SepSocket.send_nowait, Random(1), Counter[str]()
    passed: deque[bytes] = deque(maxlen=REMEMBERED)
    held: list[tuple[Any, bytes]] = []

    def send_nowait(self: SepSocket, connection: Any, frame: bytes) -> None:
        size = HEADS.get(frame[0])
        if size is None or rng.random() < 1 / 3:
            genuine(self, connection, frame)
            return
        head, record, deed = frame[:size], frame[size:], rng.choice(DEEDS)
        done[deed] += 1
        whole = path.with_suffix(".new")
        whole.write_text(json.dumps(done))
        whole.replace(path)
        passed.append(record)
        if deed == "bend":
            at = rng.randrange(len(record))
            genuine(self, connection, head + record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :])
        elif deed == "cut":
            genuine(self, connection, head + record[: rng.randrange(1, len(record))])
        elif deed == "swap":
            genuine(self, connection, head + rng.choice(passed))
        elif deed == "double":
            genuine(self, connection, frame)
            genuine(self, connection, frame)
        elif deed == "hold":
            if held:
                genuine(self, *held.pop(rng.randrange(len(held))))
            held.append((connection, frame))

    SepSocket.send_nowait = send_nowait  # type: ignore[method-assign]  # what it is for


if __name__ == "__main__":
    from atoll.cli import main

    _misuse(Path(sys.argv.pop(1)))
    main(prog_name="atoll")
