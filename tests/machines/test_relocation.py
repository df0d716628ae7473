"""The machine that looks after actors whose host is gone: whom it hears, when it acts, what it asks."""

from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.discoverer.messages import MemberAlive, MemberDied, MemberLeft
from atoll.actors.elector.messages import RosterInForce, ScoreChanged, SupernodeElected, SupernodeLost
from atoll.actors.elector.score import Score
from atoll.actors.hand_over.messages import HOSTING, TakePlace
from atoll.actors.hand_over.relocation import GRACE_S, UNHEARD_S, Relocation
from atoll.actors.hand_over.site_messages import RELOCATION, ActorOwned, HostHere, HostOffers, Relocated
from atoll.actors.placement.messages import ActorPlace, ListPlaces, Placed, PlacesListed, PlaceSwapped, SwapPlace
from atoll.actors.runtime.machine import Announce, Received, Send, TimerFired, Told
from atoll.testing.elections import simulated_node

A, B, C = (simulated_node(number) for number in range(3))
HERE = Placed(4, B, (A, B, C))
LISTED = PlacesListed((ActorPlace("x", HERE),))


def says(owned=(), score=None):
    return HostHere(score or Score(), ("ledger",), tuple(ActorOwned("x", each, "ledger") for each in owned))


def elected(node, *, confirmed=True):
    return Told(SupernodeElected(node, 1, confirmed, ""))


def supernode():
    """Give the machine of A, which presides over B, who owns the actor, and C."""
    machine = Relocation(A)
    machine.start((), 0.0)
    for event in (elected(A), Told(HostOffers(("ledger",), ())), TimerFired("report")):
        machine.handle(event, 0.0)
    machine.handle(Received(B, says([4])), 0.0)
    machine.handle(Received(C, says()), 0.0)
    return machine


def swaps(machine, now, listed=LISTED):
    machine.check()
    effects = machine.handle(Received(A, listed), now)
    return [each.message for each in effects if isinstance(each, Send) and isinstance(each.message, SwapPlace)]


def test_a_supernode_asks_the_placement_what_there_is_and_others_do_not():
    assert Send(A, ListPlaces(), "placement") in supernode().handle(TimerFired("decide"), 1.0)
    assert Relocation(A).handle(TimerFired("decide"), 1.0) == []


def test_a_dead_host_has_its_time_to_start_again():
    machine = supernode()
    machine.handle(Told(MemberDied(B, "silent")), 10.0)
    machine.handle(Received(C, says()), 10.0)
    assert swaps(machine, 10.0 + GRACE_S - 0.1) == []
    (swap,) = swaps(machine, 10.0 + GRACE_S)
    assert (swap.expected, swap.wanted) == (HERE, Placed(5, A, HERE.stores))


def test_a_host_that_starts_again_in_time_goes_on_where_it_was():
    for back in (Told(MemberAlive(B, "it answers")), Received(B, says())):
        machine = supernode()
        machine.handle(Told(MemberLeft(B)), 10.0)
        machine.handle(back, 12.0)
        machine.handle(Received(B, says()), 12.0)
        assert swaps(machine, 14.0) == []
        effects = machine.handle(Received(A, LISTED), 14.0)
        assert effects == [Send(B, TakePlace("x", HERE), HOSTING)]


def test_a_host_of_which_nothing_is_heard_is_replaced_but_a_new_supernode_waits_as_long():
    machine = supernode()
    machine.handle(Received(C, says()), UNHEARD_S)
    assert swaps(machine, UNHEARD_S)
    machine = supernode()
    machine.handle(elected(C), 100.0)
    machine.handle(elected(A), 101.0)
    machine.handle(Received(C, says()), 101.0)
    assert swaps(machine, 101.0 + UNHEARD_S - 1) == []
    machine.handle(Received(C, says()), 101.0 + UNHEARD_S - 1)
    assert swaps(machine, 101.0 + UNHEARD_S)


