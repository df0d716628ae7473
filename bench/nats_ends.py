"""Ends that speak to a NATS broker, blocking: the same sealed records as `relay_ends`, each as one NATS message.

    client -> broker    CONNECT {json} | SUB subject number | PUB subject length, payload | PING
    broker -> client    INFO {json} | MSG subject number length, payload | PONG

each line ends with CR LF, a payload too. Operations of `relay_ends`; an end publishes to the other's subject.
"""

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from atoll.bench.laps import laps
from atoll.bench.sealed import KEY, RECORDS_MIN, Reader, Writer, nonce, quantiles
from atoll.transport.errors import Unreachable

NEAR, FAR = "near", "far"
END = b"end"
"""A connection's end is not passed on by a broker; this payload says it."""
READ_BYTES = 262_144
WINDOW_RECORDS = 64
"""How many whole records may be on their way: a broker does not hold its publishers back, it cuts off slow readers."""
ACKNOWLEDGED_EVERY = 16
ENOUGH = b"enough"


def greet(sock: socket.socket) -> None:
    """Read the broker's INFO and say CONNECT."""
    _line(sock)
    sock.sendall(b'CONNECT {"verbose":false,"pedantic":false,"echo":false}\r\n')


def subscribe(sock: socket.socket, subject: str) -> None:
    """Subscribe, and wait until the broker has taken it."""
    sock.sendall(b"SUB %s 1\r\nPING\r\n" % subject.encode())
    while (line := _line(sock)) != b"PONG":
        if line.startswith(b"-ERR"):
            raise Unreachable(f"the NATS server said {line.decode(errors='replace')}")


def _line(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n"):
        got = sock.recv(1)
        if not got:
            raise Unreachable("the NATS server closed the connection")
        data += got
    return data[:-2]


def _publication(subject: str, payload: bytes) -> bytes:
    return b"PUB %s %d\r\n%b\r\n" % (subject.encode(), len(payload), payload)


def _payloads(sock: socket.socket) -> Iterator[bytes]:
    """Yield the payloads of what arrives; a PING of the broker is answered.

    Raises:
        Unreachable: The broker complained or closed the connection.
    """
    buffer = b""
    while data := sock.recv(READ_BYTES):
        buffer = buffer + data if buffer else data
        start = 0
        while (stop := buffer.find(b"\r\n", start)) >= 0:
            head = buffer[start:stop]
            if head.startswith(b"MSG "):
                begin = stop + 2
                end = begin + int(head[head.rindex(b" ") + 1 :])
                if end + 2 > len(buffer):
                    break
                yield buffer[begin:end]
                start = end + 2
                continue
            if head == b"PING":
                sock.sendall(b"PONG\r\n")
            elif head.startswith(b"-ERR"):
                raise Unreachable(f"the NATS server said {head.decode(errors='replace')}")
            start = stop + 2
        buffer = buffer[start:]
    raise Unreachable("the NATS server closed the connection")


def nats_pump(sock: socket.socket, *, message_bytes: int, duration_s: float) -> dict[str, Any]:
    """Seal and publish as fast as the window lets it, then say the end."""
    writer = Writer(message_bytes)
    answers = _payloads(sock)
    on_their_way = 0
    for _ in laps(duration_s, RECORDS_MIN):
        if on_their_way >= WINDOW_RECORDS:
            next(answers)
            on_their_way -= ACKNOWLEDGED_EVERY
        sock.sendall(_publication(FAR, writer.record()))
        on_their_way += 1
    sock.sendall(_publication(FAR, END))
    # Until the other end has everything: whoever closes takes back what the broker has not read.
    while next(answers) != END:
        pass
    return {"messages": writer.messages}


def nats_drain(sock: socket.socket, *, message_bytes: int) -> dict[str, Any]:
    """Receive, open, take apart and acknowledge until the end is said."""
    reader = Reader(message_bytes)
    for records, payload in enumerate(_payloads(sock), 1):
        if payload == END:
            break
        reader.take(payload)
        if records % ACKNOWLEDGED_EVERY == 0:
            sock.sendall(_publication(NEAR, ENOUGH))
    result = reader.result()
    sock.sendall(_publication(NEAR, END))
    return result


def nats_echo(sock: socket.socket) -> dict[str, Any]:
    """Publish everything back until the end is said."""
    for payload in _payloads(sock):
        sock.sendall(_publication(NEAR, payload))
        if payload == END:
            break
    return {}


def nats_ping(sock: socket.socket, *, message_bytes: int, duration_s: float) -> dict[str, Any]:
    """Measure sealed round trips one after the other."""
    cipher = AESGCM(KEY)
    message = os.urandom(message_bytes)
    answers = _payloads(sock)
    times: list[float] = []
    for _ in laps(duration_s):
        salt = nonce(len(times))
        began = time.perf_counter()
        sock.sendall(_publication(FAR, cipher.encrypt(salt, message, None)))
        cipher.decrypt(salt, next(answers), None)
        times.append(time.perf_counter() - began)
    sock.sendall(_publication(FAR, END))
    next(answers)
    return quantiles(times)
