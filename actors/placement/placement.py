"""The placement of one node: a voter's copy of the register always, and the supernode's side while the lease is held.

    member     --LeaseRenewed-->                  supernode (a `Leadership`; `leadership.py`)
    supernode  --LeaseEnded, a later epoch-->     member
    forgetful  --LeaseRenewed-->                  resigns: who lost its copy must not read first (`register.py`)

Whoever asks a member hears what its copy says, with a `why`, and whom to ask. The supernode answers for certain, under
its lease; until its first write is done, questions wait. Without a majority everything stays where it is.

It must never change a place, or call one certain, on any other word than a majority's of the roster in force.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeAlias

from atoll.actors.elector.messages import (
    ElectionStatus,
    LeaseEnded,
    LeaseRenewed,
    Resign,
    RosterInForce,
    SupernodeElected,
    SupernodeLost,
)
from atoll.actors.placement.leadership import Leadership
from atoll.actors.placement.messages import (
    Committed,
    FindPlace,
    ListPlaces,
    Outbid,
    PlaceFound,
    PlacementStatus,
    PlacesListed,
    PlaceSwapped,
    Prepare,
    Prepared,
    RemovePlace,
    SwapPlace,
    Write,
    Written,
)
from atoll.actors.placement.register import Register
from atoll.actors.placement.table import Change, PlaceTable
from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Disarm,
    Effect,
    Input,
    Received,
    Record,
    Reply,
    Seconds,
    Send,
    TimerFired,
    insist,
)
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

ASKERS_MAX = 1024
"""Who waits for an answer at once: as many as a mailbox holds."""
RESIGN_S = 1.0
"""How often a supernode that lost its copy asks to be relieved, while nobody is there who could."""
TELL_DAMAGE_S = 1.0
"""How often a voter that lost its copy says so: the supernode may have nothing to write for days."""
DAMAGE_CHARACTERS_MAX = 120
BOTH = 2
"""Up to so many voters a majority is all of them, so that no other can be without what this one lost."""

Question: TypeAlias = FindPlace | ListPlaces
_REQUESTS = frozenset((FindPlace, ListPlaces, SwapPlace, RemovePlace))


class Placement:
    """The placement machine of one node; the module tells its states. The kinds exist for the mutants of the tests."""

    register_kind = Register
    leadership_kind = Leadership

    def __init__(self, own: NodeId, *, rng: Random) -> None:
        self.own = own
        self.register = self.register_kind(rng)
        self.leadership: Leadership | None = None
        """Present exactly while this node is confirmed supernode, and has its copy."""
        self.supernode: NodeId | None = None
        """Who is supernode, confirmed by a majority, as far as this node knows."""
        self.voters: tuple[NodeId, ...] = ()
        """Of the roster that this node has in force; empty before it knows one."""
        self.counts: Counter[str] = Counter()
        self._asking: list[tuple[Any, Question]] = []
        self._resigning = False
        self._to_voters: dict[type, Callable[[NodeId, Any], list[Effect]]] = {
            Prepare: self._on_prepare,
            Write: self._on_write,
            Committed: self._on_committed,
        }
        self._to_supernode: dict[type, Callable[[Leadership, NodeId, Any, Seconds], list[Effect]]] = {
            Prepared: lambda leads, sender, message, now: leads.take_promise(sender, message, now),
            Written: lambda leads, sender, message, now: leads.take_written(sender, message, now),
            Outbid: lambda leads, sender, message, now: leads.take_outbid(sender, message, now),
        }
        self._fact_handlers: dict[type, Callable[[Any, Seconds], list[Effect]]] = {
            LeaseRenewed: self._on_lease,
            LeaseEnded: lambda fact, _now: self._end(fact.epoch),
            SupernodeElected: lambda fact, _now: self._know(fact.node if fact.confirmed else None),
            SupernodeLost: lambda _fact, _now: self._know(None),
            ElectionStatus: lambda fact, _now: self._know(fact.supernode if fact.confirmed else None, fact.voters),
            RosterInForce: lambda fact, _now: self._know(self.supernode, fact.voters),
        }

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        del now
        self.register.restart(restored)
        return [Arm("damaged", TELL_DAMAGE_S)] if self.register.forgetful else []

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        effects: list[Effect] = []
        if type(event) is Received:
            effects = self._receive(event, now)
        elif type(event) is TimerFired:
            effects = self._on_timer(event.name, now)
        elif handler := self._fact_handlers.get(type(event.fact)):
            effects = handler(event.fact, now)
        return [*effects, *self._answer_askers(now)] if self._asking else effects

    def check(self) -> None:
        self.register.check()
        insist(not self._asking or self.leadership is not None, "somebody waits, and nobody here can answer")
        if self.leadership is not None:
            insist(not self.register.forgetful, "leads without its copy")
            self.leadership.check()

    def status(self, now: Seconds) -> PlacementStatus:
        """Describe the placement as this node sees it."""
        newest = self.register.newest
        return PlacementStatus(
            listed=self._list(now),
            serving=self._serves(now),
            epoch=newest.epoch if newest else 0,
            version=newest.version if newest else 0,
            damage=self.register.damage,
        )

    def _serves(self, now: Seconds) -> bool:
        return self.leadership is not None and self.leadership.serves(now)

    # Questions

    def _receive(self, event: Received, now: Seconds) -> list[Effect]:
        message: Any = event.message
        kind = type(message)
        if kind in _REQUESTS:
            if event.reply_to is None:
                self.counts["told_not_asked"] += 1
                return []
            return self._on_question(event.reply_to, message, now)
        if self.voters and event.sender not in self.voters:
            self.counts["strangers"] += 1
            return []
        if to_voter := self._to_voters.get(kind):
            return to_voter(event.sender, message)
        if to_supernode := self._to_supernode.get(kind):
            return to_supernode(self.leadership, event.sender, message, now) if self.leadership is not None else []
        self.counts["not_understood"] += 1
        return []

    def _on_question(self, reply_to: Any, message: Question | Change, now: Seconds) -> list[Effect]:
        leads = self.leadership
        if leads is None:
            return [Reply(reply_to, self._hint(message, self._why()))]
        if len(self._asking) + len(leads.waiting) >= ASKERS_MAX:
            self.counts["turned_away"] += 1
            return [Reply(reply_to, self._hint(message, f"{ASKERS_MAX} questions wait already: ask again later"))]
        if isinstance(message, SwapPlace | RemovePlace):
            return leads.change(reply_to, message, now)
        self._asking.append((reply_to, message))
        return []

    def _answer_askers(self, now: Seconds) -> list[Effect]:
        if not self._asking or not self._serves(now):
            return []
        asking, self._asking = self._asking, []
        return [Reply(reply_to, self._certain(message)) for reply_to, message in asking]

    def _certain(self, message: Question) -> Message:
        leads = self.leadership
        assert leads is not None and leads.committed is not None  # noqa: S101, PT018 - for mypy
        table = leads.committed.table
        if isinstance(message, FindPlace):
            actor = message.actor
            return PlaceFound(
                actor, table.find(actor), self.own, first=table.first_of(actor), founded=table.founded(actor)
            )
        return PlacesListed(table.places(), self.own, "", len(leads.committed.holders))

    def _hint(self, message: Question | Change, why: str) -> Message:
        newest, elsewhere = self.register.newest, self.supernode if self.supernode != self.own else None
        table = PlaceTable(newest.places if newest else ())
        if isinstance(message, SwapPlace | RemovePlace):
            return PlaceSwapped(message.actor, False, table.find(message.actor), why, elsewhere, decided=False)
        if isinstance(message, FindPlace):
            actor = message.actor
            return PlaceFound(actor, table.find(actor), elsewhere, why, founded=table.founded(actor))
        return PlacesListed(table.places(), elsewhere, why)

    def _list(self, now: Seconds) -> PlacesListed:
        listed = self._certain(ListPlaces()) if self._serves(now) else self._hint(ListPlaces(), self._why())
        assert isinstance(listed, PlacesListed)  # noqa: S101 - for mypy
        return listed

    def _why(self) -> str:
        """Say why this node's word is not certain."""
        if self.register.forgetful:
            damage = self.register.damage[:DAMAGE_CHARACTERS_MAX]
            why = f"this node's copy is damaged ({damage}), and no supernode has filled it again"
            if len(self.voters) <= BOTH:
                why += "; if this stays so, remove placement.journal* from its state directory and start it again"
            return why
        if self.leadership is not None:
            if self.leadership.outbid_by:
                return f"voters have promised epoch {self.leadership.outbid_by}, and this supernode is of a lower one"
            return "this supernode is still reading what the voters have"
        if self.supernode is not None:
            return f"{self.supernode.short} is supernode and knows: ask it"
        return "no majority of the voters is in reach: every exclusive actor stays where it is"

    # The voter

    def _on_prepare(self, sender: NodeId, message: Prepare) -> list[Effect]:
        effects, answer = self.register.prepare(message.epoch)
        return [*effects, Send(sender, answer)]

    def _on_write(self, sender: NodeId, message: Write) -> list[Effect]:
        effects, answer = self.register.write(message.accepted, message.nonce)
        return effects if answer is None else [*effects, Send(sender, answer)]

    def _on_committed(self, _sender: NodeId, message: Committed) -> list[Effect]:
        self.register.agree(message.epoch, message.version)
        return []

    # The supernode

    def _know(self, supernode: NodeId | None, voters: tuple[NodeId, ...] | None = None) -> list[Effect]:
        self.supernode = supernode
        if voters is not None:
            self.voters = voters
        return []

    def _on_lease(self, lease: LeaseRenewed, now: Seconds) -> list[Effect]:
        self.supernode, self.voters = self.own, lease.voters
        leads = self.leadership
        if leads is not None and leads.epoch == lease.epoch:
            return leads.renew(lease, now)
        effects = self._end(leads.epoch) if leads is not None else []
        if self.register.forgetful:
            return [*effects, *self._resign()]
        self.leadership = self.leadership_kind(self.own, self.register, lease)
        return [*effects, *self.leadership.begin(now)]

    def _resign(self) -> list[Effect]:
        # Once for each lease that is begun, and then at intervals: renewals come five times a second.
        if self._resigning:
            return []
        self._resigning = True
        return [Announce(Resign("its copy of the placement is damaged")), Arm("resign", RESIGN_S)]

    def _tell_damage(self) -> list[Effect]:
        if not self.register.forgetful:
            return []
        lost = Outbid(0, self.register.promised, self.register.nonce)
        return [*(Send(voter, lost) for voter in self.voters if voter != self.own), Arm("damaged", TELL_DAMAGE_S)]

    def _end(self, epoch: int) -> list[Effect]:
        leads = self.leadership
        if leads is None or leads.epoch != epoch:
            return []
        self.leadership = None
        if self.supernode == self.own:
            self.supernode = None
        why = self._why()
        asking, self._asking = self._asking, []
        return [
            Disarm("again"),
            *leads.end("the lease ended before a majority had answered"),
            *(Reply(reply_to, self._hint(message, why)) for reply_to, message in asking),
        ]

    def _on_timer(self, name: str, now: Seconds) -> list[Effect]:
        if name == "resign":
            self._resigning = False
            return []
        if name == "damaged":
            return self._tell_damage()
        return self.leadership.again(now) if self.leadership is not None else []
