"""Several machines on one simulated host, as several actors live on one node.

    Announce of one part  -->  Told to the others that hear such facts, behind what the part did with it
    Send to a path        -->  the part of that name on the other host
    Asked                 -->  Received with something to reply to; the Reply goes back as Answered

A message may come twice, and an ask with it: the real asks of the runtime do so only when the asked node crashed.
"""

from collections import deque
from collections.abc import Container, Mapping, Sequence
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

    def __init__(
        self,
        parts: Mapping[str, Machine],
        kept: Mapping[str, Sequence[type[Record]]],
        codec: Codec,
        hears: Mapping[str, Container[type]] | None = None,
    ) -> None:
        """Take the parts, which records each keeps on disk, and which facts mean something to it; default: all."""
        self.parts = dict(parts)
        self._hears = [(name, (hears or {}).get(name)) for name in parts]
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
        if type(event) is Received:
            source, _, name = event.path.partition(">")
            message, path = event.message, "" if source == name else source
            if type(message) is Asked:
                back = (event.sender, source, message.correlation)
                inner = Received(event.sender, self._codec.decode(message.body), path, back)
            elif type(message) is Answered:
                inner = Received(event.sender, Answer(message.correlation, self._codec.decode(message.body)), path)
            else:
                inner = Received(event.sender, message, path)
            self._carry_out(name, self._hand(name, inner, now), effects, facts)
        elif type(event) is TimerFired:
            name, _, timer = event.name.partition("|")
            self._carry_out(name, self._hand(name, TimerFired(timer), now), effects, facts)
        else:
            facts.append(("", event.fact))
        return self._tell(facts, effects, now) if facts else effects

    def tell(self, fact: Any, now: Seconds) -> list[Effect]:
        """Tell a fact to all parts that hear it."""
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
            for name, hears in self._hears:
                if name == source or (hears is not None and type(fact) not in hears):
                    continue
                if done := self._hand(name, told, now):
                    self._carry_out(name, done, effects, facts)
        return effects

    def _hand(self, name: str, event: Input, now: Seconds) -> Sequence[Effect]:
        part = self._handled[name] = self.parts[name]
        return part.handle(event, now)

    def _carry_out(self, name: str, done: Sequence[Any], effects: list[Effect], facts: deque[tuple[str, Any]]) -> None:
        for effect in done:
            kind = type(effect)  # `match` asks each class in turn, which takes half a microsecond where it is another.
            if kind is Send:
                effects.append(Send(effect.target, effect.message, f"{name}>{effect.path or name}"))
            elif kind is Arm:
                effects.append(Arm(f"{name}|{effect.name}", effect.after))
            elif kind is Disarm:
                effects.append(Disarm(f"{name}|{effect.name}"))
            elif kind is Reply:
                node, path, correlation = effect.to
                effects.append(Send(node, Answered(correlation, self._codec.encode(effect.message)), f"{name}>{path}"))
            else:
                if kind is Announce:
                    facts.append((name, effect.fact))
                effects.append(effect)
