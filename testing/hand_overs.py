"""The hand-over of migratable actors under simulation: hosts, stores, a register, callers, and what must never happen.

Promise R6 of the project: no acknowledged operation is lost, doubled or answered differently, whatever crashes.

A host runs the real machines (`Hosting`, `LogStore`), callers the real `Callers`; the register stands in for the
placement: it is linearizable and durable, and now and then names another host, as a supernode does that takes one for
dead. Each call has a number of its own, and the actor counts: how many operations it has applied, and how many of this
caller. So one reply shows everything: a second use of a total is a lost operation, a wrong count of the caller's own is
a doubled or a lost one, and a total that is not above all that were acknowledged before the call began is an operation
in the wrong order.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from atoll.actors.hand_over import messages as hand_over
from atoll.actors.hand_over.client import Callers, PlaceCall
from atoll.actors.hand_over.hosting import Hosting
from atoll.actors.hand_over.log_store import LogStore
from atoll.actors.hand_over.messages import (
    CALLERS,
    HOST_RECORDS,
    HOSTING,
    LOG_STORE,
    STORE_RECORDS,
    CallAnswered,
    LogLost,
    StoresWanted,
    TakePlace,
)
from atoll.actors.hand_over.orders import CallEnded, Found, Move, Remove
from atoll.actors.hand_over.retention import LOOK
from atoll.actors.placement import messages as placement
from atoll.actors.placement.messages import PATH as PLACEMENT
from atoll.actors.placement.messages import FindPlace, Placed, PlaceFound, PlaceSwapped, RemovePlace, SwapPlace
from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Disarm,
    Effect,
    Input,
    Machine,
    Persist,
    Received,
    Record,
    Seconds,
    Send,
    TimerFired,
    Told,
)
from atoll.testing.elections import simulated_node
from atoll.testing.faults import FaultPlan
from atoll.testing.hand_over_invariants import (
    REPLY,
    Acknowledged,
    CallBegun,
    ExactlyOnce,
    OneGenerationServes,
    PlaceRemoved,
    Progress,
    SameReply,
)
from atoll.testing.hosts import Host
from atoll.testing.invariants import Invariant
from atoll.testing.simulator import VIOLATIONS_MAX, Simulation
from atoll.transport.codec import Codec
from atoll.transport.identity import NodeId

ACTOR = "ledger"
CODEC = Codec([*hand_over.MESSAGES, *placement.MESSAGES])
_OPERATION = struct.Struct(">QI")


class Ledger:
    """The simulated actor: it counts its operations, in all and of each caller."""

    def __init__(self) -> None:
        self.total = 0
        self.of: dict[int, int] = {}

    def apply(self, operation: bytes, _number: int) -> bytes:
        """Count."""
        caller, _ = _OPERATION.unpack(operation)
        self.total += 1
        self.of[caller] = self.of.get(caller, 0) + 1
        return REPLY.pack(self.total, self.of[caller])

    def snapshot(self) -> bytes:
        """Give both counts."""
        return msgspec.msgpack.encode((self.total, self.of))

    def restore(self, data: bytes) -> None:
        """Take both counts."""
        self.total, self.of = msgspec.msgpack.decode(data, type=tuple[int, dict[int, int]])

    def end(self) -> None:
        """Nothing is open."""


def make_ledger(_actor: str, kind: str) -> Ledger | None:
    """Make one; other kinds are not known here."""
    return Ledger() if kind == "ledger" else None


class RegisterKept(msgspec.Struct, frozen=True, array_like=True, tag="testing.register"):
    """What the register has on disk."""

    actor: str
    placed: Placed


class RegisterRetired(msgspec.Struct, frozen=True, array_like=True, tag="testing.register_retired"):
    """What the register has on disk of an actor that was removed: the generations that are used up."""

    actor: str
    generation: int


@dataclass(frozen=True, slots=True)
class Replace:
    """Fact in, at the register: that is where the actor is now."""

    actor: str
    placed: Placed


@dataclass(frozen=True, slots=True)
class Restock:
    """Fact in, at a host: keep the logs of all it owns on these stores."""

    stores: tuple[NodeId, ...]


class Register:
    """Where actors are placed: linearizable, durable, and sometimes wrong about who is alive."""

    def __init__(
        self, hosts: Sequence[NodeId], rng: Random, replace_s: tuple[float, float] | None, *, hints: bool = True
    ) -> None:
        """`hints`: it tells whom it names; without, they have to find out."""
        self._hints = hints
        self.places: dict[str, Placed] = {}
        self.retired = 0
        self._hosts = hosts
        self._rng = rng
        self._replace_s = replace_s

    def start(self, restored: Sequence[Record], _now: Seconds) -> list[Effect]:
        for record in restored:
            if isinstance(record, RegisterKept):
                self.places[record.actor] = record.placed
            elif isinstance(record, RegisterRetired):
                self.places.pop(record.actor, None)
                self.retired = record.generation
        return self._again()

    def check(self) -> None:
        """Nothing to check."""

    def _again(self) -> list[Effect]:
        return [Arm("replace", self._rng.uniform(*self._replace_s))] if self._replace_s else []

    def handle(self, event: Input, _now: Seconds) -> list[Effect]:
        if isinstance(event, Received):
            if isinstance(event.message, FindPlace):
                actor = event.message.actor
                return [
                    Send(event.sender, PlaceFound(actor, self.places.get(actor), first=self._first(actor)), HOSTING)
                ]
            if isinstance(event.message, SwapPlace):
                return self._swap(event.sender, event.message)
            if isinstance(event.message, RemovePlace):
                return self._remove(event.sender, event.message)
        elif isinstance(event, TimerFired):
            effects = self._again()
            for actor, placed in tuple(self.places.items()):
                host = self._rng.choice(self._hosts)
                effects += self._put(actor, placed.next_at(host))
                if self._hints:
                    effects.append(Send(host, TakePlace(actor, self.places[actor]), HOSTING))
            return effects
        elif isinstance(event.fact, Replace):
            actor, placed = event.fact.actor, event.fact.placed
            return [*self._put(actor, placed), Send(placed.host, TakePlace(actor, placed), HOSTING)]
        return []

    def _put(self, actor: str, placed: Placed) -> list[Effect]:
        self.places[actor] = placed
        return [Persist(RegisterKept(actor, placed))]

    def _swap(self, sender: NodeId, message: SwapPlace) -> list[Effect]:
        current = self.places.get(message.actor)
        done = current == message.expected and (current is not None or message.wanted.generation == self.retired + 1)
        effects = self._put(message.actor, message.wanted) if done else []
        return [*effects, self._answer(sender, message.actor, done=done)]

    def _remove(self, sender: NodeId, message: RemovePlace) -> list[Effect]:
        actor = message.actor
        effects: list[Effect] = []
        done = self.places.get(actor) == message.expected
        if done:
            del self.places[actor]
            self.retired = max(self.retired, message.expected.generation + 1)
            effects = [Persist(RegisterRetired(actor, self.retired)), Announce(PlaceRemoved(self.retired))]
        return [*effects, self._answer(sender, actor, done=done)]

    def _answer(self, sender: NodeId, actor: str, *, done: bool) -> Send:
        current = self.places.get(actor)
        decided = done or current is not None
        return Send(sender, PlaceSwapped(actor, done, current, decided=decided, first=self._first(actor)), HOSTING)

    def _first(self, actor: str) -> int:
        return 0 if actor in self.places else self.retired + 1


class SimulatedHost:
    """The machines of one host under one name, and a restless operator who moves what it owns."""

    def __init__(self, parts: Mapping[str, tuple[Machine, tuple[type[Record], ...]]], rng: Random, of: "World") -> None:
        self.parts = {path: machine for path, (machine, _) in parts.items()}
        self._kinds = {path: kinds for path, (_, kinds) in parts.items()}
        self._rng = rng
        self._world = of
        self._moving = False

    @property
    def hosting(self) -> Any:
        """The hosting machine, where there is one."""
        return self.parts.get(HOSTING)

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        effects: list[Effect] = []
        for path, machine in self.parts.items():
            kept = [record for record in restored if isinstance(record, self._kinds[path])]
            effects += self._of(path, machine.start(kept, now))
        if self.hosting is not None and not self._world.stores:
            # As a program does on each node, at each start; one with a log says its class by that.
            effects += self._of(HOSTING, self.hosting.handle(Told(Found(ACTOR, "ledger", ())), now))
        elif self.hosting is not None and self.hosting.own == self._world.founder:
            effects.append(Arm("found", 0.01))
        return [*effects, *self._restock_later(), *self._remove_later()]

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        if isinstance(event, Received):
            machine = self.parts.get(event.path)
            if machine is None:  # An answer of the register to a caller.
                event = Received(event.sender, event.message, CALLERS)
                machine = self.parts[CALLERS]
            effects = self._of(event.path, machine.handle(event, now))
            if self._world.retains and event.path == HOSTING and isinstance(event.message, PlaceFound):
                # The register does not know who of a host has asked; to the other one it is news, too.
                effects += self._of(LOG_STORE, self.parts[LOG_STORE].handle(event, now))
        elif isinstance(event, TimerFired):
            if event.name == "restock":
                looks = self._look(now)
                stores = self._rng.sample(self._world.hosts, self._rng.randint(1, self._world.stores_max))
                effects = [*self._restock(tuple(stores), now), *self._restock_later(), *looks]
            elif event.name == "remove":
                effects = [*self._remove(now), *self._remove_later()]
            elif event.name in ("found", "move"):
                effects = self._operate(event.name, now)
            else:
                path, _, name = event.name.partition("|")
                effects = self._of(path, self.parts[path].handle(TimerFired(name), now))
        elif isinstance(event.fact, Restock):
            effects = self._restock(event.fact.stores, now)
        else:
            effects = [each for path, part in self.parts.items() for each in self._of(path, part.handle(event, now))]
        if self.hosting is not None and not self._moving and self._world.move_s and self.hosting.owners:
            self._moving = True
            effects.append(Arm("move", self._rng.expovariate(1 / self._world.move_s)))
        return effects

    def check(self) -> None:
        for machine in self.parts.values():
            machine.check()

    def _operate(self, name: str, now: Seconds) -> list[Effect]:
        world = self._world
        if name == "found":
            return self._of(HOSTING, self.hosting.handle(Told(Found(ACTOR, "ledger", world.stores)), now))
        self._moving = False
        effects: list[Effect] = []
        for actor, owner in tuple(self.hosting.owners.items()):
            if owner.serving:
                target = self._rng.choice([node for node in world.hosts if node != self.hosting.own])
                effects += self._of(HOSTING, self.hosting.handle(Told(Move(actor, target)), now))
        return effects

    def _remove_later(self) -> list[Effect]:
        every_s = self._world.remove_s if self.hosting is not None else None
        return [Arm("remove", self._rng.uniform(*every_s))] if every_s else []

    def _remove(self, now: Seconds) -> list[Effect]:
        """Remove what is owned here, or host it, as a program that starts; and see what need not be kept."""
        world = self._world
        stores = tuple(sorted(self._rng.sample(world.hosts, len(world.stores))))
        fact = Remove(ACTOR) if self.hosting.owners else Found(ACTOR, "ledger", stores)
        return [*self._of(HOSTING, self.hosting.handle(Told(fact), now)), *self._look(now)]

    def _restock(self, stores: tuple[NodeId, ...], now: Seconds) -> list[Effect]:
        """Want the log of what is owned here on other stores, whether they are there or not."""
        effects: list[Effect] = []
        for actor, owner in tuple(self.hosting.owners.items()):
            wanted = StoresWanted(actor, owner.placed.stores, stores)
            effects += self._of(HOSTING, self.hosting.handle(Received(self.hosting.own, wanted), now))
        return effects

    def _look(self, now: Seconds) -> list[Effect]:
        """Let the store of this host ask what it need not keep, more often than it would by itself."""
        if not self._world.retains:
            return []
        return self._of(LOG_STORE, self.parts[LOG_STORE].handle(TimerFired(LOOK), now))

    def _restock_later(self) -> list[Effect]:
        every_s = self._world.restock_s if self.hosting is not None else None
        return [Arm("restock", self._rng.uniform(*every_s))] if every_s else []

    def _of(self, path: str, effects: list[Effect]) -> list[Effect]:
        """Give effects the names that they have on this host."""
        found: list[Effect] = []
        for effect in effects:
            kind = type(effect)
            if kind is Send and not effect.path:  # type: ignore[union-attr]
                effect = Send(effect.target, effect.message, path)  # type: ignore[union-attr]  # noqa: PLW2901
            elif isinstance(effect, Arm):
                effect = Arm(f"{path}|{effect.name}", effect.after)  # noqa: PLW2901
            elif isinstance(effect, Disarm):
                effect = Disarm(f"{path}|{effect.name}")  # noqa: PLW2901
            found.append(effect)
        return found


class SimulatedCaller:
    """One caller with one outstanding operation: calls, waits for the reply, thinks, calls again."""

    def __init__(self, callers: Callers, rng: Random, think_s: Seconds) -> None:
        self._callers = callers
        self._rng = rng
        self._think_s = think_s
        self._caller = rng.randrange(2**63)
        self._number = 0

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        return [*self._callers.start(restored, now), Arm("think", self._rng.random() * self._think_s)]

    def check(self) -> None:
        self._callers.check()

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        if isinstance(event, TimerFired) and event.name == "think":
            self._number += 1
            call = PlaceCall(ACTOR, _OPERATION.pack(self._caller, self._number), self._number)
            effects = self._callers.handle(Told(call), now)
            return [Announce(CallBegun(self._caller, self._number)), *effects]
        effects = []
        for effect in self._callers.handle(event, now):
            if isinstance(effect, Announce) and isinstance(effect.fact, CallEnded):
                ended, answer = effect.fact, event.message if isinstance(event, Received) else None
                generation = answer.generation if isinstance(answer, CallAnswered) else 0
                acknowledged = Acknowledged(self._caller, ended.key, ended.reply, ended.failed, generation)
                effects.append(Announce(acknowledged))
                effects.append(Arm("think", self._rng.expovariate(1 / self._think_s)))
            else:
                effects.append(effect)
        return effects


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is simulated, besides the faults; mutants are named here."""

    hosts: tuple[NodeId, ...]
    stores: tuple[NodeId, ...]
    callers: tuple[NodeId, ...]
    register: NodeId
    move_s: Seconds = 0.02
    think_s: Seconds = 0.02
    replace_s: tuple[float, float] | None = (0.5, 4.0)
    hints: bool = True
    restock_s: tuple[float, float] | None = None
    """How often each host wants what it owns kept on other stores, `stores_max` at most."""
    stores_max: int = 3
    remove_s: tuple[float, float] | None = None
    """How often each host removes what it owns, or begins it where nothing is owned."""
    retains: bool = False
    """Stores ask what they need not keep, each time that other ones are wanted."""
    compact_bytes: int = 1500
    log_bytes_max: int = 6000
    hosting_kind: type[Hosting] = Hosting
    store_kind: type[LogStore] = LogStore
    callers_kind: type[Callers] = Callers

    @property
    def founder(self) -> NodeId:
        """The host that begins."""
        return self.hosts[0]

    def factories(self) -> dict[NodeId, Callable[[Random], Any]]:
        """Say how each host's machine is made."""
        found: dict[NodeId, Callable[[Random], Any]] = {}
        for node in self.hosts:
            found[node] = self._host(node)
        found[self.register] = self._register
        for node in self.callers:
            found[node] = self._caller(node)
        return found

    def _host(self, node: NodeId) -> Callable[[Random], Any]:
        def make(rng: Random) -> SimulatedHost:
            hosting = self.hosting_kind(
                node, rng=rng, make=make_ledger, placement=self.register, compact_bytes=self.compact_bytes
            )
            parts: dict[str, Any] = {HOSTING: (hosting, HOST_RECORDS)}
            if self.stores:
                asks = {"own": node, "placement": self.register} if self.retains else {}
                store = self.store_kind(rng=rng, log_bytes_max=self.log_bytes_max, **asks)  # type: ignore[arg-type]
                parts[LOG_STORE] = (store, STORE_RECORDS)
            return SimulatedHost(parts, rng, self)

        return make

    def _register(self, rng: Random) -> SimulatedHost:
        register = Register(self.hosts, rng, self.replace_s, hints=self.hints)
        return SimulatedHost({PLACEMENT: (register, (RegisterKept, RegisterRetired))}, rng, self)

    def _caller(self, node: NodeId) -> Callable[[Random], Any]:
        def make(rng: Random) -> SimulatedCaller:
            callers = self.callers_kind(node, rng=rng, placement=self.register, give_up_s=1e9)
            return SimulatedCaller(callers, rng, self.think_s)

        return make


