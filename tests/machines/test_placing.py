"""Where a site's duties are placed, by what members say of themselves."""

import dataclasses

from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from atoll.actors.duties.messages import PROXY, REGISTRAR, DutyPlace
from atoll.actors.duties.placing import BETTER_FOR_S, TAKE_S, Candidate, Placing
from atoll.actors.elector.score import Score
from atoll.transport.identity import NodeId

TV, DESK, PHONE = (NodeId(bytes([number]) * 32) for number in (1, 2, 3))
DUTIES = frozenset({PROXY, REGISTRAR})
MAINS = Score(mains=True, wired=True, cloud=True)
RADIO = Score(mains=True, cloud=True)
BATTERY = Score(cloud=True)


def member(score=MAINS, held=(), *, able=DUTIES, draining=False):
    return Candidate(score, able, draining, {place.duty: (place.epoch, place.turn) for place in held})


def settled(holder=TV, known=(), epoch=1, others=None):
    """Give a placing whose duties are all done by `holder`, and who is there."""
    placing = Placing(TV, epoch, known, 0.0)
    there = {TV: member(), DESK: member(RADIO), **(others or {})}
    placing.decide(there, 0.0)
    there[holder] = dataclasses.replace(there[holder], held=held_by(placing, holder))
    placing.decide(there, 0.1)
    assert {place.holder for place in placing.places()} == {holder}
    return placing, there


def held_by(placing, node):
    return {place.duty: (place.epoch, place.turn) for place in placing.places() if place.holder == node}


def holders(placing):
    return {place.duty: place.holder for place in placing.places()}


def sources(placing):
    return {place.source for place in placing.places()}


def test_the_fittest_member_gets_each_duty_and_the_reason_says_why():
    placing = Placing(PHONE, 1, (), 0.0)
    assert placing.decide({PHONE: member(BATTERY), TV: member(MAINS), DESK: member(RADIO)}, 0.0)
    assert holders(placing) == dict.fromkeys(DUTIES, TV)
    assert all("wired" in place.why for place in placing.places())


def test_among_equals_the_supernode_itself_does_it():
    for own in (TV, DESK, PHONE):
        placing = Placing(own, 1, (), 0.0)
        placing.decide(dict.fromkeys((TV, DESK, PHONE), member()), 0.0)
        assert set(holders(placing).values()) == {own}


def test_who_reaches_the_cloud_goes_before_who_is_stronger():
    placing = Placing(TV, 1, (), 0.0)
    placing.decide({TV: member(Score(mains=True, wired=True)), PHONE: member(BATTERY)}, 0.0)
    assert set(holders(placing).values()) == {PHONE}


def test_nobody_gets_what_it_is_not_able_to():
    placing = Placing(TV, 1, (), 0.0)
    placing.decide({TV: member(able=frozenset()), DESK: member(RADIO, able=frozenset({PROXY}))}, 0.0)
    assert holders(placing) == {PROXY: DESK}
    assert not placing.decide({TV: member(able=frozenset())}, 0.0) or holders(placing) == {}


def test_a_holder_that_is_gone_is_replaced_at_once_and_not_asked_for_its_state():
    placing, there = settled()
    del there[TV]
    assert placing.decide(there, 1.0)
    assert (set(holders(placing).values()), sources(placing)) == ({DESK}, {None})
    assert all("gone" in place.why for place in placing.places())


def test_a_holder_that_drains_stays_the_source_until_the_next_one_holds_it():
    placing, there = settled()
    there[TV] = dataclasses.replace(there[TV], draining=True)
    assert placing.decide(there, 1.0)
    assert (set(holders(placing).values()), sources(placing)) == ({DESK}, {TV})
    assert not placing.decide(there, 2.0)
    there[DESK] = dataclasses.replace(there[DESK], held=held_by(placing, DESK))
    assert placing.decide(there, 2.1)
    assert (set(holders(placing).values()), sources(placing)) == ({DESK}, {None})


def test_a_holder_that_drains_keeps_what_nobody_else_can_do():
    placing, there = settled()
    there = {TV: dataclasses.replace(there[TV], draining=True), DESK: member(RADIO, able=frozenset())}
    assert not placing.decide(there, 1.0)
    assert set(holders(placing).values()) == {TV}


def test_a_duty_that_is_not_taken_in_time_goes_to_another_and_its_source_stays():
    placing, there = settled(others={PHONE: member(BATTERY)})
    there[TV] = dataclasses.replace(there[TV], draining=True)
    placing.decide(there, 1.0)
    assert not placing.decide(there, 1.0 + TAKE_S * 0.99)
    assert placing.due_in(1.0) <= TAKE_S
    assert placing.decide(there, 1.0 + TAKE_S)
    assert (set(holders(placing).values()), sources(placing)) == ({PHONE}, {TV})
    turns = {place.turn for place in placing.places()}
    placing.decide(there, 1.0 + 2 * TAKE_S)
    assert set(holders(placing).values()) == {DESK}
    assert all(place.turn > max(turns) for place in placing.places())


