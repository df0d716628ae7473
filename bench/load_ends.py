"""Ends for many tunnels, both directions and delays under load; operations of `relay_ends`.

Plain bytes, as here only what lies between is looked at.
"""

import os
import select
import selectors
import socket
import struct
import time
from typing import Any

from atoll.bench.laps import laps
from atoll.bench.sealed import quantiles
from atoll.transport.errors import Unreachable

CHUNK_BYTES = 65_536
BUFFER_BYTES = 1 << 18
PATIENCE_S = 20.0
"""Whoever sees nothing move for so long gives up."""
_STAMP = struct.Struct(">d")


def pump_many(*socks: socket.socket, duration_s: float) -> dict[str, Any]:
    """Send on all, each as fast as it takes them, turn and turn about."""
    chunk = bytes(CHUNK_BYTES)
    for sock in socks:
        sock.setblocking(False)
    for _ in laps(duration_s):
        for sock in select.select([], socks, [], 0.1)[1]:
            sock.send(chunk)
    for sock in socks:
        sock.close()
    return {}


def drain_many(*socks: socket.socket) -> dict[str, Any]:
    """Count what each receives until its end; the clock runs from the first bytes on."""
    received = [0] * len(socks)
    buffer = bytearray(BUFFER_BYTES)
    began = 0.0
    with selectors.DefaultSelector() as selector:
        for number, sock in enumerate(socks):
            selector.register(sock, selectors.EVENT_READ, number)
        while selector.get_map():
            for key, _ in selector.select():
                if got := socks[key.data].recv_into(buffer):
                    received[key.data] += got
                    began = began or time.perf_counter()
                else:
                    selector.unregister(key.fileobj)
    took_s = time.perf_counter() - began
    for sock in socks:
        sock.close()
    return {"bytes": received, "took_s": took_s}


def exchange(sock: socket.socket, *, duration_s: float) -> dict[str, Any]:
    """Send as fast as it goes and receive what comes; the end whose time is over first ends the other's."""
    chunk = bytes(CHUNK_BYTES)
    buffer = bytearray(BUFFER_BYTES)
    sock.setblocking(False)
    received = 0
    began = time.monotonic()
    sending = True
    while True:
        readable, writable, _ = select.select([sock], [sock] if sending else [], [], PATIENCE_S)
        if not readable and not writable:
            raise Unreachable("nothing moves in either direction")
        if readable:
            got = sock.recv_into(buffer)
            if not got:
                break
            received += got
        if sending and writable:
            sock.send(chunk)
        if sending and time.monotonic() > began + duration_s:
            sock.shutdown(socket.SHUT_WR)
            sending = False
    took_s = time.monotonic() - began
    if sending:
        sock.shutdown(socket.SHUT_WR)
    sock.close()
    return {"bytes": received, "took_s": took_s}


def probe(near: socket.socket, far: socket.socket, *, message_bytes: int, duration_s: float) -> dict[str, Any]:
    """Send a small message to and fro, both ends in this one process, and time each round trip."""
    message = os.urandom(message_bytes)
    times: list[float] = []
    for _ in laps(duration_s):
        began = time.perf_counter()
        for source, target in ((near, far), (far, near)):
            source.sendall(message)
            if len(target.recv(message_bytes, socket.MSG_WAITALL)) < message_bytes:
                raise Unreachable("the tunnel of the probe has ended")
        times.append(time.perf_counter() - began)
    near.close()
    far.close()
    return quantiles(times)


def pump_stamped(sock: socket.socket, *, duration_s: float) -> dict[str, Any]:
    """Send chunks that begin with the time, on the clock that all processes of a host share, then half-close."""
    filling = bytes(CHUNK_BYTES - _STAMP.size)
    for _ in laps(duration_s):
        sock.sendall(_STAMP.pack(time.monotonic()) + filling)
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)
    return {}


def drain_stamped(sock: socket.socket) -> dict[str, Any]:
    """Receive such chunks until the end, and tell how old they are when they are whole."""
    ages: list[float] = []
    buffer = bytearray(CHUNK_BYTES)
    while sock.recv_into(buffer, CHUNK_BYTES, socket.MSG_WAITALL) == CHUNK_BYTES:
        ages.append(time.monotonic() - _STAMP.unpack_from(buffer)[0])
    if not ages:
        raise Unreachable("no chunk came")
    sock.close()
    return quantiles(ages)
