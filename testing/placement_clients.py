"""Simulated clients of the placement, and what their history must be: a linearizable compare-and-set.

idle  --a while-->  asks a random member  --redirected-->  asks the supernode  --answer, or 0.3 s-->  idle
"""

from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

from atoll.actors.placement.messages import (
    PATH,
    Accepted,
    FindPlace,
    Placed,
    PlaceFound,
    PlaceSwapped,
    RemovePlace,
    SwapPlace,
)
from atoll.actors.runtime.machine import Announce, Arm, Effect, Input, Received, Record, Seconds, TimerFired
from atoll.testing.hosts import Host
from atoll.testing.invariants import Invariant
from atoll.testing.simulator import Simulation
from atoll.testing.stack import Answer, ask
from atoll.transport.codec import Codec
from atoll.transport.identity import NODE_ID_BYTES, NodeId

Question: TypeAlias = FindPlace | SwapPlace | RemovePlace
CLIENT = "client"
ACTORS = ("ledger", "scheduler", "vault")
REDIRECTIONS_MAX = 3


@dataclass(frozen=True, slots=True)
class Begun:
    """A client asks."""

    number: int
    question: Question


@dataclass(frozen=True, slots=True)
class Ended:
    """A client is answered."""

    number: int
    question: Question
    answer: PlaceFound | PlaceSwapped


class PlacementClient:
    """Finds and swaps places of a few actors, sometimes expecting what is long past."""

    def __init__(
        self,
        own: NodeId,
        members: tuple[NodeId, ...],
        codec: Codec,
        rng: Random,
        *,
        pause_s: Seconds,
        patience_s: Seconds,
    ) -> None:
        self.own = own
        self.members = members
        self.codec = codec
        self.rng = rng
        self.pause_s = pause_s
        self.patience_s = patience_s
        self.known: dict[str, list[Placed | None]] = {actor: [None] for actor in ACTORS}
        self.question: FindPlace | SwapPlace | None = None
        self.number = 0
        self.redirections = 0

    def start(self, _restored: object, _now: Seconds) -> list[Effect]:
        # Numbers of earlier lives are not used again.
        self.number = self.rng.getrandbits(40)
        return [Arm("act", self.rng.uniform(0, self.pause_s))]

    def check(self) -> None:
        """A client has no invariants of its own."""

    def handle(self, event: Input, _now: Seconds) -> list[Effect]:
        if isinstance(event, TimerFired):
            return self._act()
        if isinstance(event, Received) and isinstance(event.message, Answer):
            return self._answered(event.message)
        return []

    def _act(self) -> list[Effect]:
        """Ask something; what has no answer until then is given up."""
        self.number += 1
        self.redirections = 0
        actor = self.rng.choice(ACTORS)
        self.question = self._swap(actor) if self.rng.random() < 0.6 else FindPlace(actor)
        return [Announce(Begun(self.number, self.question)), *self._put(self.rng.choice(self.members))]

    def _swap(self, actor: str) -> SwapPlace:
        known = self.known[actor]
        expected = known[-1] if self.rng.random() < 0.9 else self.rng.choice(known)
        # Nobody else wants exactly this: so everybody can tell whose swap was done.
        tag = NodeId(self.rng.randbytes(NODE_ID_BYTES))
        generation = 1 if expected is None else expected.generation + 1
        host = expected.host if expected is not None and self.rng.random() < 0.5 else self.rng.choice(self.members)
        return SwapPlace(actor, expected, Placed(generation, host, (tag,)))

    def _put(self, member: NodeId) -> list[Effect]:
        assert self.question is not None  # noqa: S101 - for mypy
        return [ask(self.codec, member, PATH, self.question, self.number), Arm("act", self.patience_s)]

    def _answered(self, answer: Answer) -> list[Effect]:
        question, message = self.question, answer.message
        if question is None or answer.correlation != self.number:
            return []
        if not isinstance(message, PlaceFound | PlaceSwapped):
            return []
        uncertain = message.why if isinstance(message, PlaceFound) else not message.done and not message.decided
        if uncertain and message.supernode is not None and self.redirections < REDIRECTIONS_MAX:
            self.redirections += 1
            return self._put(message.supernode)
        self.question = None
        self._learn(message)
        return [Announce(Ended(self.number, question, message)), Arm("act", self.rng.expovariate(1 / self.pause_s))]

    def _learn(self, message: PlaceFound | PlaceSwapped) -> None:
        placed = message.placed if isinstance(message, PlaceFound) else message.current
        known = self.known[message.actor]
        if placed is not None and placed not in known:
            known.append(placed)
            known.sort(key=lambda each: each.generation if each else 0)
            del known[1:-4]


