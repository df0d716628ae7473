"""Both ends of a session in one process, which need no path to agree: for worlds that begin where a session stands."""

from typing import Any

from atoll.transport.keys import NodeKey
from atoll.transport.session import Session
from atoll.transport.session_events import State

CALLER, CALLEE = NodeKey(b"a caller".ljust(32)), NodeKey(b"a callee".ljust(32))


def opening(kind: type[Session], *, record_bytes_max: int, now: float) -> tuple[Session, Session]:
    """Give who dials and who answers, before either has heard of the other."""
    how: dict[str, Any] = {"record_bytes_max": record_bytes_max, "now": now}
    caller = kind.dial(key=CALLER, peer=CALLEE.node_id, grant=b"", **how)
    callee = kind.answer(key=CALLEE, judge=lambda _peer, _grant: None, session_id=caller.session_id, **how)
    return caller, callee


def established(kind: type[Session], *, record_bytes_max: int, now: float) -> tuple[Session, Session]:
    """Give both when each has proved itself to the other."""
    caller, callee = opening(kind, record_bytes_max=record_bytes_max, now=now)
    while caller.state is not State.OPEN or callee.state is not State.OPEN:
        for speaker, hearer in ((caller, callee), (callee, caller)):
            for _, record in speaker.outgoing(now):
                hearer.receive(record, now)
    return caller, callee
