"""Floods one port of a relay, from a process of its own.

    python -m atoll.testing.relay_flood_source KIND PORT RATE SECONDS [TICKET]

    garbage     bytes that are no protocol at all
    forged      a bearer's preamble with a ticket (hex) whose signature is wrong: the dearest to refuse
    hello       ZMTP's greeting with CURVE, and a HELLO that no key opens: the dearest of the SEP's
    idle        RATE connections at once, each drips a right byte now and then; who is cut comes anew

It prints how many connections it made. Connections are kept for a moment and then reset, so that the relay has read
them and no port number is left waiting.
"""

import contextlib
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable

from atoll.transport.bearer import MAGIC, encode_preamble

HOST = "127.0.0.1"
KEPT_S = 0.25
"""Long enough for the relay to read what came, on a busy host, too."""
TICK_S = 0.005
DRIP_S = 1.0
FILL_S_MAX = 5.0
"""How much longer a busy host may take until all that are to be there at once have come."""
DIALS_PER_TICK_MAX = 25
"""5,000 a second, which is what is promised to be borne."""
RESET = struct.pack("ii", 1, 0)
# ZMTP 3.0, sections 2 and 3: signature, version, mechanism, as-server, filler.
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
# RFC 26: HELLO, version, padding, a fresh key, a nonce, a box of 80 bytes.
_HELLO_HEAD = b"\x04\xc8\x05HELLO\x01\x00" + bytes(72)


def _hello() -> bytes:
    return GREETING + _HELLO_HEAD + os.urandom(32 + 8 + 80)


def _forged(ticket: bytes) -> Callable[[], bytes]:
    preamble = encode_preamble(ticket[:-64] + bytes(64))
    return lambda: preamble[:-8] + os.urandom(8)


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def _dial(port: int) -> socket.socket | None:
    sock = socket.socket()
    sock.setblocking(False)
    try:
        sock.connect((HOST, port))
    except BlockingIOError:
        pass
    except OSError:
        # The relay has no room in its queue, or is closed to newcomers for a moment; that is its right.
        sock.close()
        return None
    return sock


def flood(port: int, rate: float, seconds: float, data: Callable[[], bytes]) -> int:
    """Make so many connections a second, and give how many it were."""
    kept: deque[tuple[float, socket.socket]] = deque()
    began = now = time.monotonic()
    made = 0
    while now < began + seconds:
        while made < (now - began) * rate:
            made += 1
            if (sock := _dial(port)) is not None:
                with contextlib.suppress(OSError):
                    sock.send(data())
                kept.append((now, sock))
        while kept and kept[0][0] < now - KEPT_S:
            _reset(kept.popleft()[1])
        time.sleep(TICK_S)
        now = time.monotonic()
    for _, sock in kept:
        _reset(sock)
    return made


def idle(port: int, count: int, seconds: float) -> int:
    """Keep so many connections open that say almost nothing, and give how many it took."""
    poll = select.epoll()
    there: dict[int, socket.socket] = {}
    began = time.monotonic()
    made = 0
    drips = GREETING if port % 2 else MAGIC
    at = 0
    while (took_s := time.monotonic() - began) < seconds or (made < count and took_s < seconds + FILL_S_MAX):
        for _ in range(min(DIALS_PER_TICK_MAX, count - len(there))):
            made += 1
            if (sock := _dial(port)) is None:
                break
            there[sock.fileno()] = sock
            poll.register(sock, select.EPOLLRDHUP)
        for descriptor, _ in poll.poll(TICK_S, 1000):
            _reset(there.pop(descriptor))
        # A slice of them at a time, so that the drips are spread as those of many hosts would be.
        names = list(there)
        part = max(1, int(len(names) * TICK_S / DRIP_S))
        for descriptor in names[at : at + part]:
            with contextlib.suppress(OSError):
                there[descriptor].send(drips[:1])
        at = at + part if at + part < len(names) else 0
    for sock in there.values():
        _reset(sock)
    return made


def main(kind: str, port: int, rate: float, seconds: float, ticket: str = "") -> int:
    """Flood, and give how many connections it took."""
    if kind == "idle":
        return idle(port, int(rate), seconds)
    sources = {"garbage": lambda: os.urandom(150), "hello": _hello}
    return flood(port, rate, seconds, sources[kind] if kind in sources else _forged(bytes.fromhex(ticket)))


if __name__ == "__main__":
    count = main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), *sys.argv[5:])
    sys.stdout.write(f"{count}\n")
