"""An adversary plays against owners of one durable actor and its stores: it chooses each next step.

    it delivers, doubles or drops any message; takes the actor to another host, with its state or without, while the
    owner before goes on; starts a host again in the generation that it has; crashes a store, also between two effects,
    or damages its log; changes the set of stores; lets callers ask any owner that there is, again and again; removes
    the actor, founds the next one of its name on any stores, and tells a store of it or not

The placement is a register that never errs: each tenure has a generation of its own, or is another life of the newest.
What an owner may claim for itself it claims as `renewals.py` has it.

What callers hear is judged by `chained_replies.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from atoll.actors.hand_over.durable import DurableOwner, Handed, Phase
from atoll.actors.hand_over.log_store import LogStore
from atoll.actors.hand_over.messages import LOG_STORE, Call, Fenced, FoundingsOver, LogBegun, LogLost, Seal, Sealed
from atoll.actors.placement.messages import Placed, PlaceFound
from atoll.actors.runtime.machine import Effect, Input, Persist, Received, Record, Rewrite, Send
from atoll.testing.adversary import Adversary, Letter, game_lost
from atoll.testing.chained_replies import ChainedReplies, Operations
from atoll.testing.elections import simulated_node
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

ACTOR = "ledger"
TO_THE_NEWEST = 0.7
"""How often a caller asks the owner that it is to ask."""
STAYS = 0.6
"""How often a store is in the next set, too."""
CALLS_KEPT = 12
COMPACT_BYTES = 600
"""Some eight operations."""
ODDS: Mapping[str, float] = {
    "deliver": 60,
    "ask": 10,
    "ask_again": 3,
    "retry": 6,
    "part": 3,
    "take_over": 0.6,
    "begin_again": 0.3,
    "move": 0.7,
    "renew": 2,
    "crash": 0.5,
    "tear": 0.7,
    "forget": 0.15,
    "change": 0,
    "remove": 0,
    "found": 0,
    "tell": 0,
    "ask_late": 0,
}
"""How often each step is chosen."""
_REGISTER = simulated_node(91)


class Keeper:
    """One node that keeps the log: its store and its disk."""

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.machine: LogStore
        self.disk: list[Record] = []
        self.tears = False
        """It dies in the midst of its next effects."""


@dataclass(slots=True)
class Founding:
    """A host begins the next actor of that name."""

    placed: Placed
    life: int
    begun: set[NodeId] = field(default_factory=set)


class LogAdversary(Adversary):
    """One game; `violations` are what owners and stores did wrong together."""

    step_s_max = 0.2
    letters_max = 48
    hurry = 0.4

    def __init__(
        self,
        seed: object,
        owner_kind: type[DurableOwner] = DurableOwner,
        store_kind: type[LogStore] = LogStore,
        *,
        stores: int = 3,
        others: int = 0,
        odds: Mapping[str, float] | None = None,
        forgets_at: Mapping[type[Record], float] | None = None,
    ) -> None:
        """Prepare a game: the first stores keep the log, all nodes may be host.

        `forgets_at`: how often a store loses its log with a record of that type.
        """
        super().__init__(f"log adversary {seed}", {**ODDS, **(odds or {})})
        self.owner_kind, self.store_kind = owner_kind, store_kind
        self.forgets_at = dict(forgets_at or {})
        self.keepers = {node: Keeper(node) for node in map(simulated_node, range(stores + others))}
        self.owners: dict[NodeId, DurableOwner] = {}
        self.leaving: tuple[DurableOwner, NodeId, Handed] | None = None
        """A state that is with its next host, which has not claimed the actor yet."""
        self.calls: list[Call] = []
        """What was asked last; copies of it may come late."""
        self.founding: Founding | None = None
        self.removed = False
        """It has no place now."""
        self.judge = ChainedReplies(ACTOR, self.rng, self.violations)
        self.tenures = self.forgotten = self.changes = self.removals = self.dropped = 0
        self.first = 1
        """The generation with which the next actor of that name begins."""
        self._retains = (odds or {}).get("tell", 0) > 0
        nodes = tuple(self.keepers)
        for keeper in self.keepers.values():
            self._boot(keeper)
        self.placed = Placed(1, nodes[0], nodes[:stores])
        for node in self.placed.stores:
            self._handle(self.keepers[node], Received(nodes[0], Seal(ACTOR, 1, 1, founds=True, kind="operations")))
        self.letters.clear()
        self._begin(self.placed, life=1)

    # Moves of an opening

    def seat(self, host: int) -> None:
        """Place the actor on that node, in the next generation."""
        self._begin(self.placed.next_at(list(self.keepers)[host]))

    def start_again(self) -> None:
        """Start the host again that has the actor."""
        self._begin_again()

    def ask(self, caller: int) -> None:
        """Let a caller ask the owner, or ask again; who is not known asks anew at once, as `client.py` does."""
        who = self.judge.callers[caller]
        client = who.client
        self._call(self.judge.call_of(who) if who.waits else self.judge.begin(who), self._newest())
        if who.client != client:
            self._call(self.judge.call_of(who), self._newest())

    def retry(self, host: int | None = None) -> None:
        """Let the newest owner, or the one on that node, send again what was not answered."""
        owner = self.owners[self._host(host)]
        self._carry_out(owner, owner.retry(self.now))

    def _host(self, host: int | None) -> NodeId:
        return self.placed.host if host is None else list(self.keepers)[host]

    def lose(self, store: int) -> None:
        """Damage the log of that node."""
        self._lose(list(self.keepers.values())[store])

    def flow(self, *stores: int, host: int | None = None, only: tuple[type[Message], ...] = (Message,)) -> None:
        """Deliver all letters between the newest owner, or the one on that node, and these stores; lose all others."""
        owner, nodes = self._host(host), [list(self.keepers)[store] for store in stores]
        while self.letters:
            letter = self.letters.pop(0)
            sender, target = letter.sender, letter.target
            between = (sender in nodes and target == owner) or (sender == owner and target in nodes)
            if between and isinstance(letter.message, only):
                self._take(letter)

    # Owners

    def _begin(
        self, placed: Placed, *, life: int = 0, handed: Handed | None = None, heard: Mapping[NodeId, int] | None = None
    ) -> None:
        """Let its host begin the tenure that the placement names; a former one of this host is over."""
        self.placed = placed
        self.tenures += 1
        if (former := self.owners.get(placed.host)) is not None:
            former.end("its host has begun anew")
        owner = self.owners[placed.host] = self.owner_kind(
            ACTOR,
            placed,
            life=life or self.rng.randrange(2, 2**40),
            make=lambda *_: Operations(),
            handed=handed,
            heard=heard,
            compact_bytes=COMPACT_BYTES,
        )
        self._carry_out(owner, owner.begin())

    def _carry_out(self, owner: DurableOwner, effects: Sequence[Effect]) -> None:
        try:
            owner.check()
        except AssertionError as error:
            self.violations.append(f"an owner is wrong: {error}")
        for effect in effects:
            if not isinstance(effect, Send):
                continue
            if effect.path == LOG_STORE:
                self._post(Letter(owner.placed.host, effect.target, effect.message, LOG_STORE))
            else:
                self.judge.told(effect.message)

    def _take_over(self) -> None:
        """Place the actor on some host because the one before seems dead."""
        if self.removed:
            return
        host = self.rng.choice(list(self.keepers))
        self._begin(self.placed.next_at(host))

    def _begin_again(self) -> None:
        """Start the host again that has the actor: another life in the same generation."""
        if not self.removed:
            self._begin(self.placed)

    def _move(self) -> None:
        """Freeze the owner and give its state away; or let the next host claim it."""
        if self.leaving is not None:
            (source, host, handed), self.leaving = self.leaving, None
            if source.placed == self.placed:
                self._begin(self.placed.next_at(host), handed=handed)
            return
        owner = self._newest()
        if owner is not None and owner.settled:
            owner.frozen = True
            self.leaving = owner, self.rng.choice(list(self.keepers)), owner.state()

    def _renew(self) -> None:
        """Let the owner claim the next generation where stores lost their log."""
        owner = self._newest()
        if owner is not None and owner.renewal() and (owner.settled or owner.stuck):
            self._claim(owner, owner.placed.stores)

    def _change(self) -> None:
        """Bring the log to other stores, and claim the next generation with them where they fit."""
        owner = self._newest()
        if owner is None:
            return
        if learners := list(owner.stores.learners):
            kept = [node for node in owner.placed.stores if self.rng.random() < STAYS]
            wanted = tuple(sorted({*kept, *learners}))
        else:
            wanted = tuple(sorted(self.rng.sample(list(self.keepers), self.rng.randint(1, len(self.keepers)))))
            self._carry_out(owner, owner.stores.teach(wanted))
        if set(wanted) != set(owner.placed.stores) and owner.fits(wanted):
            self.changes += 1
            self._claim(owner, wanted)

    def _claim(self, owner: DurableOwner, stores: tuple[NodeId, ...]) -> None:
        handed = owner.state() if owner.settled else None
        heard = owner.stores.voiceless(stores)
        owner.end("it claims the next generation")
        self._begin(Placed(owner.placed.generation + 1, owner.placed.host, stores), handed=handed, heard=heard)

    def _newest(self) -> DurableOwner | None:
        """Give the owner of the newest tenure, if it has not ended."""
        owner = self.owners.get(self.placed.host)
        lives = (
            not self.removed and owner is not None and owner.placed == self.placed and owner.phase is not Phase.ENDED
        )
        return owner if lives else None

    def _retry(self) -> None:
        if self._newest() is None:
            self._take_over()
        owner = self.rng.choice(list(self.owners.values()))
        if owner.phase is not Phase.ENDED:
            self._carry_out(owner, owner.retry(self.now))

    # Stores

    def _boot(self, keeper: Keeper) -> None:
        own = keeper.node if self._retains else None
        keeper.machine = self.store_kind(rng=Random(self.rng.random()), own=own, placement=_REGISTER)
        keeper.tears = False
        self._write(keeper, keeper.machine.start(list(keeper.disk), self.now))

    def _handle(self, keeper: Keeper, event: Input) -> None:
        before = keeper.machine.logs.get(ACTOR)
        sealed = before.generation if before is not None else 0
        effects = keeper.machine.handle(event, self.now)
        if sealed and ACTOR not in keeper.machine.logs and self.judge.life_of(sealed) == self.judge.life:
            self.violations.append(f"the log of generation {sealed} is dropped, and its actor was not removed")
        try:
            keeper.machine.check()
        except AssertionError as error:
            self.violations.append(f"a store is wrong: {error}")
        if keeper.tears and any(isinstance(each, Persist | Rewrite) for each in effects):
            self._write(keeper, effects[: self.rng.randrange(len(effects))])
            self._boot(keeper)
            return
        self._write(keeper, effects)
        records = [type(each.record) for each in effects if isinstance(each, Persist)]
        if any(self.rng.random() < self.forgets_at.get(each, 0.0) for each in records):
            self._lose(keeper)

    def _write(self, keeper: Keeper, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Persist(record):
                    keeper.disk.append(record)
                case Rewrite(key=key, records=records):
                    self.dropped += key == ACTOR and not records
                    keeper.disk[:] = [*(each for each in keeper.disk if getattr(each, "actor", key) != key), *records]
                case Send(target, message, path) if target in self.keepers:
                    self._post(Letter(keeper.node, target, message, path))

    def _crash(self) -> None:
        self._boot(self.rng.choice(list(self.keepers.values())))

    def _tear(self) -> None:
        self.rng.choice(list(self.keepers.values())).tears = True

    def _forget(self) -> None:
        self._lose(self.rng.choice(list(self.keepers.values())))

    def _lose(self, keeper: Keeper) -> None:
        if keeper.disk:
            self.forgotten += 1
            of_all = [each for each in keeper.disk if isinstance(each, FoundingsOver)]
            begun = [each for each in keeper.disk if isinstance(each, LogBegun)]
            keeper.disk[:] = [*of_all, *begun[:1], LogLost(ACTOR, "as the adversary wants it")]
            self._boot(keeper)

    # Removals

    def _remove(self) -> None:
        """End the actor as its owner does that was asked to, and take its place away."""
        owner = self._newest()
        if owner is not None and owner.settled and not self.removed:
            owner.end("it was removed")
            self.removed, self.first, self.leaving = True, self.placed.generation + 2, None
            self.removals += 1
            self.judge.removed(self.first - 1)

    def _found(self) -> None:
        """Begin to found the next one, or say again what founds it; as `claims.py` does."""
        if not self.removed:
            return
        if self.founding is None or self.rng.random() < STAYS / 10:
            count = self.rng.randint(1, min(3, len(self.keepers)))
            stores = tuple(sorted(self.rng.sample(list(self.keepers), count)))
            host = self.rng.choice(list(self.keepers))
            self.founding = Founding(Placed(self.first, host, stores), self.rng.randrange(2, 2**40))
        placed = self.founding.placed
        for node in placed.stores:
            if node not in self.founding.begun:
                seal = Seal(ACTOR, placed.generation, self.founding.life, founds=True, kind="operations")
                self._post(Letter(placed.host, node, seal, LOG_STORE))
        if len(self.founding.begun) > len(placed.stores) // 2:
            self._begin_founded(self.founding)

    def _begun(self, founding: Founding, store: NodeId, message: Message) -> None:
        if not isinstance(message, Sealed | Fenced) or store not in founding.placed.stores:
            return
        ours = (message.generation, message.life) == (founding.placed.generation, founding.life)
        if ours and (isinstance(message, Fenced) or message.voice):
            founding.begun.add(store)
            if len(founding.begun) == len(founding.placed.stores):
                self._begin_founded(founding)

    def _begin_founded(self, founding: Founding) -> None:
        self.founding, self.removed = None, False
        placed = founding.placed
        begun = tuple(store for store in placed.stores if store in founding.begun)
        self._begin(Placed(placed.generation, placed.host, begun), life=founding.life)

    def _tell(self) -> None:
        """Tell a store that the actor is nowhere; it may hear of it when the next one is there."""
        if self.removed:
            nowhere = PlaceFound(ACTOR, None, first=self.first)
            self._post(Letter(_REGISTER, self.rng.choice(list(self.keepers)), nowhere, LOG_STORE))

    # Letters

    def _take(self, letter: Letter) -> None:
        if letter.path == LOG_STORE:
            self._handle(self.keepers[letter.target], Received(letter.sender, letter.message))
            return
        if self.founding is not None and letter.target == self.founding.placed.host:
            self._begun(self.founding, letter.sender, letter.message)
        if (owner := self.owners.get(letter.target)) is not None:
            self._carry_out(owner, owner.receive(letter.sender, letter.message, self.now))

    def _part(self) -> None:
        self._part_any(self.keepers)

    # Callers

    def _ask(self) -> None:
        if (caller := self.judge.idle()) is not None:
            self._call(self.judge.begin(caller), self._somebody())

    def _ask_again(self) -> None:
        if (caller := self.judge.asked()) is not None:
            self._call(self.judge.call_of(caller), self._somebody())

    def _ask_late(self) -> None:
        """Let a copy of a call come that was asked long ago."""
        if self.calls:
            self._call(self.rng.choice(self.calls), self._somebody(), again=True)

    def _somebody(self) -> DurableOwner | None:
        return self._newest() if self.rng.random() < TO_THE_NEWEST else self.rng.choice(list(self.owners.values()))

    def _call(self, call: Call, owner: DurableOwner | None, *, again: bool = False) -> None:
        self.calls = self.calls if again else [*self.calls[-CALLS_KEPT:], call]
        if owner is not None:
            self._carry_out(owner, owner.call(owner.placed.host, call, self.now))


def games_lost(
    seed: int,
    owner_kind: type[DurableOwner] = DurableOwner,
    store_kind: type[LogStore] = LogStore,
    *,
    opening: Callable[[LogAdversary], None] | None = None,
    games: int = 200,
    steps: int = 300,
    **more: Any,
) -> list[str]:
    """Play until a game is lost; gives what was wrong in it, or nothing."""

    def make(game: int) -> LogAdversary:
        return LogAdversary(f"{seed} {game}", owner_kind, store_kind, **more)

    return game_lost(make, opening, games=games, steps=steps)
