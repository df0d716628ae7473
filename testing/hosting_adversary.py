"""An adversary plays against whole hosts of one migratable actor: it chooses each next step.

    it delivers, doubles or drops any message; fires timers, late and early ones side by side; moves the actor, names
    another host in the placement, wants other stores; crashes a host, also between two effects, or damages its log

It is to `hosting.py`, with its claims, moves, arrivals and tombstones, what `log_adversary.py` is to owners and stores.
The placement is a register that never errs; its answers are letters like all others. What callers hear is judged by
`chained_replies.py`. Hosts of a soft actor do not crash: that is all it asks for.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from atoll.actors.hand_over.hosting import Hosting
from atoll.actors.hand_over.log_store import KeptLog, LogStore
from atoll.actors.hand_over.messages import (
    CALLERS,
    HOSTING,
    LOG_STORE,
    Call,
    CallRedirected,
    Forget,
    LogLost,
    StoresWanted,
    TakePlace,
)
from atoll.actors.hand_over.orders import Found, Move, Moved, Remove
from atoll.actors.hand_over.retention import LOOK
from atoll.actors.placement.messages import PATH as PLACEMENT
from atoll.actors.placement.messages import FindPlace, Placed, PlaceFound, PlaceSwapped, RemovePlace, SwapPlace
from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Disarm,
    Effect,
    Input,
    Persist,
    Received,
    Record,
    Rewrite,
    Seconds,
    Send,
    TimerFired,
    Told,
)
from atoll.testing.adversary import Adversary, Letter, game_lost
from atoll.testing.chained_replies import ChainedReplies, Operations
from atoll.testing.elections import simulated_node
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

ACTOR = "ledger"
KIND = "operations"
TO_THE_OWNER = 0.7
"""How often a caller asks a host that serves."""
COMPACT_BYTES = 600
ODDS: Mapping[str, float] = {
    "deliver": 70,
    "ask": 10,
    "ask_again": 3,
    "fire": 8,
    "part": 3,
    "move": 2,
    "replace": 0.5,
    "crash": 0.5,
    "tear": 0.7,
    "forget": 0.15,
    "change": 0,
    "remove": 0,
    "found": 0,
    "look": 0,
}
"""How often each step is chosen."""
_CALLER = simulated_node(90)
_REGISTER = simulated_node(91)
_REGISTER_OF_STORES = simulated_node(92)
"""The same one, under another name: its answers go to stores."""


class HostPlayer:
    """One node: what it hosts, what it keeps, its disk, its timers."""

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.hosting: Any = None
        self.store: Any = None
        self.host_disk: list[Record] = []
        self.store_disk: list[Record] = []
        self.timers: dict[str, Seconds] = {}
        self.tears = False
        """It dies in the midst of its next effects."""


class HostingAdversary(Adversary):
    """One game; `violations` are what the hosts did wrong."""

    step_s_max = 0.02
    letters_max = 64
    hurry = 0.4

    def __init__(
        self,
        seed: object,
        kind: type[Hosting] = Hosting,
        store_kind: type[LogStore] = LogStore,
        *,
        hosts: int = 3,
        stores: int = 3,
        odds: Mapping[str, float] | None = None,
    ) -> None:
        """Prepare a game: the first hosts keep the log; without any the actor is soft."""
        super().__init__(f"hosting adversary {seed}", {**ODDS, **(odds or {})})
        self.kind, self.store_kind = kind, store_kind
        self.now = 1.0
        self.players = {node: HostPlayer(node) for node in map(simulated_node, range(hosts))}
        self.placed: Placed | None = None
        self.judge = ChainedReplies(ACTOR, self.rng, self.violations)
        self.retired = 0
        self.stores = stores
        """How many keep the log."""
        self.moved = self.forgotten = self.crashed = self.dropped = self.emptied = 0
        self._permitted: set[tuple[NodeId, int]] = set()
        """Stores that a host told, rightly, to forget what they have of lower generations than that."""
        self._retains = (odds or {}).get("look", 0) > 0
        nodes = tuple(self.players)
        for player in self.players.values():
            self._boot(player)
        first = self.players[nodes[0]]
        self._tell(first, Told(Found(ACTOR, KIND, nodes[:stores])))

    # Moves of an opening

    def hold(self, *kinds: type[Message]) -> list[Letter]:
        """Take these letters out of the post."""
        held = [letter for letter in self.letters if isinstance(letter.message, kinds)]
        self.letters = [letter for letter in self.letters if letter not in held]
        return held

    def flow(self, *hosts: int, only: tuple[type[Message], ...] = (Message,)) -> None:
        """Deliver what these hosts, callers and the register say to each other, of these kinds; lose all the rest."""
        nodes = {_CALLER, _REGISTER, _REGISTER_OF_STORES, *(self._player(host).node for host in hosts)}
        rest: list[Letter] = []
        while self.letters:
            letter = self.letters.pop(0)
            if {letter.sender, letter.target} <= nodes and isinstance(letter.message, only):
                self._take(letter)
            elif not isinstance(letter.message, only):
                rest.append(letter)
        self.letters = rest

    def hand_over(self, letters: Sequence[Letter]) -> None:
        """Deliver letters that were held; they may come once more."""
        for letter in letters:
            self._take(letter)

    def order(self, host: int, fact: Any) -> None:
        """Tell a host to host the actor, to move it, or to remove it."""
        self._tell(self._player(host), Told(fact))

    def wait(self, host: int, wait_s: Seconds = 0.0) -> None:
        """Let time pass, so much at least, until a host looks after the actor, as long as it does."""
        player, until = self._player(host), self.now + wait_s
        while (due := player.timers.pop(ACTOR, None)) is not None:
            self.now = max(self.now, due)
            self._tell(player, TimerFired(ACTOR))
            if self.now >= until:
                return

    def seat(self, host: int) -> None:
        """Name that host in the placement."""
        assert self.placed is not None  # noqa: S101 - for mypy
        self.placed = self.placed.next_at(self._player(host).node)
        self._post(Letter(_REGISTER, self.placed.host, TakePlace(ACTOR, self.placed), HOSTING))

    def change(self, host: int, *stores: int) -> None:
        """Want the log of what a host owns on these stores."""
        known = self._player(host).hosting.owners[ACTOR].placed.stores
        wanted = StoresWanted(ACTOR, known, self.nodes(*stores))
        self._tell(self._player(host), Received(_CALLER, wanted))

    def look(self, *stores: int) -> None:
        """Let stores ask what they need not keep, and have answers."""
        for store in stores:
            self._tell(self._player(store), TimerFired(LOOK), LOG_STORE)

    def force(self) -> None:
        """Remove the place without asking its host."""
        assert self.placed is not None  # noqa: S101 - for mypy
        self._answer(RemovePlace(ACTOR, self.placed))

    def ask(self, caller: int, host: int) -> None:
        """Let a caller ask that host for its next operation, or again."""
        who = self.judge.callers[caller]
        call = self.judge.call_of(who) if who.waits else self.judge.begin(who)
        self._post(Letter(_CALLER, self._player(host).node, call, HOSTING))

    def nodes(self, *hosts: int) -> tuple[NodeId, ...]:
        """Name hosts."""
        return tuple(sorted(self._player(host).node for host in hosts))

    def _player(self, host: int) -> HostPlayer:
        return list(self.players.values())[host]

    # Hosts

    def _boot(self, player: HostPlayer) -> None:
        player.tears = False
        player.timers.clear()
        own = player.node if self._retains else None
        player.store = self.store_kind(rng=Random(self.rng.random()), own=own, placement=_REGISTER_OF_STORES)
        self._carry_out(player, player.store.start(list(player.store_disk), self.now), player.store_disk, LOG_STORE)
        player.hosting = self.kind(
            player.node,
            rng=Random(self.rng.random()),
            make=lambda *_: Operations(),
            placement=_REGISTER,
            compact_bytes=COMPACT_BYTES,
        )
        self._carry_out(player, player.hosting.start(list(player.host_disk), self.now), player.host_disk, HOSTING)

    def _tell(self, player: HostPlayer, event: Input, path: str = HOSTING) -> None:
        machine, disk = (player.hosting, player.host_disk) if path == HOSTING else (player.store, player.store_disk)
        before = None if path == HOSTING else player.store.logs.get(ACTOR)
        sealed = before.generation if before is not None else 0
        try:
            effects = machine.handle(event, self.now)
            machine.check()
        except Exception as error:  # noqa: BLE001 - a machine that raises has lost
            self.violations.append(f"it raised {type(error).__name__}: {error}")
            return
        if before is not None:
            self._watch(player, before, sealed)
        if player.tears and any(isinstance(each, Persist | Rewrite) for each in effects):
            self._carry_out(player, effects[: self.rng.randrange(len(effects))], disk, path)
            self._boot(player)
        else:
            self._carry_out(player, effects, disk, path)

    def _carry_out(self, player: HostPlayer, effects: Sequence[Effect], disk: list[Record], path: str) -> None:
        for effect in effects:
            match effect:
                case Persist(record):
                    disk.append(record)
                case Rewrite(key=key, records=records):
                    disk[:] = [*(each for each in disk if getattr(each, "actor", key) != key), *records]
                case Send(target, message, to):
                    if isinstance(message, Forget):
                        self._promise(player, target, message)
                    self._post(Letter(player.node, target, message, to or path))
                case Arm(name, after):
                    player.timers[name] = self.now + after
                case Disarm(name):
                    player.timers.pop(name, None)
                case Announce(Moved(why="")):
                    self.moved += 1

    def _somebody(self) -> HostPlayer:
        return self.rng.choice(list(self.players.values()))

    def _owner(self) -> HostPlayer | None:
        """Give a host that serves; more than one may believe that it does."""
        serve = [
            player
            for player in self.players.values()
            if (owner := player.hosting.owners.get(ACTOR)) is not None and owner.serving
        ]
        return self.rng.choice(serve) if serve else None

    def _fire(self) -> None:
        player = self._somebody()
        if player.timers:
            name = min(player.timers, key=lambda each: player.timers[each])
            self.now = max(self.now, player.timers.pop(name))
            self._tell(player, TimerFired(name))

    def _move(self) -> None:
        owner = self._owner()
        if owner is not None:
            self._tell(owner, Told(Move(ACTOR, self._somebody().node)))

    def _change(self) -> None:
        owner = self._owner()
        if owner is not None and self.placed is not None:
            nodes = list(self.players)
            wanted = tuple(sorted(self.rng.sample(nodes, self.rng.randint(1, len(nodes)))))
            self._tell(owner, Received(_CALLER, StoresWanted(ACTOR, self.placed.stores, wanted)))

    def _crash(self) -> None:
        self.crashed += 1
        self._boot(self._somebody())

    def _tear(self) -> None:
        self._somebody().tears = True

    def _forget(self) -> None:
        player = self._somebody()
        if player.store_disk:
            self.forgotten += 1
            player.store_disk[:] = [*player.store_disk[:1], LogLost(ACTOR, "as the adversary wants it")]
            self._boot(player)

    # Logs that are of no use any more

    def _watch(self, player: HostPlayer, before: KeptLog, sealed: int) -> None:
        """See what a store does with the log that it had."""
        now = player.store.logs.get(ACTOR)
        if now is before:
            return
        if now is None:
            self.dropped += 1
            # One that nobody has sealed was torn when it was begun: its store never said that it has it.
            if sealed and self.judge.life_of(sealed) == self.judge.life:
                self.violations.append(f"the log of generation {sealed} is dropped, and its actor was not removed")
        elif not now.voice:
            self.emptied += 1
            if not any(node == player.node and generation > sealed for node, generation in self._permitted):
                self.violations.append(f"the log of generation {sealed} is emptied, and no host said so")

    def _promise(self, player: HostPlayer, store: NodeId, message: Forget) -> None:
        """Check that everything is where it should be, when a host tells a store to forget."""
        owner = player.hosting.owners[ACTOR]
        logs = [self.players[node].store.logs.get(ACTOR) for node in owner.placed.stores]
        lacks = any(log is None or not log.voice or log.log.last.index < owner.committed for log in logs)
        # One that was replaced, or whose disks lost something since, was right when it heard of that.
        if lacks and owner.placed == self.placed and not self.forgotten:
            self.violations.append("a host lets a store forget, and its own are not whole")
        self._permitted.add((store, message.generation))

    def _look(self) -> None:
        self._tell(self._somebody(), TimerFired(LOOK), LOG_STORE)

    def _remove(self) -> None:
        self._tell(self._somebody(), Told(Remove(ACTOR)))

    def _found(self) -> None:
        """Host it, as a program does that starts."""
        nodes = list(self.players)
        self._tell(self._somebody(), Told(Found(ACTOR, KIND, tuple(sorted(self.rng.sample(nodes, self.stores))))))

    # The placement

    def _replace(self) -> None:
        """Name another host, as a supernode does that takes one for dead."""
        if self.placed is not None:
            self.seat(self.rng.randrange(len(self.players)))

    def _register(self, letter: Letter) -> None:
        path = LOG_STORE if letter.target == _REGISTER_OF_STORES else HOSTING
        self._post(Letter(_REGISTER, letter.sender, self._answer(letter.message), path))

    def _answer(self, message: Message) -> Message:
        if isinstance(message, FindPlace):
            return PlaceFound(ACTOR, self.placed, first=self._first())
        assert isinstance(message, SwapPlace | RemovePlace)  # noqa: S101 - for mypy
        done = self.placed == message.expected
        if isinstance(message, SwapPlace):
            done = done and (message.expected is not None or message.wanted.generation == self.retired + 1)
            self.placed = message.wanted if done else self.placed
        elif done:
            self.placed, self.retired = None, max(self.retired, message.expected.generation + 1)
            self.judge.removed(self.retired)
        # What is refused where nothing stands may have been done before, and removed since.
        return PlaceSwapped(ACTOR, done, self.placed, decided=done or self.placed is not None, first=self._first())

    def _first(self) -> int:
        return self.retired + 1 if self.placed is None else 0

    # Letters

    def _take(self, letter: Letter) -> None:
        if letter.path == PLACEMENT:
            self._register(letter)
        elif letter.path == CALLERS:
            self._answered(letter.message)
        else:
            self._tell(self.players[letter.target], Received(letter.sender, letter.message), letter.path)

    def _part(self) -> None:
        self._part_any(self.players)

    # Callers

    def _ask(self) -> None:
        if (caller := self.judge.idle()) is not None:
            self._call(self.judge.begin(caller))

    def _ask_again(self) -> None:
        if (caller := self.judge.asked()) is not None:
            self._call(self.judge.call_of(caller))

    def _call(self, call: Call) -> None:
        owner = self._owner() if self.rng.random() < TO_THE_OWNER else None
        self._post(Letter(_CALLER, (owner or self._somebody()).node, call, HOSTING))

    def _answered(self, message: Message) -> None:
        if isinstance(message, CallRedirected):
            # A caller that is sent on follows, unless it has been answered meanwhile.
            caller = self.judge.caller_of(message.client)
            if caller is not None and caller.waits and caller.sequence == message.sequence:
                self._post(Letter(_CALLER, message.placed.host, self.judge.call_of(caller), HOSTING))
        else:
            self.judge.told(message)


def games_lost(
    seed: int,
    kind: type[Hosting] = Hosting,
    store_kind: type[LogStore] = LogStore,
    *,
    opening: Callable[[HostingAdversary], None] | None = None,
    games: int = 100,
    steps: int = 500,
    **more: Any,
) -> list[str]:
    """Play until a game is lost; gives what was wrong in it, or nothing."""

    def make(game: int) -> HostingAdversary:
        return HostingAdversary(f"{seed} {game}", kind, store_kind, **more)

    return game_lost(make, opening, games=games, steps=steps)
