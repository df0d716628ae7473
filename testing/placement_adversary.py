"""An adversary plays against the placement alone: it chooses each next step, so that what is rare becomes common.

    it delivers, keeps, doubles or drops any message; grants and ends leases; crashes a node, also between two effects;
    damages a journal; starts a placement alone again; changes the roster; lets clients ask

It keeps to what the election promises, and to no more: epochs rise; one lease at a time, though who had the last one
may not know yet that it is over; a roster is one voter away from the one before, and the next waits until the placement
says that it is settled (`roster_change.py`); whoever leads has the newest roster, or the one before while few may know
the newest. A test may begin with an opening: the few steps that matter, from which the adversary goes on.

The simulator (`placements.py`) shows that both work together; here a few thousand steps a second meet the placement's
own milliseconds. The clients' history must be that of a linearizable compare-and-set, as there.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

from atoll.actors.elector.messages import LeaseEnded, LeaseRenewed, PlacementSettled, RosterInForce
from atoll.actors.placement.messages import Amnesia, FindPlace, Placed, PlaceFound, PlaceSwapped, RemovePlace, SwapPlace
from atoll.actors.placement.placement import Placement
from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Disarm,
    Effect,
    Input,
    Persist,
    Received,
    Record,
    Reply,
    Send,
    TimerFired,
    Told,
)
from atoll.testing.adversary import Adversary, Letter, game_lost
from atoll.testing.elections import simulated_node
from atoll.testing.placement_clients import ACTORS, Begun, Ended, LinearizablePlaces, Question, TablesRiseOnDisk
from atoll.transport.codec import Message
from atoll.transport.identity import NODE_ID_BYTES, NodeId

LEASE_S = 10.0
ODDS: Mapping[str, float] = {
    "deliver": 40,
    "ask": 12,
    "ask_again": 1,
    "fire": 4,
    "part": 8,
    "rush": 4,
    "grant": 2,
    "reign": 8,
    "renew": 1,
    "end": 1,
    "tell_late": 1,
    "lapse": 3,
    "crash": 1,
    "tear": 1,
    "forget": 0,
    "start_alone": 0,
    "change": 0,
    "take_over": 0,
    "remake": 0,
    "remove": 0,
}
"""How often each step is chosen."""


class Player:
    """One node: its placement, its disk, its timers."""

    def __init__(self, index: int, node: NodeId) -> None:
        self.index = index
        self.node = node
        self.machine: Any = None
        self.disk: list[Record] = []
        self.timers: dict[str, None] = {}
        self.leads: int | None = None
        """The epoch of which it was told that it has the lease, and not yet that it is over."""
        self.tears = False
        """It dies in the midst of its next effects."""


class PlacementAdversary(Adversary):
    """One game; `violations` are what the placement did wrong."""

    step_s_max = 0.2
    letters_max = 64
    hurry = 0.3

    def __init__(
        self,
        seed: object,
        kind: type[Placement] = Placement,
        *,
        voters: int = 3,
        others: int = 0,
        odds: Mapping[str, float] | None = None,
        strikes: Mapping[tuple[str, type[Record]], float] | None = None,
    ) -> None:
        """Prepare a game; `strikes` says how often a node crashes, tears or forgets at a record of that type."""
        chosen = {**ODDS, **(odds or {})}
        super().__init__(f"adversary {seed}", chosen)
        self.kind = kind
        self.strikes = dict(strikes or {})
        self.players = [Player(number, simulated_node(number)) for number in range(voters + others)]
        self.by_node = {player.node: player for player in self.players}
        self.rosters: list[tuple[NodeId, ...]] = [tuple(sorted(player.node for player in self.players[:voters]))]
        self.newest_known = True
        """A majority has taken the newest roster over: nobody leads under the one before any more."""
        self.settled: tuple[int, int, int] | None = None
        self.lease: LeaseRenewed | None = None
        self.epoch = 0
        self.leader: NodeId | None = None
        """Who led last."""
        self.history, self.tables = LinearizablePlaces(), TablesRiseOnDisk()
        self.actors = ACTORS[: 2 if chosen["remove"] else 1]
        self.known: dict[str, list[Placed | None]] = {actor: [None] for actor in self.actors}
        self.first = dict.fromkeys(self.actors, 1)
        self.asked: dict[int, Question] = {}
        self.unknown: list[Question] = []
        """Questions whose answer said that it may be done, or not; clients ask them again."""
        self.number = 0
        for player in self.players:
            self._boot(player)

    # Moves of an opening

    def crown(self, player: Player, version: int | None = None) -> None:
        """Let the lease run out, and give the next to that node, under the newest roster if nothing else is said."""
        self._lapse()
        self._grant_to(player, version or len(self.rosters))

    def flow(self, *players: Player, only: tuple[type[Message], ...] = (Message,)) -> None:
        """Deliver all letters of these types between these nodes, and what they answer, in their order."""
        inside = {player.node for player in players}
        while not self.violations:
            places = (
                place
                for place, each in enumerate(self.letters)
                if each.sender in inside and each.target in inside and isinstance(each.message, only)
            )
            if (place := next(places, None)) is None:
                return
            letter = self.letters.pop(place)
            self._handle(self.by_node[letter.target], Received(letter.sender, letter.message))

    def swap_at(self, player: Player) -> None:
        """Ask that node to move the actor on."""
        self._put_to(player, self._swap(ACTORS[0]))

    def find_at(self, player: Player) -> None:
        """Ask that node where the actor is."""
        self._put_to(player, FindPlace(ACTORS[0]))

    def remove_at(self, player: Player) -> None:
        """Ask that node to remove the actor from where it is known to be."""
        placed = self.known[ACTORS[0]][-1]
        assert placed is not None  # noqa: S101 - the opening has found it before
        self._put_to(player, RemovePlace(ACTORS[0], placed))

    def repeat_at(self, player: Player) -> None:
        """Ask again what may be done or not."""
        self._put_to(player, self.unknown.pop())

    def depose(self, player: Player) -> None:
        """Tell it that its lease is over."""
        self._tell_end(player)

    def crash(self, player: Player) -> None:
        """Start it again at once, with what is on its disk."""
        self._boot(player)

    def lose(self, player: Player, kept: int = 0) -> None:
        """Lose all of its journal behind the first records."""
        self._lose_end(player, kept)

    def fire(self, player: Player, timer: str) -> None:
        """Let a timer run out."""
        self._handle(player, TimerFired(timer))

    def reshape(self, voters: Sequence[Player]) -> None:
        """Let the supernode put this roster in force, if the placement lets us."""
        self._change(tuple(sorted(player.node for player in voters)))
        self._take_over()

    # What one node does

    def _boot(self, player: Player) -> None:
        player.machine = self.kind(player.node, rng=Random(self.rng.random()))
        player.timers.clear()
        player.leads, player.tears = None, False
        self._carry_out(player, player.machine.start(list(player.disk), self.now))
        self._introduce(player, self.rng.choice(self._possible_rosters()))

    def _introduce(self, player: Player, version: int) -> None:
        self._handle(player, Told(RosterInForce(1, version, self.rosters[version - 1], "")))

    def _handle(self, player: Player, event: Input) -> None:
        try:
            effects = player.machine.handle(event, self.now)
            player.machine.check()
        except Exception as error:  # noqa: BLE001 - a machine that raises has lost
            self.violate(f"it raised {type(error).__name__}: {error}")
            return
        records = [type(each.record) for each in effects if isinstance(each, Persist)]
        if records and (player.tears or self._strikes("tear", records)):
            self._carry_out(player, effects[: self.rng.randrange(len(effects))])
            self._boot(player)
            return
        self._carry_out(player, effects)
        if self._strikes("forget", records):
            self._lose_end(player, self.rng.randrange(len(player.disk)))
        elif self._strikes("crash", records):
            self._boot(player)

    def _strikes(self, how: str, records: Sequence[type[Record]]) -> bool:
        return any(self.rng.random() < self.strikes.get((how, each), 0.0) for each in records)

    def _carry_out(self, player: Player, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Persist(record):
                    player.disk.append(record)
                    self.tables.persisted(self, player, record)  # type: ignore[arg-type]
                case Send(target, message):
                    if target in self.by_node:
                        self._post(Letter(player.node, target, message))
                case Reply(number, message):
                    self._answered(number, message)
                case Arm(name, _):
                    player.timers[name] = None
                case Disarm(name):
                    player.timers.pop(name, None)
                case Announce(PlacementSettled() as fact):
                    self.settled = fact.epoch, fact.incarnation, fact.roster_version

    # Letters and timers

    def _take(self, letter: Letter) -> None:
        self._handle(self.by_node[letter.target], Received(letter.sender, letter.message))

    def _part(self) -> None:
        """Hold letters between some back from now on, and let others go that were held."""
        share, alone, deaf = self.rng.choice((0.0, 0.0, 0.4)), self.rng.choice(self.players), self.rng.random() < 0.5
        self.parted = {
            (one.node, other.node)
            for one in self.players
            for other in self.players
            if one is alone or (other is alone and deaf) or self.rng.random() < share
        }

    def _fire(self) -> None:
        player = self.rng.choice(self.players)
        if player.timers:
            name = self.rng.choice(list(player.timers))
            del player.timers[name]
            self._handle(player, TimerFired(name))

    def _rush(self) -> None:
        """Deliver many at once."""
        for _ in range(self.rng.randrange(25)):
            self._deliver()

    # Leases and rosters

    def _reign(self) -> None:
        """Let somebody lead whom few can hear, as far as it gets with them."""
        if self.rng.random() < 0.7:
            self._lapse()
        self._part()
        self._grant()
        self._rush()
        for _ in range(self.rng.randrange(3)):
            self._ask()
        for _ in range(self.rng.randrange(8)):
            self._deliver()

    def _possible_rosters(self) -> list[int]:
        newest = len(self.rosters)
        return [newest] if self.newest_known else [newest - 1, newest]

    def _holder(self) -> Player | None:
        if self.lease is None or self.now >= self.lease.until:
            return None
        return next((player for player in self.players if player.leads == self.epoch), None)

    def _grant(self) -> None:
        if self._holder() is not None:
            return
        version = self.rng.choice(self._possible_rosters())
        voters = self.rosters[version - 1]
        again = self.leader if self.leader in voters and self.rng.random() < 0.4 else None
        self._grant_to(self.by_node[again or self.rng.choice(voters)], version)

    def _grant_to(self, player: Player, version: int) -> None:
        self.leader = player.node
        self._tell_end(player)
        self.epoch += 1
        self._lease_to(player, version)

    def _lease_to(self, player: Player, version: int) -> None:
        self.lease = LeaseRenewed(self.epoch, self.now + LEASE_S, 1, version, self.rosters[version - 1])
        player.leads = self.epoch
        self._handle(player, Told(self.lease))

    def _renew(self) -> None:
        if (holder := self._holder()) is not None and self.lease is not None:
            self._lease_to(holder, self.lease.roster_version)

    def _end(self) -> None:
        if (holder := self._holder()) is not None:
            self._tell_end(holder)

    def _lapse(self) -> None:
        """Let the lease run out, and nobody say so."""
        if self.lease is not None:
            self.now = max(self.now, self.lease.until)

    def _tell_late(self) -> None:
        """Tell somebody at last that its lease is over."""
        holder = self._holder()
        for player in self.players:
            if player.leads is not None and player is not holder:
                self._tell_end(player)
                return

    def _tell_end(self, player: Player) -> None:
        if player.leads is not None:
            epoch, player.leads = player.leads, None
            self._handle(player, Told(LeaseEnded(epoch)))

    def _change(self, voters: tuple[NodeId, ...] = ()) -> None:
        """Let the supernode put the next roster in force, or finish the one that is not known everywhere."""
        holder, lease = self._holder(), self.lease
        if holder is None or lease is None:
            return
        if lease.roster_version == len(self.rosters):
            if not self.newest_known or self.settled != (lease.epoch, 1, lease.roster_version):
                return
            self.rosters.append(voters or self._next_voters(lease.voters))
            self.newest_known = False
        if holder.node in self.rosters[-1]:
            self._lease_to(holder, len(self.rosters))
        else:
            self._tell_end(holder)

    def _next_voters(self, voters: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
        strangers = [player.node for player in self.players if player.node not in voters]
        if strangers and (len(voters) < 3 or self.rng.random() < 0.5):
            return tuple(sorted((*voters, self.rng.choice(strangers))))
        gone = self.rng.choice(voters)
        return tuple(voter for voter in voters if voter != gone) if len(voters) > 1 else voters

    def _take_over(self) -> None:
        """Let a majority know the newest roster."""
        self.newest_known = True
        for player in self.players:
            if self.rng.random() < 0.8:
                self._introduce(player, len(self.rosters))

    def _remake(self) -> None:
        """Change the roster twice, if the placement lets us."""
        for _ in range(2):
            self._change()
            self._take_over()

    # What breaks

    def _crash(self) -> None:
        self._boot(self.rng.choice(self.players))

    def _tear(self) -> None:
        self.rng.choice(self.players).tears = True

    def _start_alone(self) -> None:
        self.start_alone()

    def start_alone(self) -> None:
        """Start the supernode's placement again; its election has gone on meanwhile."""
        holder, lease = self._holder(), self.lease
        if holder is not None and lease is not None:
            self._boot(holder)
            self._lease_to(holder, lease.roster_version)

    def _forget(self) -> None:
        player = self.rng.choice(self.players)
        if player.disk:
            self._lose_end(player, self.rng.randrange(len(player.disk)))

    def _lose_end(self, player: Player, kept: int) -> None:
        del player.disk[kept:]
        player.disk.append(Amnesia("as the adversary wants it"))
        self.tables.forgot(self, player)  # type: ignore[arg-type]
        self._boot(player)

    # Clients

    def _ask(self) -> None:
        actor = self.rng.choice(self.actors)
        question = FindPlace(actor) if self.rng.random() < 0.4 else self._swap(actor)
        self._put_to(self._somebody(), question)

    def _remove(self) -> None:
        actor = self.rng.choice(self.actors)
        placed = [each for each in self.known[actor] if each is not None]
        if placed:
            expected = placed[-1] if self.rng.random() < 0.8 else self.rng.choice(placed)
            self._put_to(self._somebody(), RemovePlace(actor, expected))

    def _put_to(self, player: Player, question: Question) -> None:
        self.number += 1
        self.asked[self.number] = question
        self.history.announced(self, _CLIENT, Begun(self.number, question))  # type: ignore[arg-type]
        self._put(player, self.number)

    def _ask_again(self) -> None:
        """Let a question come twice."""
        if self.unknown and self.rng.random() < 0.5:
            self._put_to(self._somebody(), self.unknown.pop(self.rng.randrange(len(self.unknown))))
        elif self.asked:
            self._put(self._somebody(), self.rng.choice(list(self.asked)))

    def _somebody(self) -> Player:
        leads = [player for player in self.players if player.leads is not None]
        return self.rng.choice(leads if leads and self.rng.random() < 0.9 else self.players)

    def _put(self, player: Player, number: int) -> None:
        self._handle(player, Received(_ASKING, self.asked[number], "", number))

    def _swap(self, actor: str) -> SwapPlace:
        known = self.known[actor]
        expected = known[-1] if self.rng.random() < 0.85 else self.rng.choice(known)
        # Nobody else wants exactly this: so everybody can tell whose swap was done.
        tag = NodeId(self.rng.randbytes(NODE_ID_BYTES))
        generation = self.first[actor] if expected is None else expected.generation + 1
        return SwapPlace(actor, expected, Placed(generation, self.rng.choice(self.players).node, (tag,)))

    def _answered(self, number: int, message: Message) -> None:
        assert isinstance(message, PlaceFound | PlaceSwapped)  # noqa: S101 - nothing else is asked
        placed = message.placed if isinstance(message, PlaceFound) else message.current
        known = self.known[message.actor]
        if message.first:
            # What was there is removed; the old owner may remember it.
            self.first[message.actor] = message.first
            known.sort(key=lambda each: each is None)
        elif placed is not None and placed not in known:
            known.append(placed)
            known.sort(key=lambda each: each.generation if each else 0)
            del known[1:-4]
        question = self.asked.pop(number, None)
        if question is not None:
            self.history.announced(self, _CLIENT, Ended(number, question, message))  # type: ignore[arg-type]
            if isinstance(message, PlaceSwapped) and not message.done and not message.decided:
                self.unknown.append(question)


_CLIENT = SimpleNamespace(index=0)
_ASKING = simulated_node(99)


def games_lost(
    seed: int,
    kind: type[Placement] = Placement,
    *,
    opening: Callable[[PlacementAdversary], None] | None = None,
    games: int = 200,
    steps: int = 100,
    **more: Any,
) -> list[str]:
    """Play until the placement loses a game; gives what it did wrong, or nothing."""

    def make(game: int) -> PlacementAdversary:
        return PlacementAdversary(f"{seed} {game}", kind, **more)

    return game_lost(make, opening, games=games, steps=steps)
