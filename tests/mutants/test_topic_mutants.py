"""Each rule of the topics has a mutant that breaks it, and a nemesis that must notice.

The real ones run under the very same seeds.
"""

from random import Random

import pytest
from kills import must_kill

from atoll.actors.topics import exchange, visit
from atoll.actors.topics.exchange import Exchange
from atoll.actors.topics.gates import Gates
from atoll.actors.topics.messages import Lost, VisitMessage
from atoll.actors.topics.ring import Ring
from atoll.actors.topics.visit import Arrived, Visit
from atoll.testing.topic_world import TopicWorld

SEEDS = range(8)
ALL = ("#",)
SITE = {"sites": {"a": 2}}
JOIN = {"sites": {"a": 1, "b": 1}, "joins": [("a0", "b0", "both", ALL)]}
CYCLE = {
    "sites": {"a": 1, "b": 1, "c": 1},
    "joins": [("a0", "b0", "both", ALL), ("b0", "c0", "both", ALL), ("c0", "a0", "both", ALL)],
}
TWO_WAYS = {"sites": {"a": 2, "b": 2}, "joins": [("a0", "b0", "in", ("a/#",)), ("a1", "b1", "in", ("b/#",))]}


class LosesWithoutAGap(Ring):
    def _drop(self):
        if not self._taken:
            self.told = max(self.told, self._items[0][0])
        super()._drop()


class TakesDoubles(Exchange):
    def _is_new(self, publication):
        return True


class TakesOnlyTheNewest(Exchange):
    def _is_new(self, publication):
        self.newest = getattr(self, "newest", {})
        key = (publication.node, publication.boot)
        if publication.sequence <= self.newest.get(key, 0):
            return False
        self.newest[key] = publication.sequence
        return True


class SendsMessagesBack(Exchange):
    def leaving(self, item, *, beyond, joins):
        return super().leaving(item, beyond=beyond, joins=False)


class OverlooksGaps(Exchange):
    def _deliver(self, item):
        return [] if isinstance(item, Lost) and item.count and not item.via else super()._deliver(item)


class SaysNothingOfANewTurn(Exchange):
    def _deliver(self, item):
        return [] if item == Lost() else super()._deliver(item)


class SendsToEverybody(Exchange):
    def inject(self, item):
        effects = super().inject(item)
        for peer, member in self._members.items():
            if member.filters and peer not in self._member_tree.holders(getattr(item, "topic", "a")):
                member.ring.put(item, item.size, item.weight)
                effects.append(exchange.Flush(peer))
        return effects


class TellsFurtherWhatMembersTold(Exchange):
    def _on_messages(self, peer, messages):
        effects = super()._on_messages(peer, messages)
        for item in messages.items:
            for other in sorted(self._members):
                if other != peer:
                    self._members[other].ring.put(item, item.size, item.weight)
                    effects.append(exchange.Flush(other))
        return effects


class ForgetsWhatIsOnItsWay(Gates):
    def outgoing(self, guest):
        found = super().outgoing(guest)
        if isinstance(found, VisitMessage):
            guest.subscriber.ring.acknowledge(found.number)
        return found


class ForgetsAVisitThatIsAway(Gates):
    def away(self, guest, stream, now):
        if guest.here == stream:
            guest.here = 0
            self._forget(guest, now)


class TakesWhatItHasAgain(Visit):
    def begin(self):
        self.heard = 0
        return super().begin()


class PublishesAgainWhatIsTaken(Visit):
    def _on_welcome(self, welcome):
        events = super()._on_welcome(welcome)
        self._out.told = max(0, welcome.taken - 1)
        self.again = True
        return events

    def outgoing(self):
        if getattr(self, "again", False) and self.acknowledged:
            self.again = False
            self.publish(self.last)
        return super().outgoing()

    def publish(self, item):
        self.last = item
        return super().publish(item)


class OverlooksGapsOfAGate(Visit):
    def _on_message(self, number, item):
        return [event for event in super()._on_message(number, item) if not self._is_gap(event, item)]

    def _is_gap(self, event, item):
        return isinstance(event, Arrived) and isinstance(event.item, Lost) and event.item is not item


MUTANTS = {
    TakesDoubles: (CYCLE, ()),
    TakesOnlyTheNewest: (TWO_WAYS, ("cut stream",)),
    SendsMessagesBack: (JOIN, ()),
    OverlooksGaps: (SITE, ("lose",)),
    SaysNothingOfANewTurn: (SITE, ("sleep", "cut link")),
    SendsToEverybody: (SITE, ()),
    TellsFurtherWhatMembersTold: ({"sites": {"a": 3}}, ()),
    ForgetsWhatIsOnItsWay: (JOIN, ("cut stream",)),
    ForgetsAVisitThatIsAway: (JOIN, ("cut stream",)),
    TakesWhatItHasAgain: (JOIN, ("cut stream",)),
    PublishesAgainWhatIsTaken: (JOIN, ("cut stream",)),
    OverlooksGapsOfAGate: (JOIN, ("small", "cut stream")),
    LosesWithoutAGap: (SITE, ("small",)),
}


def violations(kind, world, faults, seed, monkeypatch):
    makes = {}
    for base, name in ((Exchange, "make_exchange"), (Gates, "make_gates"), (Visit, "make_visit")):
        if kind is not None and issubclass(kind, base):
            makes[name] = kind
    monkeypatch.setattr(visit, "HEARD_EVERY", 3)
    monkeypatch.setattr(exchange, "WAITING_MAX", 3 if "small" in faults else 8192)
    monkeypatch.setattr(exchange, "Ring", kind if kind is not None and issubclass(kind, Ring) else Ring)
    found = tuple(each for each in faults if each != "small")
    try:
        return TopicWorld(Random(seed), faults=found, fault_rate=0.15, **world, **makes).run()
    except AssertionError as error:
        return [str(error)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.__name__)
def test_every_rule_of_the_topics_is_needed(mutant, monkeypatch):
    world, faults = MUTANTS[mutant]
    must_kill(mutant, SEEDS, lambda seed: violations(mutant, world, faults, seed, monkeypatch))


def test_the_real_ones_break_no_rule(monkeypatch, right_seeds):
    for world, faults in MUTANTS.values():
        assert [(seed, bad) for seed in right_seeds for bad in violations(None, world, faults, seed, monkeypatch)] == []
