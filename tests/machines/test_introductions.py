"""Whom a member introduces to others, in which turn, and how many at once."""

from atoll.actors.discoverer.belief import Belief
from atoll.actors.discoverer.introductions import MEMBERS_AN_INTRODUCTION, Introductions
from atoll.actors.discoverer.messages import GOSSIP_MAX, Life, Rumour
from atoll.testing.elections import simulated_node

OWN, A, B, C, D, E, F = (simulated_node(number) for number in range(7))
NOW = 10.0


def belief(node, life=Life.ALIVE, incarnation=1, *, linked=False):
    return Belief(node, NOW, NOW, life, incarnation, linked=linked)


def of(*beliefs):
    return Introductions(OWN, {each.node: each for each in beliefs})


def test_everybody_is_introduced_in_turn_to_each_from_where_it_was_left():
    nodes = [simulated_node(number) for number in range(20, 80)]
    speaker = of(*(belief(node, linked=True) for node in nodes))
    rumours = 1 + len(nodes) // MEMBERS_AN_INTRODUCTION
    heard = {to: [] for to in nodes[:2]}
    for to in nodes[:2]:
        for _ in range((len(nodes) - 1) // rumours):
            said = speaker.take(to, GOSSIP_MAX)
            assert len(said) == rumours
            heard[to] += [each.node for each in said]
        assert len(set(heard[to])) == len(heard[to]) >= len(nodes) - rumours
        assert to not in heard[to]


def test_those_alive_with_a_link_are_introduced_and_those_gone_and_only_where_there_is_room():
    unlinked, gone, suspected = belief(A), belief(C, Life.DEAD), belief(D, Life.SUSPECT, linked=True)
    speaker = of(
        belief(B, incarnation=0),
        unlinked,
        gone,
        suspected,
        belief(E, incarnation=0, linked=True),
        belief(F, linked=True),
    )
    said = [speaker.take(B, GOSSIP_MAX) for _ in range(3)]
    dead, here = Rumour(C, Life.DEAD, 1, OWN), Rumour(F, Life.ALIVE, 1, OWN)
    assert said == [[dead], [here], [dead]]
    assert speaker.take(B, 0) == []
    assert of().take(B, GOSSIP_MAX) == []
