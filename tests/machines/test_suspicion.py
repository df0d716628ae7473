"""The rules of suspicion one by one, and what hostile or confused members may say."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.discoverer import relayed_pings
from atoll.actors.discoverer import suspicion as module
from atoll.actors.discoverer.messages import (
    GOSSIP_MAX,
    INCARNATION_MAX,
    MESSAGES,
    Ack,
    Leaving,
    Life,
    MemberAlive,
    MemberDied,
    MemberLeft,
    MemberSuspected,
    Nack,
    Ping,
    PingRequest,
    Rumour,
    Rumours,
)
from atoll.actors.discoverer.suspicion import Suspicion
from atoll.actors.discoverer.suspicion_settings import SuspicionSettings
from atoll.actors.router.messages import PeerDown, PeerUp
from atoll.actors.runtime.machine import Announce, Arm, Received, Send, TimerFired, Told
from atoll.testing.elections import simulated_node
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.errors import MalformedFrame

OWN, A, B, C, D = (simulated_node(number) for number in range(5))
CODEC = Codec(MESSAGES)
INCARNATION = 1000


class Bench:
    """One machine, a clock, and what it did last."""

    def __init__(self, *peers, settings=None):
        self.now = 100.0
        self.machine = Suspicion(OWN, incarnation=INCARNATION, rng=Random(1), settings=settings)
        self.facts, self.sent, self.timers = [], [], {}
        self._take(self.machine.start((), self.now))
        for peer in peers:
            self.tell(PeerUp(peer, Standing.MEMBER, "", ""))

    def _take(self, effects):
        self.machine.check()
        self.sent = [(each.target, each.message) for each in effects if isinstance(each, Send)]
        self.facts += [each.fact for each in effects if isinstance(each, Announce)]
        for each in effects:
            if isinstance(each, Arm):
                self.timers[each.name] = self.now + each.after
        return self.sent

    def tell(self, fact):
        return self._take(self.machine.handle(Told(fact), self.now))

    def hear(self, sender, message):
        return self._take(self.machine.handle(Received(sender, message), self.now))

    def rumour(self, node, life, incarnation=0, by=B, sender=B):
        return self.hear(sender, Rumours((Rumour(node, life, incarnation, by),)))

    def fire(self, name):
        self.now = max(self.now, self.timers.pop(name))
        return self._take(self.machine.handle(TimerFired(name), self.now))

    def run(self, seconds):
        """Let time pass; nobody answers."""
        end, sent = self.now + seconds, []
        while min(self.timers.values()) <= end:
            sent += self.fire(min(self.timers, key=self.timers.get))
        self.now = end
        return sent

    def of(self, node):
        return next(each for each in self.machine.described(self.now).members if each.node == node)

    def statistics(self):
        return self.machine.described(self.now).counters


def test_a_member_that_answers_stays_alive_and_is_pinged_in_turn():
    bench = Bench(A, B)
    pinged = set()
    for _ in range(12):
        ((node, ping),) = bench.fire("tick")
        pinged.add(node)
        bench.hear(node, Ack(ping.sequence))
    assert pinged == {A, B}
    assert bench.facts == []


def test_without_an_ack_others_are_asked_and_then_it_is_suspected_and_then_dead():
    bench = Bench(A, B)
    ((target, ping),) = bench.fire("tick")
    (other,) = {A, B} - {target}
    assert bench.fire("direct") == [(other, PingRequest(ping.sequence, target, bench.sent[0][1].gossip))]
    bench.hear(other, Nack(ping.sequence))
    sent = bench.fire("tick")
    assert isinstance(bench.facts[-1], MemberSuspected)
    assert bench.facts[-1].why == "no answer to this node, nor to 1 others it asked"
    # It is told at once.
    assert (target, Rumour(target, Life.SUSPECT, 0, OWN)) in [
        (node, rumour) for node, message in sent if isinstance(message, Ping) for rumour in message.gossip
    ]
    bench.run(60.0)
    assert MemberDied(target, f"silent though suspected: {bench.facts[0].why}") in bench.facts
    assert bench.of(target).life is Life.DEAD


def test_a_relayed_ack_is_an_ack():
    bench = Bench(A, B)
    ((target, ping),) = bench.fire("tick")
    (other,) = {A, B} - {target}
    bench.fire("direct")
    bench.hear(other, Ack(ping.sequence))
    bench.fire("tick")
    assert bench.facts == []


@pytest.mark.parametrize("sender", [B, C])
def test_an_ack_from_somebody_else_is_no_ack(sender):
    bench = Bench(A)
    ((_, ping),) = bench.fire("tick")
    bench.hear(sender, Ack(ping.sequence))
    bench.run(1.1)
    assert isinstance(bench.facts[-1], MemberSuspected)
    assert bench.statistics()["stray"] == 1


def test_who_is_asked_to_ping_says_yes_or_no_in_time():
    bench = Bench(A, B)
    ((target, ping),) = bench.hear(A, PingRequest(7, B))
    assert (target, type(ping)) == (B, Ping)
    ((origin, ack),) = bench.hear(B, Ack(ping.sequence))
    assert (origin, type(ack), ack.sequence) == (A, Ack, 7)
    bench.hear(A, PingRequest(8, B))
    assert bench.fire("relayed") == [(A, Nack(8))]
    assert bench.hear(A, PingRequest(9, D)) == [(A, Nack(9))]
    assert type(bench.hear(A, PingRequest(10, OWN))[0][1]) is Ack


def test_pings_for_others_are_limited(monkeypatch):
    monkeypatch.setattr(relayed_pings, "RELAYED_MAX", 3)
    bench = Bench(A, B)
    answers = [bench.hear(A, PingRequest(number, B))[0][0] for number in range(5)]
    assert answers == [B, B, B, A, A]


def test_a_suspected_member_refutes_with_a_higher_incarnation():
    bench = Bench(A, B)
    bench.rumour(A, Life.SUSPECT, 5)
    assert bench.of(A).life is Life.SUSPECT
    bench.rumour(A, Life.ALIVE, 5)
    assert bench.of(A).life is Life.SUSPECT
    bench.rumour(A, Life.ALIVE, 6)
    assert bench.of(A).life is Life.ALIVE
    bench.rumour(A, Life.SUSPECT, 5)
    assert bench.of(A).life is Life.ALIVE
    assert [type(fact) for fact in bench.facts] == [MemberSuspected, MemberAlive]
    assert bench.statistics()["old_rumours"] == 2


def test_this_node_refutes_what_is_said_of_itself():
    bench = Bench(A)
    bench.rumour(OWN, Life.SUSPECT, INCARNATION)
    assert bench.machine.incarnation == INCARNATION + 1
    assert bench.machine.health.score == 1
    ((_, ack),) = bench.hear(A, Ping(3))
    assert ack.gossip[0] == Rumour(OWN, Life.ALIVE, INCARNATION + 1, OWN)
    bench.rumour(OWN, Life.DEAD, INCARNATION_MAX)
    assert bench.machine.incarnation == INCARNATION_MAX


def test_more_accusers_shorten_a_suspicion_and_the_same_one_twice_does_not():
    bench = Bench(A, B, C, D)
    bench.rumour(A, Life.SUSPECT, 0, by=B)
    alone = bench.machine._members[A].until
    bench.rumour(A, Life.SUSPECT, 0, by=B)
    assert bench.machine._members[A].until == alone
    bench.rumour(A, Life.SUSPECT, 0, by=C)
    shorter = bench.machine._members[A].until
    bench.rumour(A, Life.SUSPECT, 0, by=D)
    assert alone > shorter > bench.machine._members[A].until >= bench.now + 5.0


def test_a_link_that_is_up_outweighs_a_rumour_of_death():
    bench = Bench(A, B)
    bench.rumour(A, Life.DEAD)
    assert bench.of(A).life is Life.SUSPECT
    bench.tell(PeerDown(B, "silent for 3 s"))
    bench.rumour(B, Life.DEAD, sender=A, by=A)
    assert bench.of(B).life is Life.DEAD


def test_a_broken_link_puts_its_member_first_and_others_are_asked_at_once():
    bench = Bench(A, B, C)
    bench.fire("tick")
    bench.tell(PeerDown(B, "silent for 3 s"))
    sent = bench.fire("tick")
    assert {message.target for _, message in sent if isinstance(message, PingRequest)} == {B}


def test_a_link_revives_the_dead_and_tells_it_what_was_said():
    bench = Bench(A, B)
    bench.tell(PeerDown(A, "silent for 3 s"))
    bench.rumour(A, Life.DEAD, 5)
    ((_, greeting),) = bench.tell(PeerUp(A, Standing.MEMBER, "", ""))
    assert Rumour(A, Life.DEAD, 5, OWN) in greeting.gossip
    assert bench.facts[-1] == MemberAlive(A, "its link is up again")


def test_goodbyes_are_said_and_believed():
    bench = Bench(A, B)
    bench.rumour(A, Life.LEFT, 0, by=A, sender=A)
    assert bench.facts == [MemberLeft(A)]
    sent = bench.tell(Leaving())
    assert {node for node, _ in sent} == {A, B}
    assert bench.hear(B, Rumours((Rumour(OWN, Life.SUSPECT, INCARNATION, B),))) == []
    assert bench.machine.incarnation == INCARNATION


def test_a_node_that_stood_still_blames_nobody():
    bench = Bench(A, B)
    ((target, _),) = bench.fire("tick")
    bench.rumour(C, Life.ALIVE, 1)
    until = bench.machine._members[target].until
    bench.timers["tick"] += 30.0
    bench.fire("tick")
    assert bench.facts == []
    assert bench.machine.health.score == 1
    assert until == math.inf


def test_the_dead_are_shown_for_a_while_and_then_forgotten():
    bench = Bench(A, settings=SuspicionSettings(dead_kept_s=20.0))
    bench.tell(PeerDown(A, "silent for 3 s"))
    bench.run(15.0)
    assert bench.of(A).life is Life.DEAD
    bench.run(25.0)
    assert bench.machine.described(bench.now).members == ()


def test_rumours_of_unknown_members_are_believed_only_of_the_living_and_within_the_limit(monkeypatch):
    monkeypatch.setattr(module, "MEMBERS_MAX", 2)
    bench = Bench(A)
    for node, life in ((B, Life.DEAD), (B, Life.SUSPECT), (B, Life.ALIVE), (C, Life.ALIVE)):
        bench.rumour(node, life, 1, sender=A)
    assert [each.node for each in bench.machine.described(bench.now).members] == sorted([A, B])
    assert bench.statistics()["refused"] == 1


def test_nobody_is_probed_to_whom_there_never_was_a_link():
    bench = Bench(A)
    bench.rumour(B, Life.ALIVE, 1, sender=A)
    sent = []
    for _ in range(5):
        ((node, ping),) = bench.fire("tick")
        bench.hear(node, Ack(ping.sequence))
        sent.append(node)
    assert set(sent) == {A}


@pytest.mark.parametrize(
    "message",
    [
        Ping(0, tuple(Rumour(A, Life.ALIVE, 1, B) for _ in range(GOSSIP_MAX + 1))),
        Ping(-1),
        Ping(2**32),
        Rumours((Rumour(A, Life.ALIVE, INCARNATION_MAX + 1, B),)),
        Rumours((Rumour(A, 9, 1, B),)),
    ],
)
def test_messages_beyond_the_limits_are_malformed(message):
    with pytest.raises(MalformedFrame):
        CODEC.decode(CODEC.encode(message))


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_truncated_messages_are_malformed(cut):
    data = CODEC.encode(Ping(7, (Rumour(A, Life.SUSPECT, 3, B),)))
    with pytest.raises(MalformedFrame):
        CODEC.decode(data[:-cut])


NODES = st.sampled_from([OWN, A, B, C, D])
RUMOURS = st.builds(Rumour, NODES, st.sampled_from(Life), st.integers(0, 5) | st.just(INCARNATION_MAX), NODES)
GOSSIP = st.lists(RUMOURS, max_size=3).map(tuple)
NUMBERS = st.integers(0, 20)
SAID = (
    st.builds(Ping, NUMBERS, GOSSIP)
    | st.builds(PingRequest, NUMBERS, NODES, GOSSIP)
    | st.builds(Ack, NUMBERS, GOSSIP)
    | st.builds(Nack, NUMBERS)
    | st.builds(Rumours, GOSSIP)
)
FACTS = st.builds(lambda node: PeerUp(node, Standing.MEMBER, "", ""), NODES) | st.builds(PeerDown, NODES, st.just(""))
INPUTS = st.builds(Received, NODES, SAID) | st.builds(Told, FACTS) | st.floats(0.0, 20.0)


@given(st.lists(INPUTS, max_size=60))
def test_whatever_members_say_the_tables_keep_their_limits_and_messages_stay_small(inputs):
    bench = Bench()
    for each in inputs:
        sent = bench.run(each) if isinstance(each, float) else bench._take(bench.machine.handle(each, bench.now))
        assert all(node != OWN or isinstance(message, Ack | Nack | Ping) for node, message in sent)
        for _, message in sent:
            assert len(CODEC.encode(message)) <= 1024
            assert CODEC.decode(CODEC.encode(message)) == message