def test_who_got_the_actor_is_told_so_and_the_reason_is_kept():
    machine = supernode()
    machine.handle(Told(MemberDied(B, "silent")), 5.0)
    machine.handle(Received(C, says()), 5.0)
    (swap,) = swaps(machine, 5.0 + GRACE_S)
    tell, announce = machine.handle(Received(A, PlaceSwapped("x", True, swap.wanted)), 9.0)
    assert tell == Send(A, TakePlace("x", swap.wanted), HOSTING)
    assert isinstance(announce, Announce)
    assert isinstance(announce.fact, Relocated)
    assert "its host is gone" in announce.fact.why
    assert machine.handle(Received(A, PlaceSwapped("x", False, None, decided=False)), 9.0) == []


def test_a_list_that_is_not_certain_decides_nothing():
    machine = supernode()
    machine.handle(Told(MemberDied(B, "silent")), 0.0)
    assert swaps(machine, 5.0, PlacesListed(LISTED.places, why="not the supernode")) == []
    for end in (Told(SupernodeLost(A, 1, "")), elected(A, confirmed=False), elected(C)):
        machine = supernode()
        machine.handle(Told(MemberDied(B, "silent")), 0.0)
        machine.handle(end, 5.0)
        assert swaps(machine, 6.0) == []


def test_a_host_tells_the_supernode_what_it_owns_and_how_fit_it_is():
    machine = Relocation(B)
    machine.start((), 0.0)
    machine.handle(elected(A), 0.0)
    machine.handle(Told(HostOffers(("ledger",), (ActorOwned("x", 4, "ledger"),))), 0.0)
    machine.handle(Told(ScoreChanged(Score(mains=True))), 0.0)
    report, _again = machine.handle(TimerFired("report"), 0.1)
    assert report == Send(A, says([4], Score(mains=True)), RELOCATION)


def test_a_node_that_can_neither_run_an_actor_nor_keep_a_log_says_nothing():
    machine = Relocation(B)
    machine.handle(elected(A), 0.0)
    assert not [each for each in machine.handle(TimerFired("report"), 0.1) if isinstance(each, Send)]
    machine.handle(Told(RosterInForce(1, 1, (A, B), "")), 0.2)
    assert [each for each in machine.handle(TimerFired("report"), 0.3) if isinstance(each, Send)]


NODES = st.sampled_from([A, B, C])
PLACED = st.builds(Placed, st.integers(1, 5), NODES, st.lists(NODES, max_size=3, unique=True).map(tuple))
EVENTS = st.one_of(
    st.builds(Received, NODES, st.builds(says, st.lists(st.integers(0, 5), max_size=2))),
    st.builds(Received, NODES, st.builds(lambda placed: PlacesListed((ActorPlace("x", placed),)), PLACED)),
    st.builds(Received, NODES, st.builds(PlaceSwapped, st.just("x"), st.booleans(), st.none() | PLACED)),
    st.builds(elected, NODES, confirmed=st.booleans()),
    st.builds(lambda node: Told(MemberDied(node, "")), NODES),
    st.builds(lambda node: Told(MemberAlive(node, "")), NODES),
    st.sampled_from(
        [TimerFired("report"), TimerFired("decide"), Told(SupernodeLost(A, 1, "")), Received(B, TakePlace("x", HERE))]
    ),
)


@given(st.lists(st.tuples(st.floats(0, 9), EVENTS), max_size=40))
@settings(max_examples=examples(150))
def test_no_order_of_events_crashes_it_and_no_swap_is_asked_by_another_than_the_supernode(events):
    machine, now, presides = Relocation(A), 0.0, False
    for after, event in events:
        now += after
        if isinstance(event, Told) and isinstance(event.fact, SupernodeElected):
            presides = event.fact.node == A and event.fact.confirmed
        elif isinstance(event, Told) and isinstance(event.fact, SupernodeLost):
            presides = False
        effects = machine.handle(event, now)
        machine.check()
        asked = [
            each for each in effects if isinstance(each, Send) and isinstance(each.message, SwapPlace | ListPlaces)
        ]
        assert presides or not asked
