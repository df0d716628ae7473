"""Where a supernode wants the migratable actors of its site, and who keeps their logs."""

from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.duties.placing import BETTER_FOR_S, TAKE_S
from atoll.actors.elector.score import Score
from atoll.actors.hand_over.messages import StoresWanted, TakePlace
from atoll.actors.hand_over.relocating import RESTOCK_S, Candidate, Elsewhere, Relocating, Site, Tell
from atoll.actors.hand_over.site_messages import MoveAdvised, OwnerDoubted
from atoll.actors.placement.messages import ActorPlace, Placed
from atoll.testing.elections import simulated_node

A, B, C, D, E = (simulated_node(number) for number in range(5))
MAINS, BATTERY = Score(mains=True), Score()
HERE = Placed(4, A, (A, B, C))
PLACES = [ActorPlace("x", HERE)]


def host(score=MAINS, generation=None, kinds=("ledger",), *, draining=False):
    return Candidate(score, frozenset(kinds), {} if generation is None else {"x": generation}, draining)


def site(hosts, gone=(), voters=(A, B, C), kinds=None):
    return Site(hosts=hosts, gone=frozenset(gone), voters=voters, kinds={"x": "ledger"} if kinds is None else kinds)


def elsewhere(decisions):
    return [(each.wanted.host, each.wanted.generation) for each in decisions if isinstance(each, Elsewhere)]


def told(decisions, kind):
    return [(each.host, each.message) for each in decisions if isinstance(each, Tell) and type(each.message) is kind]


def test_an_actor_whose_host_is_gone_goes_to_the_fittest_that_can_run_it():
    hosts = {B: host(BATTERY), C: host(MAINS), D: host(MAINS, kinds=("other",)), E: host(MAINS, draining=True)}
    (decision,) = Relocating(B).decide(PLACES, site(hosts, gone=[A]), 0.0)
    assert decision.expected == HERE
    assert decision.wanted == Placed(5, C, HERE.stores)
    assert "its host is gone" in decision.why


def test_among_equals_the_supernode_itself_takes_it():
    for own in (B, C):
        assert elsewhere(Relocating(own).decide(PLACES, site({B: host(), C: host()}, gone=[A]), 0.0)) == [(own, 5)]


def test_an_actor_whose_kind_nobody_knows_goes_to_whoever_can_run_any():
    decisions = Relocating(B).decide(PLACES, site({B: host(kinds=()), C: host(BATTERY)}, gone=[A], kinds={}), 0.0)
    assert elsewhere(decisions) == [(C, 5)]


def test_nothing_is_done_about_a_host_that_is_only_not_heard():
    assert Relocating(B).decide(PLACES, site({B: host()}), 0.0) == []


def test_a_host_that_lives_and_does_not_own_what_is_placed_there_is_told_and_then_replaced():
    relocating, there = Relocating(B), site({A: host(), B: host(), C: host(BATTERY)})
    assert told(relocating.decide(PLACES, there, 0.0), TakePlace) == [(A, TakePlace("x", HERE))]
    assert told(relocating.decide(PLACES, there, TAKE_S - 0.1), TakePlace)
    assert elsewhere(relocating.decide(PLACES, there, TAKE_S)) == [(B, 5)]
    # And if that one does not take it either, neither of them is tried again at once.
    next_place = [ActorPlace("x", Placed(5, B, HERE.stores))]
    assert told(relocating.decide(next_place, there, TAKE_S), TakePlace)
    assert elsewhere(relocating.decide(next_place, there, 2 * TAKE_S)) == [(C, 6)]


def test_when_nobody_takes_it_all_are_tried_again():
    relocating, there = Relocating(A), site({A: host()})
    asked = [bool(told(relocating.decide(PLACES, there, float(now)), TakePlace)) for now in range(12)]
    assert asked[0]
    assert any(asked[6:])
    assert not elsewhere(relocating.decide(PLACES, there, 12.0))


def test_a_host_that_owns_it_keeps_it_while_no_other_is_fitter_for_long():
    relocating = Relocating(B)
    there, level = site({A: host(BATTERY, 4), B: host(MAINS)}), site({A: host(MAINS, 4), B: host(MAINS)})
    assert relocating.decide(PLACES, there, 0.0) == []
    assert relocating.decide(PLACES, there, BETTER_FOR_S - 1) == []
    assert relocating.decide(PLACES, level, BETTER_FOR_S - 0.5) == []
    assert relocating.decide(PLACES, there, BETTER_FOR_S) == []
    advised = relocating.decide(PLACES, there, 2 * BETTER_FOR_S)
    assert told(advised, MoveAdvised) == [(A, MoveAdvised("x", 4, B))]
    assert relocating.decide(PLACES, there, 2 * BETTER_FOR_S + 1) == []


