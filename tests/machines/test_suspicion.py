"""The rules of suspicion one by one, and what hostile or confused members may say."""

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
from atoll.actors.elector.messages import SupernodeElected, SupernodeLost
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

    def rest(self, seconds):
        """Let time pass; everybody answers, and nobody has an answer from others: tell about whom they were asked."""
        end, asked = self.now + seconds, []
        while self.now < end:
            for node, message in self.fire("tick"):
                if isinstance(message, Ping):
                    self.hear(node, Ack(message.sequence))
                elif isinstance(message, PingRequest):
                    asked.append(message.target)
                    self.hear(node, Nack(message.sequence))
        return asked

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
    bench.fire("tick")
    bench.rumour(C, Life.ALIVE, 1)
    bench.facts.clear()
    heard_at = bench.machine._members[C].heard_at
    bench.timers["tick"] += 30.0
    bench.fire("tick")
    assert bench.facts == []
    assert bench.machine.health.score == 1
    # Nor was anybody silent for so long.
    assert bench.machine._members[C].heard_at == heard_at + 30.0


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


def test_whose_link_broke_is_watched_until_others_have_an_ack_from_it():
    bench = Bench(A, B)
    bench.tell(PeerDown(B, "nobody here talks to it any more"))
    requests = [message for _, message in bench.fire("tick") if isinstance(message, PingRequest)]
    assert [each.target for each in requests] == [B]
    bench.hear(A, Ack(requests[0].sequence))
    probed = []
    for _ in range(6):
        ((node, ping),) = bench.fire("tick")
        bench.hear(node, Ack(ping.sequence))
        probed.append((node, type(ping)))
    assert set(probed) == {(A, Ping)}
    assert bench.facts == []


def test_those_are_asked_first_who_have_told_of_a_link_to_the_silent_one():
    witness, *others = (simulated_node(number) for number in range(10, 20))
    bench = Bench(B, witness, *others)
    bench.rumour(B, Life.ALIVE, 1, by=witness, sender=witness)
    bench.tell(PeerDown(B, "silent for 3 s"))
    sent = bench.fire("tick")
    asked = [node for node, message in sent if isinstance(message, PingRequest)]
    assert (asked[0], len(asked)) == (witness, 3)


def test_of_whom_nobody_speaks_somebody_asks_and_without_an_answer_it_is_dead():
    settings = SuspicionSettings(unheard_s=60.0)
    bench = Bench(A, settings=settings)
    bench.rumour(C, Life.ALIVE, 1, by=A, sender=A)
    assert bench.rest(58.0) == []
    assert set(bench.rest(10.0)) == {C}
    bench.rest(40.0)
    assert [type(fact) for fact in bench.facts] == [MemberAlive, MemberSuspected, MemberDied]


def test_a_supernode_asks_soon_about_those_without_a_link_to_it():
    bench = Bench(A)
    bench.rumour(C, Life.ALIVE, 1, by=A, sender=A)
    bench.tell(SupernodeElected(OWN, 3, confirmed=True, reason=""))
    silence = SuspicionSettings().unlinked_s
    assert bench.rest(silence - 2) == []
    assert set(bench.rest(4.0)) == {C}


@pytest.mark.parametrize("fact", [SupernodeElected(A, 4, confirmed=True, reason=""), SupernodeLost(OWN, 4, "")])
def test_who_is_supernode_no_more_waits_as_long_as_others(fact):
    bench = Bench(A)
    bench.rumour(C, Life.ALIVE, 1, by=A, sender=A)
    bench.tell(SupernodeElected(OWN, 3, confirmed=True, reason=""))
    bench.tell(fact)
    assert bench.rest(60.0) == []


@pytest.mark.parametrize("life", [Life.SUSPECT, Life.DEAD, Life.LEFT])
@pytest.mark.parametrize("linked", [True, False])
def test_what_nobody_could_refute_is_not_believed_of_others(life, linked):
    bench = Bench(A, B, *([C] if linked else []))
    bench.rumour(C, Life.ALIVE, 1)
    bench.facts.clear()
    bench.rumour(C, life, INCARNATION_MAX)
    assert bench.facts == []
    assert bench.statistics()["irrefutable"] == 1


def test_a_member_that_can_say_nothing_newer_is_alive_as_soon_as_it_answers():
    bench = Bench(A)
    bench.rumour(A, Life.ALIVE, INCARNATION_MAX, by=A, sender=A)
    bench.fire("tick")
    bench.fire("direct")
    bench.fire("tick")
    assert bench.of(A).life is Life.SUSPECT
    bench.hear(A, Ack(0))
    assert bench.of(A).life is Life.ALIVE


def test_nobody_is_declared_dead_who_answers_though_it_refutes_nothing():
    bench = Bench(A, B)
    bench.rumour(A, Life.SUSPECT)
    end = bench.now + 300.0
    while bench.now < end:
        for node, message in bench.fire(min(bench.timers, key=bench.timers.get)):
            if isinstance(message, Ping):
                bench.hear(node, Ack(message.sequence))
    assert not any(isinstance(fact, MemberDied) for fact in bench.facts)


def test_a_link_that_is_up_outweighs_what_others_say_of_a_goodbye():
    bench = Bench(A, B)
    bench.rumour(A, Life.LEFT, by=A, sender=B)
    assert bench.of(A).life is Life.SUSPECT
    bench.rumour(A, Life.LEFT, by=A, sender=A)
    assert bench.facts[-1] == MemberLeft(A)


def test_who_has_a_link_is_watched_even_if_the_table_is_full_of_those_others_told_of(monkeypatch):
    monkeypatch.setattr(module, "MEMBERS_MAX", 3)
    bench = Bench(A)
    bench.rumour(B, Life.ALIVE, 1, sender=A)
    bench.now += 1.0
    bench.rumour(C, Life.ALIVE, 1, sender=A)
    bench.tell(PeerUp(D, Standing.MEMBER, "", ""))
    assert [each.node for each in bench.machine.described(bench.now).members] == sorted([A, C, D])


def test_who_asks_or_answers_with_an_old_suspicion_hears_what_is_known_better():
    bench = Bench(A, B)
    bench.rumour(C, Life.ALIVE, 7)
    old = (Rumour(C, Life.SUSPECT, 6, A),)
    for message in (PingRequest(1, B, old), Ack(0, old)):
        told = [m for node, m in bench.hear(A, message) if node == A and isinstance(m, Rumours)]
        assert [(each.node, each.life, each.incarnation) for each in told[0].gossip] == [(C, Life.ALIVE, 7)]
    # Nor is that answered in turn.
    assert bench.hear(A, Rumours(old)) == []


def test_a_member_that_is_believed_dead_and_speaks_is_told_so():
    bench = Bench(A, B)
    bench.tell(PeerDown(A, "silent for 3 s"))
    bench.rumour(A, Life.DEAD, 5)
    bench.machine.gossip.forget(A)
    ((_, ack),) = bench.hear(A, Ping(9))
    assert (A, Life.DEAD, 5) in [(each.node, each.life, each.incarnation) for each in ack.gossip]


def test_one_that_was_forgotten_after_its_death_is_announced_alive_when_others_tell_of_it():
    bench = Bench(A, B, settings=SuspicionSettings(dead_kept_s=1.0))
    bench.tell(PeerDown(B, "silent for 3 s"))
    bench.rumour(B, Life.DEAD, 5, sender=A)
    bench.run(3.0)
    assert bench.machine.life(B) is None
    bench.rumour(B, Life.ALIVE, 6, by=A, sender=A)
    assert bench.facts[-1] == MemberAlive(B, f"{A.short} has a link to it")


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
