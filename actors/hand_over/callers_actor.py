"""The calls of a node to migratable actors: the shell of the calling machine, and the reference that users hold."""

from collections.abc import Coroutine
from random import Random
from typing import Any, ClassVar

from atoll.actors.hand_over.client import GIVE_UP_S, Callers, PlaceCall
from atoll.actors.hand_over.messages import CALLERS, OPERATION_FAILED
from atoll.actors.hand_over.operations import decode_outcome, encode_operation
from atoll.actors.hand_over.orders import CallActor, CallEnded
from atoll.actors.hand_over.shell import SiteShell
from atoll.actors.runtime.actor import LATER, ActorRef, Delivery, ReplyTo, reply_type_of
from atoll.actors.runtime.errors import AskCrashed, AskFailed, AskNotUnderstood, AskTimedOut
from atoll.actors.runtime.machine import Address, Seconds, Told
from atoll.actors.runtime.system import ActorSystem
from atoll.transport.base import Standing
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

__all__ = ["CALLERS", "CallersActor", "MigratableRef"]


class CallersActor(SiteShell):
    """Calls migratable actors for whoever asks on this node, with `CallActor`; answers with the bytes of the reply."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(self, own: NodeId, *, rng: Random | None = None) -> None:
        self.callers = Callers(own, rng=rng or Random())
        self._key = 0
        self._asked: dict[int, ReplyTo | None] = {}
        super().__init__(self.callers)

    async def receive(self, delivery: Delivery) -> Any:
        """Begin a call for this node; what hosts answer is the machine's."""
        if isinstance(delivery.message, CallActor) and delivery.standing is None:
            self._key += 1
            self._asked[self._key] = delivery.reply_to
            self.handle(Told(PlaceCall(delivery.message.actor, delivery.message.operation, self._key)))
            return LATER
        return await super().receive(delivery)

    def announce(self, fact: Any) -> None:
        """Answer whoever asked for the call that ended."""
        if not isinstance(fact, CallEnded):
            super().announce(fact)
            return
        asked = self._asked.pop(fact.key, None)
        if asked is None:
            return
        if not fact.failed:
            asked.answer(fact.reply)
        elif fact.failed.startswith(OPERATION_FAILED):
            asked.fail(AskCrashed(fact.failed))
        else:
            asked.fail(AskFailed(fact.failed))

    def statistics(self) -> dict[str, int]:
        """Count what is under way, and what was ignored."""
        return {"calls": len(self._asked), "ignored": self.callers.ignored, "places": len(self.callers.places)}


class MigratableRef(ActorRef):
    """A reference to a migratable actor, wherever it is: calls follow it, and each is applied once.

    A call that gets no answer is sent again under the same number, so that a move, a lost message or the death of a
    host neither loses nor doubles it. Only where none comes within `timeout_s` is it not known what became of it.
    """

    __slots__ = ("name",)

    def __init__(self, system: ActorSystem, name: str) -> None:
        super().__init__(Address(system.node_id, f"{CALLERS}/{name}"), system)
        self.name = name

    def tell(self, message: Any, *, sender: ActorRef | None = None) -> None:
        """Call without waiting for the answer, and without hearing of a failure; `sender` is not passed on.

        Raises:
            Congested: Too many calls wait already.
            UsageError: The message cannot be encoded, or is too long.
        """
        del sender
        self._system.tell(self._callers, CallActor(self.name, encode_operation(message)))

    def ask(self, message: Any, *, timeout_s: Seconds = GIVE_UP_S, reply_type: Any = None) -> Coroutine[Any, Any, Any]:
        """Call and wait for the answer; await it. It is read as in `ActorSystem.ask`.

        Raises:
            AskFailed: No answer, or no; its subclass says whose fault. `AskCrashed` of a durable actor: nothing was
                applied; `AskTimedOut`: that is not known.
            UsageError: The message cannot be encoded, or is too long.
        """
        return self._ask(
            encode_operation(message), reply_type_of(message) if reply_type is None else reply_type, timeout_s
        )

    async def _ask(self, operation: bytes, reply_type: Any, timeout_s: Seconds) -> Any:
        try:
            reply: bytes = await self._system.ask(self._callers, CallActor(self.name, operation), timeout_s=timeout_s)
        except AskTimedOut:
            why = f"{self.name} did not answer within {timeout_s:g} s; whether it was applied is not known"
            raise AskTimedOut(why) from None
        try:
            return decode_outcome(reply, reply_type)
        except MalformedFrame as error:
            raise AskNotUnderstood(f"{self.name} answered what cannot be read here: {error}") from error

    @property
    def _callers(self) -> Address:
        return Address(self._system.node_id, CALLERS)

    def __repr__(self) -> str:
        return f"MigratableRef({self.name})"
