"""Decides what should become of the migratable actors of a site: where each goes, and who keeps its log.

    owned     --its host is gone-->                        placed elsewhere: (g + 1, the fittest)
    owned     --another has been fitter for BETTER_FOR_S-->  its host is advised to move it
    owned     --a store left the roster, or one is missing-->  its host is asked to keep the log elsewhere
    not owned --its host lives-->                          its host is told; not within TAKE_S: placed elsewhere
    any       --its host is neither heard nor gone-->      stays
    any       --another host owns it, from before-->       that one is told to ask the placement

What is decided is only asked for: the placement swaps what it has, and the owner changes its stores, or not. So nothing
is lost by a wrong decision, and none has to be remembered by the next supernode.

A log moves to one new store at a time: those that have all of it must be enough to go on with, until that one has, too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from atoll.actors.duties.placing import BETTER_FOR_S, TAKE_S
from atoll.actors.elector.score import Score, why_best
from atoll.actors.hand_over.messages import StoresWanted, TakePlace
from atoll.actors.hand_over.site_messages import MoveAdvised, OwnerDoubted
from atoll.actors.placement.messages import ActorPlace, Placed
from atoll.actors.runtime.machine import Seconds
from atoll.transport.identity import NodeId

STORES = 3
"""Of one log, where the roster has so many voters: the loss of any one neither loses nor stops anything."""
RESTOCK_S = 10.0
"""For so long an owner tries; then it is asked again."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a host told about itself, as far as it matters here."""

    score: Score
    kinds: frozenset[str] = frozenset()
    owned: Mapping[str, int] = field(default_factory=dict)
    """Actor to the generation in which it owns it."""
    draining: bool = False


class Elsewhere(msgspec.Struct, frozen=True):
    """Ask the placement for this."""

    actor: str
    expected: Placed
    wanted: Placed
    why: str


class Tell(msgspec.Struct, frozen=True):
    """Tell a host this."""

    host: NodeId
    message: TakePlace | MoveAdvised | StoresWanted | OwnerDoubted