def test_a_host_that_owns_what_is_elsewhere_by_now_or_nowhere_is_told_to_ask():
    relocating, there = Relocating(B), site({A: host(generation=4), C: host(generation=3)})
    assert told(relocating.decide(PLACES, there, 0.0), OwnerDoubted) == [(C, OwnerDoubted("x"))]
    assert told(relocating.decide([], there, 0.0), OwnerDoubted) == [(A, OwnerDoubted("x")), (C, OwnerDoubted("x"))]
    # A list that is older than the host's word says nothing.
    ahead = site({A: host(generation=4), C: host(generation=5)})
    assert told(relocating.decide(PLACES, ahead, 0.0), OwnerDoubted) == []


def test_a_store_that_left_the_roster_is_replaced_by_one_voter_at_a_time():
    relocating, hosts = Relocating(B), {A: host(MAINS, 4), D: host(BATTERY), E: host(MAINS)}
    (asked,) = told(relocating.decide(PLACES, site(hosts, voters=(A, B, D, E)), 0.0), StoresWanted)
    assert asked == (A, StoresWanted("x", (A, B, C), (A, B, E)))
    assert relocating.decide(PLACES, site(hosts, voters=(A, B, D, E)), RESTOCK_S / 2) == []
    (asked,) = told(relocating.decide(PLACES, site(hosts, voters=(A, D, E)), RESTOCK_S), StoresWanted)
    assert asked[1].wanted == (A, E)
    (asked,) = told(relocating.decide(PLACES, site(hosts, voters=(D, E)), 2 * RESTOCK_S), StoresWanted)
    assert asked[1].wanted == (A, E)


def test_two_stores_become_one_when_the_roster_says_so():
    two = [ActorPlace("x", Placed(4, A, (A, B)))]
    (asked,) = told(Relocating(A).decide(two, site({A: host(MAINS, 4)}, voters=(A,)), 0.0), StoresWanted)
    assert asked[1].wanted == (A,)


def test_a_store_that_votes_no_more_but_lives_stays_until_another_voter_has_the_log():
    relocating, hosts = Relocating(A), {A: host(MAINS, 4), B: host(), C: host()}
    assert relocating.decide(PLACES, site(hosts, voters=(A,)), 0.0) == []
    (asked,) = told(relocating.decide(PLACES, site({**hosts, D: host()}, voters=(A, D)), 1.0), StoresWanted)
    assert asked[1].wanted == (A, D, C)


def test_a_store_that_is_only_dead_stays():
    assert Relocating(A).decide(PLACES, site({A: host(MAINS, 4), D: host()}, gone=[B], voters=(A, B, C, D)), 0.0) == []


def hosts():
    each = st.builds(
        host,
        st.sampled_from([MAINS, BATTERY]),
        st.none() | st.integers(1, 5),
        st.sampled_from([("ledger",), ("other",), ()]),
        draining=st.booleans(),
    )
    return st.dictionaries(st.sampled_from([A, B, C, D, E]), each)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 20),
            hosts(),
            st.sets(st.sampled_from([A, B, C, D, E])),
            st.sets(st.sampled_from([A, B, C, D, E])),
            st.integers(1, 5),
            st.sampled_from([A, B, C, D, E]),
        ),
        max_size=12,
    )
)
@settings(max_examples=examples(100))
def test_whatever_is_known_a_decision_names_a_host_that_is_fit_and_stores_that_can_be(steps):
    relocating, now = Relocating(A), 0.0
    for after, there, gone, voters, generation, where in steps:
        now += after
        placed = Placed(generation, where, (A, B, C))
        for each in relocating.decide([ActorPlace("x", placed)], site(there, gone, tuple(sorted(voters))), now):
            if isinstance(each, Elsewhere):
                chosen = there[each.wanted.host]
                assert "ledger" in chosen.kinds
                assert not chosen.draining
                assert each.wanted == Placed(placed.generation + 1, each.wanted.host, placed.stores)
                assert each.wanted.host != placed.host
            elif isinstance(each.message, StoresWanted):
                wanted = each.message.wanted
                assert 1 <= len(set(wanted)) == len(wanted) <= 3
                assert set(wanted) & set(placed.stores)