def test_an_old_hold_does_not_count_for_a_new_decision():
    placing, there = settled()
    old = there[TV].held
    again = Placing(TV, 2, placing.places(), 5.0)
    again.decide({TV: dataclasses.replace(there[TV], held=old), DESK: there[DESK]}, 5.0)
    assert not again.decide({TV: dataclasses.replace(there[TV], held=old), DESK: there[DESK]}, 5.0 + TAKE_S / 2)
    again.decide({TV: dataclasses.replace(there[TV], held=old), DESK: there[DESK]}, 5.0 + TAKE_S)
    assert set(holders(again).values()) == {DESK}


def test_a_clearly_fitter_member_gets_it_after_a_while_and_a_moment_of_strength_moves_nothing():
    placing, there = settled(holder=TV)
    there[PHONE] = member(Score(mains=True, wired=True, cloud=True, memory_class=9))
    assert not placing.decide(there, 1.0)
    assert placing.due_in(1.0) <= BETTER_FOR_S
    there[PHONE] = member(BATTERY)
    assert not placing.decide(there, 1.0 + BETTER_FOR_S / 2)
    there[PHONE] = member(Score(mains=True, wired=True, cloud=True, memory_class=9))
    assert not placing.decide(there, 1.0 + BETTER_FOR_S)
    assert placing.decide(there, 1.0 + 2 * BETTER_FOR_S)
    assert (set(holders(placing).values()), sources(placing)) == ({PHONE}, {TV})


def test_the_next_supernode_moves_nothing():
    placing, there = settled(holder=TV)
    next_one = Placing(DESK, 2, placing.places(), 9.0)
    there[TV] = dataclasses.replace(there[TV], held=held_by(next_one, TV))
    assert not next_one.decide(there, 9.0)
    assert holders(next_one) == holders(placing)
    assert {place.epoch for place in next_one.places()} == {2}


def test_a_move_that_was_under_way_goes_on_under_the_next_supernode():
    known = [DutyPlace(PROXY, DESK, 1, 4, TV, "because")]
    placing = Placing(PHONE, 2, known, 0.0)
    there = {TV: member(able=frozenset({PROXY})), DESK: member(RADIO, able=frozenset({PROXY}))}
    assert not placing.decide(there, 0.0)
    ((place,)) = placing.places()
    assert (place.holder, place.source, place.turn) == (DESK, TV, 5)


@settings(max_examples=examples(60))
@given(st.data())
def test_a_duty_is_always_somewhere_while_somebody_is_able(data):
    nodes = [NodeId(bytes([number]) * 32) for number in range(1, 5)]
    placing = Placing(nodes[0], 1, (), 0.0)
    now = 0.0
    for _ in range(12):
        now += data.draw(st.sampled_from([0.1, 1.0, TAKE_S, BETTER_FOR_S]))
        there = {}
        for node in data.draw(st.lists(st.sampled_from(nodes), unique=True)):
            holds = data.draw(st.booleans())
            score = Score(mains=data.draw(st.booleans()), cloud=data.draw(st.booleans()))
            held = held_by(placing, node) if holds else {}
            there[node] = Candidate(score, DUTIES, data.draw(st.booleans()), held)
        placing.decide(there, now)
        placing.check()
        for place in placing.places():
            assert place.source is None or place.source in there or place.source != place.holder
        wanted = {node for node, each in there.items() if not each.draining}
        if wanted:
            assert set(holders(placing)) == DUTIES
            assert set(holders(placing).values()) <= set(there)


class Convergence(RuleBasedStateMachine):
    """Whatever happened: when members do what they are told, every duty is settled after two decisions."""

    def __init__(self):
        super().__init__()
        self.nodes = [NodeId(bytes([number]) * 32) for number in range(1, 5)]
        self.placing = Placing(self.nodes[0], 1, (), 0.0)
        self.there = {self.nodes[0]: member()}
        self.now = 0.0

    @rule(number=st.integers(1, 3), score=st.sampled_from([MAINS, RADIO, BATTERY]), draining=st.booleans())
    def come(self, number, score, draining):
        self.there[self.nodes[number]] = member(score, draining=draining)

    @rule(number=st.integers(1, 3))
    def go(self, number):
        self.there.pop(self.nodes[number], None)

    @rule(seconds=st.sampled_from([0.1, 1.0, TAKE_S, BETTER_FOR_S]))
    def wait(self, seconds):
        self.now += seconds
        self.placing.decide(self.there, self.now)

    @invariant()
    def settles(self):
        now, there = self.now, dict(self.there)
        placing = Placing(self.nodes[0], 2, self.placing.places(), now)
        for _ in range(3):
            placing.decide(there, now)
            there = {node: dataclasses.replace(each, held=held_by(placing, node)) for node, each in there.items()}
        placing.decide(there, now)
        assert set(holders(placing)) == DUTIES
        for place in placing.places():
            assert place.source is None
            assert not there[place.holder].draining or all(each.draining for each in there.values())


TestConvergence = Convergence.TestCase
TestConvergence.settings = settings(max_examples=examples(30), stateful_step_count=12)
