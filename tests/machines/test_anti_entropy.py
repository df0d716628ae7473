"""What a member asks of those it pings, what they correct, and that two who talk end with the same belief."""

import math
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.discoverer.anti_entropy import CORRECTIONS_MAX, QUESTIONS_MAX, AntiEntropy
from atoll.actors.discoverer.belief import Belief
from atoll.actors.discoverer.gossip import GossipQueue
from atoll.actors.discoverer.messages import GOSSIP_MAX, Ack, Life, Ping, Rumour
from atoll.actors.discoverer.suspicion import Suspicion
from atoll.actors.router.messages import PeerDown, PeerUp
from atoll.actors.runtime.machine import Received, Send, Told
from atoll.testing.elections import simulated_node
from atoll.transport.base import Standing

OWN, A, B, C, *OTHERS = (simulated_node(number) for number in range(14))
NOW = 10.0


def belief(node, life=Life.SUSPECT, incarnation=1, *, linked=False, accuser=C, until=math.inf):
    accusers = {accuser: None} if life is Life.SUSPECT else {}
    return Belief(node, NOW, NOW, life, incarnation, linked=linked, watched=linked, accusers=accusers, until=until)


def of(*beliefs, own=OWN):
    return AntiEntropy(own, {each.node: each for each in beliefs})


def test_who_has_no_link_to_a_suspect_asks_whomever_it_pings():
    assert of(belief(A)).questions(B) == [Rumour(A, Life.SUSPECT, 1, C)]


def test_a_question_names_somebody_who_has_accused_so_that_it_makes_no_accuser():
    asker = of(belief(A, accuser=OTHERS[0]))
    assert [each.by for each in asker.questions(B)] == [OTHERS[0]]


def test_who_has_a_link_asks_the_suspect_itself_and_nobody_else():
    asker = of(belief(A, linked=True))
    assert asker.questions(B) == []
    assert [each.node for each in asker.questions(A)] == [A]


def test_what_an_accuser_says_itself_goes_beside_the_question():
    queue = GossipQueue(OWN)
    queue.spread(Rumour(A, Life.SUSPECT, 1, OWN))
    question = Rumour(A, Life.SUSPECT, 1, C)
    assert queue.take(5, B, [question]) == (Rumour(A, Life.SUSPECT, 1, OWN),)
    assert queue.take(5, B, [question, Rumour(A, Life.SUSPECT, 1, OWN)]) == ()


def test_the_living_and_the_dead_are_no_question():
    assert of(belief(A, Life.ALIVE), belief(B, Life.DEAD)).questions(C) == []


def test_questions_are_few_those_first_that_are_urgent():
    asker = of(*(belief(node, until=NOW + 9 - place) for place, node in enumerate(OTHERS)))
    assert [each.node for each in asker.questions(A)] == OTHERS[: -QUESTIONS_MAX - 1 : -1]
    assert asker.questions(OTHERS[0])[0].node == OTHERS[0]
    assert asker.questions(A, [Rumour(node, Life.DEAD, 1, C) for node in OTHERS]) == []


def test_a_refutation_corrects_a_suspicion():
    knower = of(belief(A, Life.ALIVE, 2))
    assert knower.corrections([Rumour(A, Life.SUSPECT, 1, C)]) == [Rumour(A, Life.ALIVE, 2, A)]
    assert knower.corrections([Rumour(A, Life.DEAD, 1, C)]) == [Rumour(A, Life.ALIVE, 2, A)]


def test_a_death_corrects_a_suspicion_and_nothing_corrects_the_same_again():
    knower = of(belief(A, Life.DEAD))
    assert knower.corrections([Rumour(A, Life.SUSPECT, 1, C)]) == [Rumour(A, Life.DEAD, 1, OWN)]
    assert knower.corrections([Rumour(A, Life.DEAD, 1, C)]) == []


def test_what_is_newer_or_of_strangers_or_alive_is_not_corrected():
    knower = of(belief(A, Life.DEAD))
    told = [Rumour(A, Life.SUSPECT, 2, C), Rumour(A, Life.ALIVE, 1, C), Rumour(B, Life.DEAD, 1, C)]
    assert knower.corrections(told) == []


def test_corrections_leave_room_for_gossip():
    knower = of(*(belief(node, Life.ALIVE, 2) for node in OTHERS))
    told = [Rumour(node, Life.SUSPECT, 1, C) for node in OTHERS[:GOSSIP_MAX]]
    assert len(knower.corrections(told)) == CORRECTIONS_MAX < GOSSIP_MAX


def member(own, seed):
    machine = Suspicion(own, incarnation=1000, rng=Random(seed))
    machine.start((), NOW)
    return machine


def talk(asker, answerer):
    """Let one ask about what it doubts, and the other one answer."""
    questions = asker.anti_entropy.questions(answerer.own)
    effects = answerer.handle(Received(asker.own, Ping(1, tuple(questions))), NOW)
    (ack,) = (each.message for each in effects if isinstance(each, Send) and isinstance(each.message, Ack))
    asker.handle(Received(answerer.own, ack), NOW)
    asker.check()
    answerer.check()
    assert len(ack.gossip) <= GOSSIP_MAX


news = st.lists(st.tuples(st.sampled_from(list(Life)), st.integers(1, 3)), max_size=3)


@given(news, news)
def test_two_who_talk_believe_the_same_of_whom_one_of_them_doubts(heard_by_one, heard_by_other):
    one, other = member(OWN, 1), member(A, 2)
    for machine, heard in ((one, heard_by_one), (other, heard_by_other)):
        machine.handle(Told(PeerUp(B, Standing.MEMBER, "", "")), NOW)
        machine.handle(Told(PeerDown(B, "silent for 3 s")), NOW)
        for life, incarnation in heard:
            machine.handle(Received(C, Ping(1, (Rumour(B, life, incarnation, C),))), NOW)
    doubted = one.life(B) is Life.SUSPECT
    talk(one, other)
    believed = [{node: each for node, *each in machine.beliefs()}[B] for machine in (one, other)]
    if doubted:
        assert believed[0][:2] == believed[1][:2]
