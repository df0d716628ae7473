"""The ends of a SEP under measurement, and the C switch it is compared with; operations of `relay_ends`.

A caller sends sealed records with a window of `WINDOW` on their way; the callee acknowledges each time
`ACKNOWLEDGED_EVERY` have come, as sessions with credit do. Beginning and end are agreed between the two: a record
before the callee is registered goes nowhere, and whoever closes a TCP connection with answers unread takes back what it
said last. The C switch is libzmq's own proxy between a ROUTER and a DEALER with CURVE on both sides: it has no tickets
and no labels, so it is what switching costs at least.

What the caller counts is what the callee has opened and acknowledged.
"""

import os
import struct
import threading
import time
from typing import Any

import zmq
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from atoll.actors.tunnel_relay import frames
from atoll.actors.tunnel_relay.frames import Accepted, Inbound, Returned, Undelivered
from atoll.bench.laps import laps
from atoll.transport.errors import Refused

KEY = bytes(32)
WINDOW = 256
ACKNOWLEDGED_EVERY = 64
ANSWERS_MIN = WINDOW // ACKNOWLEDGED_EVERY
"""What a full window brings."""
NARROW_BYTES = 65_536
LABEL = b"bench".ljust(16)
BEGIN, ENOUGH, END = b"begin", b"enough", b"end"
"""The first record, sent until it is answered; the acknowledgement; and the last record, which is answered and then
said once more, as goodbye."""
RETRY_S = 0.01
SILENCE_MS = 20_000
"""Whoever hears nothing for so long in the middle of a measurement gives up: something was lost."""
GOODBYE_MS = 1000
"""How long the callee waits for the goodbye; only a connection torn in that moment makes it do so."""
_NONCE = struct.Struct(">IQ")


def dealer(
    context: zmq.Context[Any], port: int, server: str, public: str, secret: str, *, narrow: bool = False
) -> zmq.Socket[bytes]:
    """Open a socket to a CURVE port, with what the relay may learn of us; a narrow one soon has no room."""
    sock: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    sock.setsockopt(zmq.CURVE_SERVERKEY, bytes.fromhex(server))
    sock.setsockopt(zmq.CURVE_PUBLICKEY, bytes.fromhex(public))
    sock.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(secret))
    if narrow:
        sock.setsockopt(zmq.RCVHWM, 1)
        sock.setsockopt(zmq.RCVBUF, NARROW_BYTES)
    sock.setsockopt(zmq.LINGER, 1000)
    sock.setsockopt(zmq.RCVTIMEO, SILENCE_MS)
    sock.setsockopt(zmq.SNDTIMEO, SILENCE_MS)
    sock.connect(f"tcp://127.0.0.1:{port}")
    return sock


def said(sock: zmq.Socket[bytes], frame: bytes, kind: int) -> None:
    """Say something to the relay, and wait for its OK."""
    sock.send(frame)
    if (answer := frames.read_event(sock.recv())) != Accepted(kind):
        raise Refused(f"the relay of the benchmark said {answer}")


def agreed(sock: zmq.Socket[bytes], word: bytes) -> None:
    """Say the word to the callee until it says it, too; acknowledgements still on their way are passed over."""
    give_up_at = time.monotonic() + SILENCE_MS / 1000
    sock.send(frames.call_frame(LABEL, word))
    while (answer := frames.read_event(sock.recv())) != Returned(LABEL, word):
        if time.monotonic() > give_up_at:
            raise Refused(f"the callee did not say {word.decode()!r} in time; the last that was heard is {answer}")
        if isinstance(answer, Undelivered):
            # Not registered yet, or too slow; it may be about a record before, so the word may be said twice.
            time.sleep(RETRY_S)
            sock.send(frames.call_frame(LABEL, word))
        elif not isinstance(answer, Returned):
            raise Refused(f"the relay of the benchmark said {answer}")


def sep_call(*, message_bytes: int, duration_s: float, ticket: str, **dialled: Any) -> dict[str, Any]:
    """Call for the duration; `ticket` empty for the C switch."""
    seal = AESGCM(KEY).encrypt
    message = os.urandom(message_bytes)
    with zmq.Context() as context, dealer(context, **dialled) as sock:
        if ticket:
            said(sock, frames.ticket_frame(bytes.fromhex(ticket)), frames.TICKET)
        agreed(sock, BEGIN)
        sent = acknowledged = lost = 0
        began = time.monotonic()
        for _ in laps(duration_s, ANSWERS_MIN):
            while sent - acknowledged - lost < WINDOW:
                nonce = _NONCE.pack(0, sent)
                sock.send(frames.call_frame(LABEL, nonce + seal(nonce, message, None)))
                sent += 1
            answer = frames.read_event(sock.recv())
            if isinstance(answer, Returned):
                # The answer to a BEGIN that had to be said twice may come late.
                acknowledged += ACKNOWLEDGED_EVERY if answer.record == ENOUGH else 0
            elif isinstance(answer, Undelivered):
                lost += 1
            else:
                raise Refused(f"the relay of the benchmark said {answer}")
        took_s = time.monotonic() - began
        agreed(sock, END)
        sock.send(frames.call_frame(LABEL, END))
    return {"records": acknowledged, "lost": lost, "took_s": took_s}


