"""The ends of a bearer as nodes use it: `transport/session.py` in full, on a blocking socket.

Operations of `relay_ends`. The initiator dials the session and sends messages; the receiver answers it and counts whole
messages. The handshake and the first read are not counted.
"""

import os
import socket
import time
from typing import Any

from atoll.bench.laps import laps
from atoll.transport.errors import Refused
from atoll.transport.keys import NodeKey
from atoll.transport.record_stream import RecordStream, frame_record
from atoll.transport.session import Session
from atoll.transport.session_events import Closed, MessageArrived, State
from atoll.transport.session_opening import opens_session, session_id_of

SPEAKER, LISTENER = NodeKey(b"bench speaker".ljust(32)), NodeKey(b"bench listener".ljust(32))
RECORD_BYTES_MAX = 65_536
READ_BYTES = 262_144
BURST_BYTES = 256 * 1024
"""What is queued between two writes, as a busy node does."""
BURSTS_MIN = 2
"""More than the first read takes, which is not counted."""


def dialled(now: float) -> Session:
    """Begin a session to the listener."""
    return Session.dial(key=SPEAKER, peer=LISTENER.node_id, grant=b"", record_bytes_max=RECORD_BYTES_MAX, now=now)


def answered(first_record: bytes, now: float) -> Session:
    """Be the listener of the session that the record opens."""
    return Session.answer(
        key=LISTENER,
        judge=lambda _peer, _grant: None,
        session_id=session_id_of(first_record),
        record_bytes_max=RECORD_BYTES_MAX,
        now=now,
    )


def hand_shaken(pair: tuple[socket.socket, socket.socket]) -> tuple[Session, Session]:
    """Open a session through a pair of sockets, both ends of it here, turn and turn about.

    Raises:
        Refused: A socket was closed meanwhile.
    """
    dialler, answerer = dialled(time.monotonic()), None
    streams = [RecordStream(RECORD_BYTES_MAX) for _ in pair]

    def arrived(end: int) -> list[bytes]:
        data = pair[end].recv(READ_BYTES)
        if not data:
            raise Refused("the other end of the session has gone")
        return list(streams[end].feed(data))

    while answerer is None or State.OPEN is not dialler.state:
        _write(pair[0], dialler)
        for record in arrived(1):
            answerer = answerer or answered(record, time.monotonic())
            answerer.receive(record, time.monotonic())
        if answerer is not None:
            _write(pair[1], answerer)
        for record in arrived(0):
            dialler.receive(record, time.monotonic())
    return dialler, answerer


def _write(sock: socket.socket, session: Session) -> None:
    if records := session.outgoing(time.monotonic()):
        sock.sendall(b"".join([frame_record(record) for _, record in records]))


def session_pump(sock: socket.socket, *, message_bytes: int, duration_s: float) -> dict[str, Any]:
    """Open a session, send messages as fast as it goes, then half-close."""
    session = dialled(time.monotonic())
    stream = RecordStream(RECORD_BYTES_MAX)
    while session.state is not State.OPEN:
        _write(sock, session)
        data = sock.recv(READ_BYTES)
        if not data:
            raise Refused("the other end of the session has gone")
        for record in stream.feed(data):
            session.receive(record, time.monotonic())
    message = os.urandom(message_bytes)
    burst = max(1, BURST_BYTES // message_bytes)
    sent = 0
    for _ in laps(duration_s, BURSTS_MIN):
        for _ in range(burst):
            session.send(message)
        sent += burst
        _write(sock, session)
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(READ_BYTES):
        pass
    return {"messages": sent}


def session_drain(sock: socket.socket, *, message_bytes: int) -> dict[str, Any]:
    """Answer a session and count messages until the end."""
    session: Session | None = None
    stream = RecordStream(RECORD_BYTES_MAX)
    messages = 0
    began = 0.0
    while data := sock.recv(READ_BYTES):
        now = time.monotonic()
        for record in stream.feed(data):
            if session is None and opens_session(record):
                session = answered(record, now)
            if session is None:
                raise Refused("what came first opens no session")
            for event in session.receive(record, now):
                if isinstance(event, Closed):
                    raise Refused(f"the session ended: {event.reason}")
                messages += isinstance(event, MessageArrived)
            _write(sock, session)
        if messages and not began:
            began, messages = time.perf_counter(), 0
    if not messages:
        raise Refused("no message came after the first read")
    took_s = time.perf_counter() - began
    sock.close()
    return {"messages": messages, "bytes": messages * message_bytes, "took_s": took_s}
