"""The two ends of an ask: what the asker waits on, and what the callee answers through.

    asked --answered--> the asker goes on with the value
          --a fault, or the time-out--> the asker goes on with an AskFailed
          --the asker is cancelled--> forgotten; a later answer is dropped

For asks from other nodes the callee keeps the last answers, so that a repeated question is not handled twice.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from atoll.actors.runtime.errors import AskFailed, AskTimedOut
from atoll.actors.runtime.machine import Seconds
from atoll.transport.envelope import Envelope, Header
from atoll.transport.identity import NodeId
from atoll.transport.parking import Promise

ANSWERS_MAX = 4096
ANSWERS_BYTES_MAX = 8 * 1024 * 1024
"""What all kept answers may weigh; enough for what is under way, as a repetition comes within a time-out."""


class Ask(msgspec.Struct, eq=False):
    """The asker's end; also the callee's when both are on this node.

    The asker awaits `promise`, then raises `failure` if there is one; a method for that would cost it a coroutine.
    """

    promise: Promise
    path: str
    timeout_s: Seconds
    failure: AskFailed | None = None
    sent: bool = False
    """To another node: it may have been handled."""

    def answer(self, value: Any) -> None:
        """Wake the asker with the value."""
        if not self.promise.done():
            self.promise.set_result(value)

    def fail(self, error: AskFailed) -> None:
        """Wake the asker with the error."""
        if not self.promise.done():
            self.failure = error
            self.promise.set_result(None)

    def ring(self) -> None:
        """The time is up."""
        self.fail(AskTimedOut(f"{self.path} did not answer within {self.timeout_s:g} s"))


class RemoteReply(msgspec.Struct, eq=False):
    """The callee's end of an ask that came from another node."""

    header: Header
    send: Callable[[Header, Any], None]
    answered: bool = False

    def answer(self, value: Any) -> None:
        """Send the value back."""
        if not self.answered:
            # Sent first: a value that cannot be encoded is followed by a fault.
            self.send(self.header, value)
            self.answered = True

    def fail(self, error: AskFailed) -> None:
        """Send a fault back."""
        if not self.answered:
            self.answered = True
            self.send(self.header, error)


class Answers:
    """What was answered to other nodes, newest last; the oldest is forgotten first."""

    def __init__(self, *, count_max: int = ANSWERS_MAX, bytes_max: int = ANSWERS_BYTES_MAX) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: OrderedDict[tuple[NodeId, bytes], Envelope | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def begin(self, asker: NodeId, correlation: bytes) -> tuple[bool, Envelope | None]:
        """Tell whether the question is new; if not, give the answer, or None while it is being handled."""
        key = (asker, correlation)
        if key in self._kept:
            return False, self._kept[key]
        self._kept[key] = None
        if len(self._kept) > self._count_max:
            self._bound()
        return True, None

    def keep(self, asker: NodeId, correlation: bytes, envelope: Envelope) -> None:
        """Keep the answer to a question that `begin` noted and that is not forgotten meanwhile."""
        key = (asker, correlation)
        if key in self._kept and self._kept[key] is None:
            self._kept[key] = envelope
            self._bytes += len(envelope.body)
            if self._bytes > self._bytes_max:
                self._bound()

    def forget(self, asker: NodeId, correlation: bytes) -> None:
        """Let the question be asked anew: it was refused before anything was done."""
        envelope = self._kept.pop((asker, correlation), None)
        self._bytes -= len(envelope.body) if envelope is not None else 0

    def _bound(self) -> None:
        while len(self._kept) > self._count_max or self._bytes > self._bytes_max:
            _, envelope = self._kept.popitem(last=False)
            self._bytes -= len(envelope.body) if envelope is not None else 0