def _taken(sock: zmq.Socket[bytes], *, through_relay: bool) -> tuple[list[bytes] | None, bytes]:
    """Take a record and the way back to its caller; no caller when the relay says that one of our answers went nowhere.

    Through the C switch the way back is the caller's identity, which its ROUTER put before the frame.
    """
    *identity, frame = sock.recv_multipart()
    if not through_relay:
        return identity, frame[1 + len(LABEL) :]
    heard = frames.read_event(frame)
    if isinstance(heard, Undelivered):
        # The caller had enough and has gone; its last acknowledgement is of no use to anybody.
        return None, b""
    if not isinstance(heard, Inbound):
        raise Refused(f"the relay of the benchmark said {heard}")
    return [heard.circuit], heard.record


def _answer(caller: list[bytes], record: bytes, *, through_relay: bool) -> list[bytes]:
    if through_relay:
        return [frames.answer_frame(caller[0], record)]
    return [*caller, frames.RETURN.to_bytes(1) + LABEL + record]


def sep_serve(*, tickets: str, **dialled: Any) -> dict[str, Any]:
    """Take records until the end; `tickets` empty for the C switch."""
    unseal = AESGCM(KEY).decrypt
    with zmq.Context() as context, dealer(context, **dialled) as sock:
        if tickets:
            said(sock, frames.ticket_frame(bytes.fromhex(tickets)), frames.TICKET)
            said(sock, frames.labels_frame([LABEL]), frames.LABELS)
        else:
            sock.send(b"here")
        received = 0
        while True:
            caller, record = _taken(sock, through_relay=bool(tickets))
            if caller is None:
                continue
            if record in (BEGIN, END):
                sock.send_multipart(_answer(caller, record, through_relay=bool(tickets)))
                if record == END:
                    sock.poll(GOODBYE_MS)
                    return {"records": received}
                continue
            unseal(record[: _NONCE.size], record[_NONCE.size :], None)
            received += 1
            if received % ACKNOWLEDGED_EVERY == 0:
                sock.send_multipart(_answer(caller, ENOUGH, through_relay=bool(tickets)))


class CSwitch:
    """libzmq's proxy in a thread: `begin` gives the ports, `end` ends it."""

    def __init__(self) -> None:
        self._context: zmq.Context[Any] | None = None
        self._thread: threading.Thread | None = None
        self._steering: zmq.Socket[bytes] | None = None

    def begin(self, *, secret: str) -> dict[str, Any]:
        """Open both ports and switch from the callee's first word on."""
        self._context = context = zmq.Context()
        calling, serving = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        ports = []
        for sock in (calling, serving):
            sock.setsockopt(zmq.LINGER, 0)
            sock.setsockopt(zmq.CURVE_SERVER, 1)
            sock.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(secret))
            ports.append(sock.bind_to_random_port("tcp://127.0.0.1"))
        serving.setsockopt(zmq.RCVTIMEO, SILENCE_MS)
        self._steering, steered = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        steered.bind("inproc://steering")
        self._steering.connect("inproc://steering")
        self._thread = threading.Thread(target=self._switch, args=(calling, serving, steered), daemon=True)
        self._thread.start()
        return {"calling": ports[0], "serving": ports[1]}

    @staticmethod
    def _switch(calling: zmq.Socket[bytes], serving: zmq.Socket[bytes], steered: zmq.Socket[bytes]) -> None:
        # Without the callee there would be nowhere to send; its first word says that it is there.
        serving.recv()
        zmq.proxy_steerable(calling, serving, None, steered)
        for sock in (calling, serving, steered):
            sock.close(0)

    def end(self) -> dict[str, Any]:
        """End the switch that `begin` began."""
        if self._context is None or self._thread is None or self._steering is None:
            raise Refused("there is no C switch to end")
        self._steering.send(b"TERMINATE")
        self._thread.join()
        self._steering.close()
        self._context.term()
        return {}
