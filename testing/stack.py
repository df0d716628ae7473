"""Several machines on one simulated host, as several actors live on one node.

    Announce of one part  -->  Told to the others, behind what the part did with it
    Send to a path        -->  the part of that name on the other host
    Asked                 -->  Received with something to reply to; the Reply goes back as Answered

A message may come twice, and an ask with it: the real asks of the runtime do so only when the asked node crashed.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Disarm,
    Effect,
    Input,
    Machine,
    Received,
    Record,
    Reply,
    Seconds,
    Send,
    TimerFired,
    Told,
)
from atoll.transport.codec import Codec, Message
from atoll.transport.identity import NodeId

Correlation = Annotated[int, msgspec.Meta(ge=0)]


class Asked(Message, frozen=True, array_like=True, tag="simulated.asked"):
    """A question of a part to a part elsewhere."""

    correlation: Correlation
    body: bytes


class Answered(Message, frozen=True, array_like=True, tag="simulated.answered"):
    """The answer to the `Asked` of that correlation."""

    correlation: Correlation
    body: bytes


class Answer(Message, frozen=True):
    """What the part that asked receives."""

    correlation: int
    message: Message


def ask(codec: Codec, target: NodeId, path: str, message: Message, correlation: int) -> Send:
    """Make what a part does to ask."""
    return Send(target, Asked(correlation, codec.encode(message)), path)


class Stack:
    """The machines of one host, by the names of their actors; started in that order."""

    def __init__(self, parts: Mapping[str, Machine], kept: Mapping[str, Sequence[type[Record]]], codec: Codec) -> None:
        """Take the parts, and which records each keeps on disk."""
        self.parts = dict(parts)
        self._kept = {name: tuple(kinds) for name, kinds in kept.items()}
        self._codec = codec
        self._handled: dict[str, Machine] = {}
        """What `check` looks at: the parts that have handled something since."""

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        effects: list[Effect] = []
        facts: deque[tuple[str, Any]] = deque()
        for name, part in self.parts.items():
            own = [record for record in restored if isinstance(record, self._kept.get(name, ()))]
            self._carry_out(name, part.start(own, now), effects, facts)
        facts.extendleft(("", fact) for fact in self.introductions(now))
        return self._tell(facts, effects, now)

    def introductions(self, _now: Seconds) -> list[Any]:
        """Give facts that the parts ask for when they start; override it."""
        return []

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        effects: list[Effect] = []
        facts: deque[tuple[str, Any]] = deque()
        if isinstance(event, Received):
            source, _, name = event.path.partition(">")
            inner = Received(event.sender, event.message, "" if source == name else source)
            if isinstance(event.message, Asked):
                back = (event.sender, source, event.message.correlation)
                inner = Received(event.sender, self._codec.decode(event.message.body), inner.path, back)
            elif isinstance(event.message, Answered):
                answer = Answer(event.message.correlation, self._codec.decode(event.message.body))
                inner = Received(event.sender, answer, inner.path)
            self._carry_out(name, self._hand(name, inner, now), effects, facts)
        elif isinstance(event, TimerFired):
            name, _, timer = event.name.partition("|")
            self._carry_out(name, self._hand(name, TimerFired(timer), now), effects, facts)
        else:
            facts.append(("", event.fact))
        return self._tell(facts, effects, now)

    def tell(self, fact: Any, now: Seconds) -> list[Effect]:
        """Tell all parts a fact."""
        return self._tell(deque([("", fact)]), [], now)

    def check(self) -> None:
        """Check the parts that have handled something since the last time; the others are as they were."""
        for part in self._handled.values():
            part.check()
        self._handled.clear()

    def _tell(self, facts: deque[tuple[str, Any]], effects: list[Effect], now: Seconds) -> list[Effect]:
        while facts:
            source, fact = facts.popleft()
            told = Told(fact)
            for name in self.parts:
                if name != source:
                    self._carry_out(name, self._hand(name, told, now), effects, facts)
        return effects

    def _hand(self, name: str, event: Input, now: Seconds) -> Sequence[Effect]:
        part = self._handled[name] = self.parts[name]
        return part.handle(event, now)

    def _carry_out(
        self, name: str, done: Sequence[Effect], effects: list[Effect], facts: deque[tuple[str, Any]]
    ) -> None:
        for effect in done:
            match effect:
                case Send(target, message, path):
                    effects.append(Send(target, message, f"{name}>{path or name}"))
                case Reply((node, path, correlation), message):
                    answer = Answered(correlation, self._codec.encode(message))
                    effects.append(Send(node, answer, f"{name}>{path}"))
                case Arm(timer, after):
                    effects.append(Arm(f"{name}|{timer}", after))
                case Disarm(timer):
                    effects.append(Disarm(f"{name}|{timer}"))
                case Announce(fact):
                    facts.append((name, fact))
                    effects.append(effect)
                case _:
                    effects.append(effect)
