"""Owns a soft migratable actor: its state lives with its host, moves with it, and dies with it.

    serving --freeze--> frozen --operations in hand are done--> settled: its state can be sent along

A planned move is exactly once: the table of answers moves with the data. After a crash it starts anew, as any actor
does; whatever it is for must be able to build its state again.
"""

from collections.abc import Mapping
from typing import Any

from atoll.actors.hand_over.application import Application, Applications, OperationFailed
from atoll.actors.hand_over.durable import Handed, Phase
from atoll.actors.hand_over.messages import CALLERS, Call, CallAnswered, CallDeferred, CallRefused, Entry, Position
from atoll.actors.hand_over.state import ActorState, Answers, decode_state, encode_state, stranger
from atoll.actors.placement.messages import Placed
from atoll.actors.runtime.machine import Effect, Seconds, Send, insist
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

IN_HAND_MAX = 256
"""Operations given to the actor and not answered yet; as many wait in its mailbox at most."""
SOON_MS = 20


class SoftOwner:
    """One tenure of one soft actor."""

    def __init__(
        self, actor: str, placed: Placed, *, make: Applications, kind: str = "", handed: Handed | None = None
    ) -> None:
        self.actor = actor
        self.placed = placed
        self.kind = kind
        self.phase = Phase.SEALING
        self.frozen = False
        self.why = "begins"
        self.lost_to: int | None = None
        self.began = placed.generation
        """In which generation the actor began empty."""
        self.answers = Answers()
        self.application: Application | None = None
        self._make = make
        self._handed = handed
        self._number = 0
        self._in_hand: dict[int, tuple[Call, NodeId]] = {}
        self._sequences: dict[int, tuple[int, int]] = {}
        """Client to the sequence in hand and its number."""

    @property
    def serving(self) -> bool:
        """Whether operations are taken; a frozen one takes none, but serves."""
        return self.phase is Phase.SERVING

    @property
    def settled(self) -> bool:
        """Whether nothing is in hand."""
        return self.phase is Phase.SERVING and not self._in_hand

    def renewal(self) -> Mapping[NodeId, int]:
        """Nothing is replicated, so nothing is filled again."""
        return {}

    def retry_after(self) -> Seconds | None:
        """Nothing is sent, so nothing is sent again."""
        return None

    def retry(self, _now: Seconds) -> list[Effect]:
        """Do nothing."""
        return []

    def check(self) -> None:
        """Assert what always holds."""
        insist(len(self._in_hand) == len(self._sequences), "an operation in hand belongs to nobody")

    def begin(self, now: Seconds) -> list[Effect]:
        """Take the state that was sent along, or begin empty."""
        state = ActorState(self.kind, b"", ())
        try:
            if self._handed is not None:
                state = decode_state(self._handed.state)
        except MalformedFrame as error:
            self.end(f"the state that was sent along cannot be read: {error}")
            return []
        self.kind = state.kind or self.kind
        self.began = state.began if self._handed is not None else self.placed.generation
        self.application = self._make(self.actor, self.kind)
        if self.application is None:
            self.end(f"no actor of the kind {self.kind} is known here")
            return []
        self.answers.restore(state.answers, now)
        try:
            if self._handed is not None:
                self.application.restore(state.data)
        except OperationFailed as error:
            self.end(f"it cannot take its state: {error}")
            return []
        self.phase, self.why = Phase.SERVING, "it has its state"
        return []

    def state(self) -> Handed:
        """Give the state as it is now; ask only when `settled`."""
        insist(self.settled and self.application is not None, "an operation is in hand")
        data = self.application.snapshot()  # type: ignore[union-attr]
        return Handed(Position(), encode_state(ActorState(self.kind, data, self.answers_kept(), self.began)))

    def answers_kept(self) -> Any:
        """Give the table of answers for a snapshot."""
        return self.answers.snapshot()

    def end(self, why: str) -> None:
        """Stop at once."""
        self.phase, self.why = Phase.ENDED, why
        self._in_hand.clear()
        self._sequences.clear()
        if self.application is not None:
            self.application.end()

    def call(self, sender: NodeId, call: Call, now: Seconds) -> list[Effect]:
        """Take an operation, once."""
        if (refusal := self.stranger(call)) is not None:
            return [Send(sender, refusal, CALLERS)]
        known = self.answers.known(call.client)
        in_hand = self._sequences.get(call.client)
        if in_hand is not None and call.sequence == in_hand[0]:
            self._in_hand[in_hand[1]] = (call, sender)
            return []
        if known is not None and call.sequence == known.sequence:
            return [self._answer(call.client, sender)]
        if self.frozen or len(self._in_hand) >= IN_HAND_MAX or self.answers.room_for(call.client, now) is None:
            # A frozen one may have been replaced already: it must not judge what does not follow.
            why = "it is about to move" if self.frozen else "too much at once"
            return [Send(sender, CallDeferred(self.actor, call.client, call.sequence, SOON_MS, why), CALLERS)]
        expected = known.sequence + 1 if known else 1
        if call.sequence != expected or in_hand is not None:
            why = f"{call.sequence} does not follow the newest sequence known of this client, {expected - 1}"
            unknown = known is None and in_hand is None
            return [Send(sender, CallRefused(self.actor, call.client, call.sequence, why, unknown), CALLERS)]
        return self._apply(sender, call, now)

    def stranger(self, call: Call) -> CallRefused | None:
        """Refuse what was asked of an actor that had this name before."""
        return stranger(call, self.began)

    def _apply(self, sender: NodeId, call: Call, now: Seconds) -> list[Effect]:
        insist(self.application is not None, "an owner that serves has an application")
        self._number += 1
        number = self._number
        self._in_hand[number] = (call, sender)
        self._sequences[call.client] = (call.sequence, number)
        try:
            reply = self.application.apply(call.operation, number)  # type: ignore[union-attr]
        except OperationFailed as error:
            del self._in_hand[number], self._sequences[call.client]
            why = f"the operation failed: {error}"[:300]
            return [Send(sender, CallRefused(self.actor, call.client, call.sequence, why), CALLERS)]
        return [] if reply is None else self.applied(number, reply, now)

    def applied(self, number: int, reply: bytes, now: Seconds) -> list[Effect]:
        """Hear that an operation is done, and answer it."""
        found = self._in_hand.pop(number, None)
        if found is None:
            return []
        call, sender = found
        del self._sequences[call.client]
        forgets = self.answers.room_for(call.client, now) or 0
        generation = self.placed.generation
        self.answers.note(Entry(generation, number, call.client, call.sequence, b"", reply, forgets), now)
        return [self._answer(call.client, sender)]

    def _answer(self, client: int, node: NodeId) -> Send:
        known = self.answers.table[client]
        return Send(
            node, CallAnswered(self.actor, client, known.sequence, known.reply, self.placed.generation), CALLERS
        )