class LinearizablePlaces(Invariant):
    """The clients' history is that of one compare-and-set register for each actor.

    A value of a generation is one and the same for everybody who is told of it for certain; a swap that was done is in
    that chain, and a removal leaves nothing in the place of the generation it retires; what was certain before a
    question was asked is never followed by something older.
    """

    def __init__(self) -> None:
        self.chain: dict[tuple[str, int], Placed | None] = {(actor, 0): None for actor in ACTORS}
        """What is known to stand at each generation."""
        self.newest: dict[str, int] = dict.fromkeys(ACTORS, 0)
        self.done = self.found = self.refused = self.removed = 0
        self._never: set[SwapPlace | RemovePlace] = set()
        self._done: set[SwapPlace | RemovePlace] = set()
        self._asked: dict[tuple[int, int], int] = {}
        """Client and number of its question: the newest generation when it was asked."""

    def announced(self, simulation: Simulation, host: Host, fact: Any) -> None:
        if isinstance(fact, Begun):
            self._asked[host.index, fact.number] = self.newest[fact.question.actor]
        elif isinstance(fact, Ended):
            before = self._asked.pop((host.index, fact.number))
            if isinstance(fact.answer, PlaceFound):
                self._on_found(simulation, fact.answer, before)
            elif not isinstance(fact.question, FindPlace):
                self._on_swapped(simulation, fact.question, fact.answer, before)

    def _on_found(self, simulation: Simulation, answer: PlaceFound, before: int) -> None:
        if not answer.why:
            self.found += 1
            self._stands(simulation, answer.actor, answer.placed, answer.first, before)

    def _on_swapped(
        self, simulation: Simulation, asked: SwapPlace | RemovePlace, answer: PlaceSwapped, before: int
    ) -> None:
        if answer.done:
            self.done += 1
            self._at(simulation, asked.actor, asked.expected, 0)
            if isinstance(asked, SwapPlace):
                self._stands(simulation, asked.actor, asked.wanted, 0, before)
            else:
                self.removed += 1
                self._stands(simulation, asked.actor, None, answer.first, max(before, asked.expected.generation + 1))
            self._done.add(asked)
        elif answer.decided or answer.first:
            self.refused += 1
            self._stands(simulation, asked.actor, answer.current, answer.first, before)
            if answer.decided:
                self._never.add(asked)
                self._was_not(simulation, asked)
        if answer.done and asked in self._never:
            simulation.violate(f"a change of {asked.actor} is done that was said never to be")

    def _was_not(self, simulation: Simulation, asked: SwapPlace | RemovePlace) -> None:
        stood = isinstance(asked, SwapPlace) and self.chain.get((asked.actor, asked.wanted.generation)) == asked.wanted
        if stood or asked in self._done:
            simulation.violate(f"a change of {asked.actor} was done, and is said never to be")

    def _stands(self, simulation: Simulation, actor: str, placed: Placed | None, first: int, before: int) -> None:
        """Something is said for certain, in answer to a question from when `before` was certain already."""
        generation = _generation(placed, first)
        if generation < before:
            simulation.violate(
                f"{actor} is said to be at generation {generation}, {before} was known before the question"
            )
        self._at(simulation, actor, placed, first)
        if any(isinstance(each, SwapPlace) and each.wanted == placed for each in self._never):
            simulation.violate(f"{actor} is where a swap put it that was said never to be")
        self.newest[actor] = max(self.newest[actor], generation)

    def _at(self, simulation: Simulation, actor: str, placed: Placed | None, first: int) -> None:
        generation = _generation(placed, first)
        if placed is None and not first:
            return  # That nothing stood there is in the answer of whoever put something there.
        if self.chain.setdefault((actor, generation), placed) != placed:
            simulation.violate(f"{actor} has two places of generation {generation}")


def _generation(placed: Placed | None, first: int) -> int:
    """Say where an answer stands in the order of an actor's places; nothing has the last generation that is retired."""
    return max(0, first - 1) if placed is None else placed.generation


class TablesRiseOnDisk(Invariant):
    """A voter's table never falls behind itself, and one (epoch, version) is one table everywhere."""

    def __init__(self) -> None:
        self._tables: dict[tuple[int, int], Any] = {}
        self._newest: dict[int, tuple[int, int]] = {}

    def forgot(self, _simulation: Simulation, host: Host) -> None:
        self._newest.pop(host.index, None)

    def persisted(self, simulation: Simulation, host: Host, record: Record) -> None:
        if not isinstance(record, Accepted):
            return
        place = record.epoch, record.version
        # The same again is harmless: a damaged copy that died while it was filled is filled once more.
        if place < self._newest.get(host.index, (0, 0)):
            simulation.violate(f"the disk of {host.node.short} goes back to version {place}")
        self._newest[host.index] = place
        if self._tables.setdefault(place, (record.places, record.retired)) != (record.places, record.retired):
            simulation.violate(f"two tables have the version {place}")
