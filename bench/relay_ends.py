"""The processes around a relay under measurement: senders, receivers, and the barest splice to compare with.

    python -m atoll.bench.relay_ends FD

serves commands (JSON, with sockets passed along) on the unix socket FD until it closes. Sockets are used blocking, one
command at a time. What a receiver counts and times is what it has received, opened and taken apart.

Records are sealed with AES-256-GCM under one key and a counter, as a session's are: `u32 length | ciphertext`. Messages
smaller than a record share one, as a session under load lets them: `u16 length | message` each. `raw` leaves out the
sealing and nothing else. What the real session costs is measured by `session_ends.py`.
"""

import contextlib
import json
import os
import select
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import zmq
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from atoll.bench.processes import end_with_parent
from atoll.bench.sep_ends import CSwitch, sep_call, sep_serve
from atoll.bench.session_ends import session_drain, session_pump
from atoll.transport.errors import TransportError, Unreachable

KEY = bytes(32)
"""A benchmark keeps no secrets."""
RECORD_BYTES = 60_000
COMMAND_BYTES_MAX = 65_536
DESCRIPTORS_MAX = 250
"""Linux passes at most 253 at once."""

Answer: TypeAlias = dict[str, Any]
_LENGTH = struct.Struct(">I")
_SHORT = struct.Struct(">H")
_NONCE = struct.Struct(">IQ")


def _record_body(message_bytes: int) -> list[bytes]:
    """Give the messages of one record: one if it fills it, many if they share it."""
    message = os.urandom(message_bytes)
    return [message] * max(1, RECORD_BYTES // (message_bytes + _SHORT.size))


def _as_it_is(_nonce: bytes, data: bytes | memoryview, _header: None) -> bytes | memoryview:
    return data


def pump(sock: socket.socket, *, message_bytes: int, duration_s: float, raw: bool = False) -> Answer:
    """Seal and send as fast as it goes, then half-close."""
    seal: Callable[..., Any] = _as_it_is if raw else AESGCM(KEY).encrypt
    messages = _record_body(message_bytes)
    counter = sent = 0
    until = time.monotonic() + duration_s
    while time.monotonic() < until:
        if len(messages) == 1:
            body = messages[0]
        else:
            # Joined anew each time, as a session must: its messages are not known beforehand.
            body = b"".join([part for message in messages for part in (_SHORT.pack(len(message)), message)])
        record = seal(_NONCE.pack(0, counter), body, None)
        sock.sendall(_LENGTH.pack(len(record)) + record)
        counter += 1
        sent += len(messages)
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)
    return {"messages": sent}


def _records(sock: socket.socket) -> Iterator[memoryview]:
    """Yield whole records; a view is good until the next one is asked for."""
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    begin = end = 0
    while True:
        while end - begin < 4 or end - begin < 4 + _LENGTH.unpack_from(buffer, begin)[0]:
            if len(buffer) - end < 200_000:
                view[: end - begin] = bytes(view[begin:end])
                begin, end = 0, end - begin
            got = sock.recv_into(view[end:])
            if not got:
                return
            end += got
        (length,) = _LENGTH.unpack_from(buffer, begin)
        yield view[begin + 4 : begin + 4 + length]
        begin += 4 + length


def drain(sock: socket.socket, *, message_bytes: int, raw: bool = False) -> Answer:
    """Receive, open and take apart until the end; the time runs from the first record on, which is not counted."""
    unseal: Callable[..., Any] = _as_it_is if raw else AESGCM(KEY).decrypt
    shared = len(_record_body(message_bytes)) > 1
    messages = received = 0
    began = 0.0
    for counter, record in enumerate(_records(sock)):
        if not began:
            began = time.perf_counter()
            continue
        body = unseal(_NONCE.pack(0, counter), record, None)
        offset = 0
        while shared and offset < len(body):
            start = offset + _SHORT.size
            offset = start + (body[offset] << 8 | body[offset + 1])
            message = body[start:offset]
            messages += 1
            received += len(message)
        if not shared:
            messages += 1
            received += len(body)
    if not messages:
        raise Unreachable("no record came after the first")
    took_s = time.perf_counter() - began
    sock.close()
    return {"messages": messages, "bytes": received, "took_s": took_s}


