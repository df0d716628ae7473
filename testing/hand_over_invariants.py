"""What must never happen to the calls of migratable actors, whatever crashes: told from what callers and hosts say.

An actor that is removed begins another life, empty: in each life every acknowledged operation is applied once, nothing
of the one before is in it, and who asks after a removal is not answered by the life before.
"""

import struct
from dataclasses import dataclass
from typing import Any

from atoll.actors.hand_over import messages as hand_over
from atoll.actors.hand_over.messages import CallAnswered
from atoll.actors.hand_over.orders import Moved, StoresChanged
from atoll.actors.runtime.machine import Send
from atoll.testing.hosts import Host
from atoll.testing.invariants import Invariant
from atoll.testing.simulator import Simulation

REPLY = struct.Struct(">QI")
"""How many operations the actor has applied, and how many of this caller."""


@dataclass(frozen=True, slots=True)
class CallBegun:
    """Fact out, at a caller: it asks for an operation that it never asked for before."""

    caller: int
    number: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Fact out, at a caller: an operation has its reply; `failed` says that it has none."""

    caller: int
    number: int
    reply: bytes
    failed: str
    generation: int = 0
    """That answered it."""


@dataclass(frozen=True, slots=True)
class PlaceRemoved:
    """Fact out, at the register: the actor has no place any more, and these generations are used up."""

    up_to: int


class Lives:
    """The lives of the actor, one after each removal."""

    def __init__(self) -> None:
        self._ends: list[int] = []

    @property
    def now(self) -> int:
        """Count the removals."""
        return len(self._ends)

    def end(self, up_to: int) -> None:
        """Hear that a life is over, and which generations are used up."""
        self._ends.append(up_to)

    def of(self, generation: int) -> int:
        """Say to which life a generation belongs."""
        return sum(generation > end for end in self._ends)


class ExactlyOnce(Invariant):
    """Every acknowledged operation is applied once, and in an order that agrees with real time."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.moves = 0
        self.changes = 0
        """Of stores."""
        self.last_s = 0.0
        """When something was acknowledged last."""
        self.lives = Lives()
        self.told_of_removal = 0
        """Callers that heard that the actor was removed."""
        self._totals: dict[tuple[int, int], tuple[int, int]] = {}
        self._highest: dict[int, int] = {}
        """Life to the highest total that was acknowledged."""
        self._own: dict[tuple[int, int], int] = {}
        """Life and caller to how many operations of its own were acknowledged."""
        self._begun: dict[int, tuple[int, int, dict[int, int]]] = {}
        """Caller to the number of its call, the life and the highest totals when it began."""

    def announced(self, simulation: Simulation, host: Host, fact: Any) -> None:
        if isinstance(fact, CallBegun):
            self._begun[fact.caller] = (fact.number, self.lives.now, dict(self._highest))
        elif isinstance(fact, PlaceRemoved):
            self.lives.end(fact.up_to)
        elif isinstance(fact, Acknowledged):
            self._check(simulation, host, fact)
        elif isinstance(fact, Moved) and not fact.why:
            self.moves += 1
        elif isinstance(fact, StoresChanged) and not fact.why:
            self.changes += 1

    def _check(self, simulation: Simulation, host: Host, fact: Acknowledged) -> None:
        who = f"operation {fact.number} of the caller at {host.node.short}"
        number, began_in, highest_then = self._begun[fact.caller]
        if fact.failed.endswith("was removed") and self.lives.now:
            self.told_of_removal += 1
            return
        if fact.failed:
            simulation.violate(f"{who} is refused: {fact.failed}")
            return
        total, own = REPLY.unpack(fact.reply)
        life = self.lives.of(fact.generation)
        highest = highest_then.get(life, 0)
        other = self._totals.setdefault((life, total), (fact.caller, fact.number))
        self._own[life, fact.caller] = expected = self._own.get((life, fact.caller), 0) + 1
        if life < began_in:
            simulation.violate(f"{who} is answered by an actor that was removed before it began")
        if other != (fact.caller, fact.number):
            simulation.violate(f"{who} is the {total}th, and so was another one, which is lost")
        if own != expected or number != fact.number:
            simulation.violate(f"{who} is the {own}th of its caller that was applied")
        if total <= highest:
            simulation.violate(f"{who} is the {total}th, but the {highest}th was acknowledged before it began")
        self._highest[life] = max(self._highest.get(life, 0), total)
        self.acknowledged += 1
        self.last_s = simulation.now


class OneGenerationServes(Invariant):
    """Who calls after a generation acknowledged something is never answered by a lower one."""

    def __init__(self) -> None:
        self._highest = 0
        self._known: dict[tuple[int, int], int] = {}
        """Client and sequence to the highest generation that had acknowledged something when it was sent first."""

    def sent(self, simulation: Simulation, host: Host, effect: Send) -> None:
        message = effect.message
        if isinstance(message, hand_over.Call):
            self._known.setdefault((message.client, message.sequence), self._highest)
        elif isinstance(message, CallAnswered):
            before = self._known.get((message.client, message.sequence), 0)
            if message.generation < before:
                simulation.violate(
                    f"{host.node.short} answers in generation {message.generation}, "
                    f"after {before} had acknowledged something"
                )
            self._highest = max(self._highest, message.generation)


class OneServes(Invariant):
    """Never two hosts take calls of one actor: for soft actors, on a site whose supernode takes nobody for dead."""

    def handled(self, simulation: Simulation, _host: Host) -> None:
        serve = [each.node.short for each in simulation.hosts if _serves(each)]
        if len(serve) > 1:
            simulation.violate(f"{' and '.join(serve)} serve at once")


def _serves(host: Host) -> bool:
    hosting = getattr(host.machine, "hosting", None)
    return any(owner.serving and not owner.frozen for owner in hosting.owners.values()) if hosting else False


class SameReply(Invariant):
    """A repeated operation gets the reply that it got first."""

    def __init__(self) -> None:
        self._replies: dict[tuple[int, int], bytes] = {}

    def sent(self, simulation: Simulation, host: Host, effect: Send) -> None:
        message = effect.message
        if isinstance(message, CallAnswered):
            first = self._replies.setdefault((message.client, message.sequence), message.reply)
            if first != message.reply:
                simulation.violate(f"{host.node.short} answers {message.sequence} differently than before")


class Progress(Invariant):
    """When the faults have stopped, every caller gets its answers."""

    def __init__(self, stopped_s: float, within_s: float) -> None:
        self._stopped_s = stopped_s
        self._within_s = within_s
        self._waits: dict[int, tuple[float, int]] = {}

    def announced(self, simulation: Simulation, host: Host, fact: Any) -> None:
        if isinstance(fact, CallBegun):
            self._waits[host.index] = (simulation.now, fact.number)
        elif isinstance(fact, Acknowledged):
            self._waits.pop(host.index, None)

    def finished(self, simulation: Simulation) -> None:
        for began, number in self._waits.values():
            waited_s = simulation.now - max(began, self._stopped_s)
            if waited_s > self._within_s:
                simulation.violate(f"operation {number} has waited for {waited_s:.3f} s without any fault")