Decision: TypeAlias = Elsewhere | Tell


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What a supernode knows of its site at one moment."""

    hosts: Mapping[NodeId, Candidate]
    """Those heard of not long ago, and not gone."""
    gone: frozenset[NodeId]
    """Declared dead, or left, or silent, and for longer than a restart takes."""
    voters: tuple[NodeId, ...]
    kinds: Mapping[str, str]
    """Actor to its kind, where anybody has told it."""


@dataclass(slots=True)
class _Watched:
    """What is remembered of one actor."""

    host: NodeId
    told_since: Seconds | None = None
    """Since when its host lives and is told that it should own it; until it has for TAKE_S."""
    owned_since: Seconds | None = None
    tried: list[NodeId] = field(default_factory=list)
    """Hosts that did not take it."""
    better: tuple[NodeId, Seconds] | None = None
    asked_at: Seconds = float("-inf")


class Relocating:
    """The decisions of one supernode; times are monotonic and come in. Every rule is a method, and has a mutant."""

    def __init__(self, own: NodeId) -> None:
        self._own = own
        self._watched: dict[str, _Watched] = {}

    def decide(self, places: Iterable[ActorPlace], site: Site, now: Seconds) -> list[Decision]:
        """Look at all places again."""
        decisions: list[Decision] = []
        listed = list(places)
        there = {each.actor for each in listed}
        self._watched = {actor: each for actor, each in self._watched.items() if actor in there}
        for place in listed:
            decisions += self._decide_one(place.actor, place.placed, site, now)
        return [*decisions, *self._doubts({each.actor: each.placed for each in listed}, site)]

    def _doubts(self, places: Mapping[str, Placed], site: Site) -> list[Decision]:
        """Tell hosts that own what is elsewhere by now, or nowhere: a soft actor has no stores that would.

        One that was cut off hears of nothing else: its callers have their answers, and its host asks nobody.
        """
        return [
            Tell(node, OwnerDoubted(actor))
            for node, host in site.hosts.items()
            for actor, generation in host.owned.items()
            if self.is_over(generation, places.get(actor))
        ]

    def is_over(self, generation: int, placed: Placed | None) -> bool:
        """Tell whether what a host owns may be over. What it told may be older than the list, and the other way."""
        return placed is None or generation < placed.generation

    def _decide_one(self, actor: str, placed: Placed, site: Site, now: Seconds) -> Sequence[Decision]:
        watched = self._watched.setdefault(actor, _Watched(placed.host))
        if watched.host != placed.host:
            watched.host, watched.better = placed.host, None
            watched.told_since = watched.owned_since = None
        host = site.hosts.get(placed.host)
        if host is not None and host.owned.get(actor, 0) < placed.generation and not self.gone(placed.host, site):
            return self._take(actor, placed, site, now)
        if self.gone(placed.host, site):
            watched.told_since = watched.owned_since = None
            return self._elsewhere(actor, placed, site, "its host is gone")
        if host is None:
            return []
        self._settle(watched, now)
        return [*self._look_for_better(actor, placed, site, now), *self._restock(actor, placed, site, now)]

    def gone(self, host: NodeId, site: Site) -> bool:
        """Tell whether a host will not come back soon enough."""
        return host in site.gone

    def _take(self, actor: str, placed: Placed, site: Site, now: Seconds) -> Sequence[Decision]:
        """Tell a host that lives what is placed on it; after a while somebody else."""
        watched = self._watched[actor]
        watched.owned_since = None
        since = watched.told_since = now if watched.told_since is None else watched.told_since
        if self.overdue(since, now):
            watched.told_since = None
            watched.tried.append(placed.host)
            return self._elsewhere(actor, placed, site, "its host did not take it")
        return [Tell(placed.host, TakePlace(actor, placed))]

    def _settle(self, watched: "_Watched", now: Seconds) -> None:
        # One that cannot run it owns it for a moment, each time that it is told.
        watched.owned_since = now if watched.owned_since is None else watched.owned_since
        if now - watched.owned_since >= TAKE_S:
            watched.told_since = None
            watched.tried.clear()

    def overdue(self, since: Seconds, now: Seconds) -> bool:
        """Tell whether a host that lives has had time enough to begin."""
        return now - since >= TAKE_S

    def fittest(self, actor: str, site: Site, without: Iterable[NodeId] = ()) -> NodeId | None:
        """Choose among those that can run the actor, as duties are placed; None where nobody can."""
        kind, spared = site.kinds.get(actor), set(without)
        able = {
            node: each
            for node, each in site.hosts.items()
            # Of an actor whose kind nobody alive knows it is tried who can run any.
            if (kind in each.kinds if kind else each.kinds) and not each.draining and node not in spared
        }
        # Among equals the supernode itself: one host less that may fail.
        return max(able, key=lambda node: (able[node].score, node == self._own, node), default=None)

    def _elsewhere(self, actor: str, placed: Placed, site: Site, because: str) -> Sequence[Decision]:
        watched = self._watched[actor]
        chosen = self.fittest(actor, site, [placed.host, *watched.tried])
        if chosen is None:
            # Once round: the next time all are tried again.
            watched.tried.clear()
            return []
        scores = {node: each.score for node, each in site.hosts.items()}
        why = f"{because}; {why_best(chosen, scores)}"
        return [Elsewhere(actor, placed, placed.next_at(chosen), why)]

    def _look_for_better(self, actor: str, placed: Placed, site: Site, now: Seconds) -> Sequence[Decision]:
        watched, best = self._watched[actor], self.fittest(actor, site)
        if best is None or site.hosts[best].score <= site.hosts[placed.host].score:
            watched.better = None
        elif watched.better is None or watched.better[0] != best:
            watched.better = (best, now)
        elif now - watched.better[1] >= BETTER_FOR_S:
            watched.better = None
            return [Tell(placed.host, MoveAdvised(actor, placed.generation, best))]
        return []

    def _restock(self, actor: str, placed: Placed, site: Site, now: Seconds) -> Sequence[Decision]:
        watched, wanted = self._watched[actor], self.stores_for(placed, site)
        if set(wanted) == set(placed.stores) or now - watched.asked_at < RESTOCK_S:
            return []
        watched.asked_at = now
        return [Tell(placed.host, StoresWanted(actor, placed.stores, wanted))]

    def stores_for(self, placed: Placed, site: Site) -> tuple[NodeId, ...]:
        """Say who should keep a log next: at most one other than now, and none that is still of use is given up.

        A voter that is struck off, so that their number is odd, goes on until another one has the log.
        """
        if not placed.stores or not site.voters:
            return placed.stores
        kept = [node for node in placed.stores if node in site.voters or node in site.hosts]
        spare = [node for node in site.voters if node not in kept and node in site.hosts]
        best = max(spare, key=lambda node: (site.hosts[node].score, node), default=None)
        if best is not None and len(kept) >= STORES:
            replaced = next((node for node in kept if node not in site.voters), None)
            return tuple(best if node == replaced else node for node in kept)
        if best is not None:
            # Somebody who has the log must stay until another one has it.
            kept = [*(kept or placed.stores[:1]), best]
        return tuple(kept) or placed.stores
