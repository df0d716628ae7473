"""The ends of a SEP beside a callee that does not read: a caller who asks one by one, its callee, and the disturber.

Operations of `relay_ends`. The disturber is caller and callee in one process: it sends records at a steady pace to a
registration of its own, and either reads them or lets them lie.
"""

import os
import time
from typing import Any

import zmq

from atoll.actors.tunnel_relay import frames
from atoll.actors.tunnel_relay.frames import Inbound, Returned, Undelivered
from atoll.bench.laps import laps
from atoll.bench.sealed import quantiles
from atoll.bench.sep_ends import BEGIN, END, GOODBYE_MS, LABEL, agreed, dealer, said
from atoll.transport.errors import Refused

RECORD_BYTES = 8192
PACE_S = 0.001
RECORDS_A_PACE = 4
"""Little enough to leave a processor to the others."""
FILLING_RECORDS = 1200
"""Sent first: what the kernel and libzmq have room for."""


def sep_ping(*, duration_s: float, ticket: str, **dialled: Any) -> dict[str, Any]:
    """Send a record, wait for its answer, and time it, again and again."""
    times: list[float] = []
    record = os.urandom(64)
    with zmq.Context() as context, dealer(context, **dialled) as sock:
        said(sock, frames.ticket_frame(bytes.fromhex(ticket)), frames.TICKET)
        agreed(sock, BEGIN)
        for _ in laps(duration_s):
            began = time.perf_counter()
            sock.send(frames.call_frame(LABEL, record))
            while not isinstance(answer := frames.read_event(sock.recv()), Returned) or answer.record != record:
                if not isinstance(answer, Returned):
                    raise Refused(f"the relay of the benchmark said {answer}")
            times.append(time.perf_counter() - began)
        agreed(sock, END)
        sock.send(frames.call_frame(LABEL, END))
    return quantiles(times)


def sep_echo(*, tickets: str, **dialled: Any) -> dict[str, Any]:
    """Give every record back until the end."""
    with zmq.Context() as context, dealer(context, **dialled) as sock:
        said(sock, frames.ticket_frame(bytes.fromhex(tickets)), frames.TICKET)
        said(sock, frames.labels_frame([LABEL]), frames.LABELS)
        while True:
            heard = frames.read_event(sock.recv())
            if isinstance(heard, Inbound):
                sock.send(frames.answer_frame(heard.circuit, heard.record))
                if heard.record == END:
                    sock.poll(GOODBYE_MS)
                    return {}


def sep_disturb(
    *, duration_s: float, reads: bool, tickets: str, ticket: str, serving: dict[str, Any], calling: dict[str, Any]
) -> dict[str, Any]:
    """Send records to a callee that reads or does not; tells how many the relay said it could not deliver."""
    undelivered = sent = 0
    with (
        zmq.Context() as context,
        dealer(context, **serving, narrow=True) as callee,
        dealer(context, **calling) as caller,
    ):
        said(callee, frames.ticket_frame(bytes.fromhex(tickets)), frames.TICKET)
        said(callee, frames.labels_frame([LABEL]), frames.LABELS)
        said(caller, frames.ticket_frame(bytes.fromhex(ticket)), frames.TICKET)
        frame = frames.call_frame(LABEL, os.urandom(RECORD_BYTES))
        for _ in laps(duration_s):
            burst = RECORDS_A_PACE if sent else FILLING_RECORDS
            for _ in range(burst):
                caller.send(frame)
            sent += burst
            while reads and callee.poll(0):
                callee.recv()
            while caller.poll(0):
                undelivered += isinstance(frames.read_event(caller.recv()), Undelivered)
            time.sleep(PACE_S)
    return {"sent": sent, "undelivered": undelivered}