def world(hosts: int = 4, stores: int = 3, callers: int = 3, *, soft: bool = False, **more: Any) -> World:
    """Make a world of so many hosts, of which the first ones keep logs; a soft actor has none."""
    nodes = [simulated_node(number) for number in range(hosts + 1 + callers)]
    kept = () if soft else tuple(nodes[:stores])
    return World(
        hosts=tuple(nodes[:hosts]), stores=kept, register=nodes[hosts], callers=tuple(nodes[hosts + 1 :]), **more
    )


class HandOverSimulation(Simulation):
    """A simulation in which only the disks of stores forget, and machines compact their logs themselves."""

    disk_records_max = math.inf

    world: World
    once: ExactlyOnce

    def _forget(self, host: Host) -> None:
        if host.node in self.world.stores or (self.world.restock_s and host.node in self.world.hosts):
            super()._forget(host)


def hand_over_simulation(
    seed: int,
    faults: FaultPlan,
    of: World | None = None,
    *,
    violations_max: int = VIOLATIONS_MAX,
    within_s: float = 3.0,
) -> HandOverSimulation:
    """Prepare a world; with `until_s` in the plan, it is checked that everybody gets answers afterwards."""
    simulated = of or world()
    once = ExactlyOnce()
    probes: list[Invariant] = [once, SameReply(), OneGenerationServes()]
    if faults.until_s < float("inf"):
        probes.append(Progress(faults.until_s, within_s))
    simulation = HandOverSimulation(
        seed,
        simulated.factories(),
        faults,
        probes,
        codec=CODEC,
        focus=lambda machine: bool(getattr(machine, "hosting", None) and machine.hosting.owners),
        loss=lambda damage: LogLost("", damage),
        violations_max=violations_max,
    )
    simulation.world, simulation.once = simulated, once
    return simulation
