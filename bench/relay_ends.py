"""The processes around a relay under measurement: senders, receivers, and the barest splice to compare with.

    python -m atoll.bench.relay_ends FD

serves commands (JSON, with sockets passed along) on the unix socket FD until it closes. Sockets are used blocking, one
command at a time. What a receiver counts and times is what it has received, opened and taken apart.

Records are sealed as in `sealed.py`, each behind its length: `u32 length | ciphertext`. What the real session costs is
measured by `session_ends.py`; load with other aims is in `load_ends.py`, and `nats_ends.py` speaks to a broker.
"""

import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import zmq
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from atoll.bench import load_ends, nats_ends, sep_slow_ends
from atoll.bench.laps import laps
from atoll.bench.processes import end_with_parent
from atoll.bench.sealed import KEY, RECORDS_MIN, SEAL_BYTES, Reader, Writer, nonce, quantiles
from atoll.bench.sep_ends import CSwitch, sep_call, sep_serve
from atoll.bench.session_ends import session_drain, session_pump
from atoll.transport.errors import TransportError

COMMAND_BYTES_MAX = 65_536
DESCRIPTORS_MAX = 250
"""Linux passes at most 253 at once."""

Answer: TypeAlias = dict[str, Any]
_LENGTH = struct.Struct(">I")


def pump(
    sock: socket.socket, *, message_bytes: int, duration_s: float, raw: bool = False, half_close: bool = True
) -> Answer:
    """Seal and send as fast as it goes, then say the end with an empty record, and by half-closing if that passes."""
    writer = Writer(message_bytes, raw=raw)
    for _ in laps(duration_s, RECORDS_MIN):
        record = writer.record()
        sock.sendall(_LENGTH.pack(len(record)) + record)
    sock.sendall(_LENGTH.pack(0))
    if half_close:
        sock.shutdown(socket.SHUT_WR)
    # However it is said to us that the other end has closed.
    with contextlib.suppress(ConnectionResetError):
        sock.recv(1)
    return {"messages": writer.messages}


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
        if not length:
            return
        yield view[begin + 4 : begin + 4 + length]
        begin += 4 + length


def drain(sock: socket.socket, *, message_bytes: int, raw: bool = False) -> Answer:
    """Receive, open and take apart until the end; the time runs from the first record on, which is not counted."""
    reader = Reader(message_bytes, raw=raw)
    for record in _records(sock):
        reader.take(record)
    result = reader.result()
    sock.close()
    return result


def echo(sock: socket.socket) -> Answer:
    """Send everything back until the end."""
    # Some relays end with a reset, and by then there is nothing more to send back.
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65_536):
            sock.sendall(data)
    sock.close()
    return {}


def ping(sock: socket.socket, *, message_bytes: int, duration_s: float) -> Answer:
    """Measure sealed round trips one after the other."""
    cipher = AESGCM(KEY)
    message = os.urandom(message_bytes)
    size = message_bytes + SEAL_BYTES
    times: list[float] = []
    for _ in laps(duration_s):
        salt = nonce(len(times))
        began = time.perf_counter()
        sock.sendall(cipher.encrypt(salt, message, None))
        cipher.decrypt(salt, sock.recv(size, socket.MSG_WAITALL), None)
        times.append(time.perf_counter() - began)
    sock.close()
    return quantiles(times)


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
_NAMED: tuple[Callable[..., Answer], ...] = (
    *(pump, drain, echo, ping, bare),
    *(session_pump, session_drain, sep_call, sep_serve),
    *(sep_slow_ends.sep_ping, sep_slow_ends.sep_echo, sep_slow_ends.sep_disturb),
    *(nats_ends.nats_pump, nats_ends.nats_drain, nats_ends.nats_echo, nats_ends.nats_ping),
    *(load_ends.pump_many, load_ends.drain_many, load_ends.exchange, load_ends.probe),
    *(load_ends.pump_stamped, load_ends.drain_stamped),
)
OPERATIONS: dict[str, Callable[..., Answer]] = {operation.__name__: operation for operation in _NAMED}
OPERATIONS |= {"c_switch": _c_switch.begin, "c_switch_ends": _c_switch.end}


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