def echo(sock: socket.socket) -> Answer:
    """Send everything back until the end."""
    while data := sock.recv(65_536):
        sock.sendall(data)
    sock.close()
    return {}


def ping(sock: socket.socket, *, message_bytes: int, duration_s: float) -> Answer:
    """Measure sealed round trips one after the other."""
    cipher = AESGCM(KEY)
    message = os.urandom(message_bytes)
    size = message_bytes + 16
    times: list[float] = []
    until = time.monotonic() + duration_s
    while time.monotonic() < until:
        nonce = _NONCE.pack(0, len(times))
        began = time.perf_counter()
        sock.sendall(cipher.encrypt(nonce, message, None))
        cipher.decrypt(nonce, sock.recv(size, socket.MSG_WAITALL), None)
        times.append(time.perf_counter() - began)
    sock.close()
    times.sort()
    return {"round_trips": len(times), "p50_s": times[len(times) // 2], "p99_s": times[len(times) * 99 // 100]}


def pump_many(*socks: socket.socket, duration_s: float) -> Answer:
    """Send plain bytes on all, each as fast as it takes them, turn and turn about."""
    chunk = bytes(65_536)
    for sock in socks:
        sock.setblocking(False)
    until = time.monotonic() + duration_s
    while time.monotonic() < until:
        for sock in select.select([], socks, [], 0.1)[1]:
            sock.send(chunk)
    for sock in socks:
        sock.close()
    return {}


def drain_many(*socks: socket.socket) -> Answer:
    """Count what each receives until its end."""
    received = [0] * len(socks)
    buffer = bytearray(1 << 18)
    with selectors.DefaultSelector() as selector:
        for number, sock in enumerate(socks):
            selector.register(sock, selectors.EVENT_READ, number)
        while selector.get_map():
            for key, _ in selector.select():
                if got := socks[key.data].recv_into(buffer):
                    received[key.data] += got
                else:
                    selector.unregister(key.fileobj)
    for sock in socks:
        sock.close()
    return {"bytes": received}


def bare(one: socket.socket, other: socket.socket) -> Answer:
    """Splice two sockets with nothing around it: a thread and a pipe each way, all of it blocking."""

    def one_way(source: socket.socket, target: socket.socket) -> None:
        reader, writer = os.pipe()
        while moved := os.splice(source.fileno(), writer, 65_536, flags=os.SPLICE_F_MOVE):
            while moved:
                moved -= os.splice(reader, target.fileno(), moved, flags=os.SPLICE_F_MOVE)
        target.shutdown(socket.SHUT_WR)
        os.close(reader)
        os.close(writer)

    def way_back() -> None:
        # A socket that breaks breaks the other way, too, and that tells of it.
        with contextlib.suppress(OSError):
            one_way(other, one)

    back = threading.Thread(target=way_back)
    back.start()
    one_way(one, other)
    back.join()
    one.close()
    other.close()
    return {}


_c_switch = CSwitch()
OPERATIONS: dict[str, Callable[..., Answer]] = {
    operation.__name__: operation
    for operation in (pump, drain, session_pump, session_drain, echo, ping, pump_many, drain_many, bare, sep_call)
}
OPERATIONS |= {"sep_serve": sep_serve, "c_switch": _c_switch.begin, "c_switch_ends": _c_switch.end}


def _answer(request: dict[str, Any], socks: list[socket.socket]) -> Answer:
    try:
        return OPERATIONS[request.pop("do")](*socks, **request)
    except (OSError, TransportError, zmq.ZMQError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Serve commands until the other end closes."""
    end_with_parent()
    control = socket.socket(fileno=int(sys.argv[1]))
    # Whoever gave the commands may be gone at any moment, and with them the reason to complain.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _serve(control)


def _serve(control: socket.socket) -> None:
    while True:
        command, descriptors, _, _ = socket.recv_fds(control, COMMAND_BYTES_MAX, DESCRIPTORS_MAX)
        if not command:
            return
        socks = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        for sock in socks:
            sock.setblocking(True)
        answer = _answer(json.loads(command), socks)
        for sock in socks:
            sock.close()
        control.send(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
