"""The placement machine, input by input."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.elector.messages import LeaseEnded, LeaseRenewed, PlacementSettled, Resign, SupernodeElected
from atoll.actors.elector.roster import FIRST_INCARNATION, INCARNATION_STEP
from atoll.actors.placement.messages import (
    ACTORS_MAX,
    Accepted,
    ActorPlace,
    Amnesia,
    Committed,
    FindPlace,
    Outbid,
    Placed,
    PlaceFound,
    PlaceSwapped,
    Prepare,
    Prepared,
    Promised,
    RemovePlace,
    SwapPlace,
    Write,
    Written,
)
from atoll.actors.placement.placement import ASKERS_MAX, Placement
from atoll.actors.placement.register import Register
from atoll.actors.placement.table import REFORM_BITS, PlaceTable, floor_of
from atoll.actors.runtime.machine import Announce, Persist, Received, Reply, Send, TimerFired, Told
from atoll.testing.elections import simulated_node

A, B, C, D, E = (simulated_node(number) for number in range(5))
FIRST, SECOND = Placed(1, A), Placed(2, B)
OLD = Accepted(4, 9, 1, 1, (ActorPlace("ledger", FIRST),))
NEWER = Accepted(5, 7, 1, 1, (ActorPlace("ledger", SECOND),))


def lease(epoch=6, until=10.0, version=1, voters=(A, B, C), incarnation=1):
    return LeaseRenewed(epoch, until, incarnation, version, voters)


def machine(*restored):
    placement = Placement(A, rng=Random(1))
    placement.start(list(restored), 0.0)
    placement.check()
    return placement


def tell(placement, fact, now=1.0):
    effects = placement.handle(Told(fact), now)
    placement.check()
    return effects


def receive(placement, sender, message, now=1.0, reply_to=None):
    effects = placement.handle(Received(sender, message, "", reply_to), now)
    placement.check()
    return effects


def ask(placement, question, now=1.0):
    return receive(placement, D, question, now, reply_to="asker")


def sent(effects, kind):
    return [each.message for each in effects if isinstance(each, Send) and isinstance(each.message, kind)]


def replied(effects):
    return [each.message for each in effects if isinstance(each, Reply)]


def serving(*restored, table=None):
    """Make A a supernode that serves, with the word of B."""
    placement = machine(*restored)
    tell(placement, lease())
    receive(placement, B, Prepared(6, table))
    written = placement.leadership.flight.record
    return placement, receive(placement, B, Written(6, written.version))


# A voter


def test_a_voter_writes_its_promise_and_its_table_before_it_answers():
    voter = machine()
    disk, answer = receive(voter, B, Prepare(5))
    assert (disk, answer.message) == (Persist(Promised(5)), Prepared(5, None))
    disk, answer = receive(voter, B, Write(NEWER))
    assert (disk, answer.message) == (Persist(NEWER), Written(5, 7))


def test_a_voter_takes_nothing_from_an_epoch_below_its_promise_through_a_restart_too():
    for voter in (machine(OLD, Promised(6)), machine(Promised(6), OLD)):
        for message in (Prepare(5), Write(NEWER)):
            (answer,) = receive(voter, B, message)
            assert answer.message == Outbid(5, 6)
    (answer,) = receive(machine(NEWER), B, Prepare(4))
    assert answer.message == Outbid(4, 5)


def test_a_table_that_comes_late_or_twice_is_not_written_again():
    voter = machine(NEWER)
    assert [each.message for each in receive(voter, B, Write(NEWER))] == [Written(5, 7)]
    assert receive(voter, B, Write(Accepted(5, 6, 1, 1, ()))) == []
    assert voter.register.accepted == NEWER


def test_who_is_not_a_voter_is_no_supernode():
    placement = machine()
    tell(placement, lease(epoch=1))
    tell(placement, LeaseEnded(1))
    assert receive(placement, D, Prepare(9)) == []
    assert placement.counts["strangers"] == 1


def test_a_forgetful_voter_promises_but_tells_nothing_and_takes_only_what_names_its_nonce():
    voter = machine(OLD, Amnesia("ruined"))
    *_, answer = receive(voter, B, Prepare(6))
    nonce = answer.message.nonce
    assert (answer.message.accepted, nonce > 0) == (None, True)
    table = Accepted(6, 10, 1, 1, NEWER.places)
    for wrong in (0, nonce + 1):
        (refusal,) = receive(voter, B, Write(table, wrong))
        assert refusal.message == Outbid(6, 6, nonce)
    effects = receive(voter, B, Write(table, nonce))
    assert effects == [Persist(table), Persist(Amnesia()), Send(B, Written(6, 10))]
    *_, answer = receive(voter, B, Prepare(7))
    assert answer.message == Prepared(7, table)


def test_a_voter_that_crashed_while_it_was_filled_is_forgetful_still():
    assert machine(Amnesia("ruined"), NEWER).register.forgetful
    assert not machine(Amnesia("ruined"), NEWER, Amnesia()).register.forgetful
    first, second = Register(Random(1)), Register(Random(2))
    for register in (first, second):
        register.restart([Amnesia("ruined")])
    assert first.nonce != second.nonce


def test_a_forgetful_voter_says_so_by_itself():
    voter = machine(Amnesia("ruined"))
    tell(voter, SupernodeElected(B, 6, confirmed=True, reason=""))
    voter.voters = (A, B, C)
    assert {each.message.nonce for each in voter.handle(TimerFired("damaged"), 1.0) if isinstance(each, Send)} == {
        voter.register.nonce
    }


# A supernode


def test_a_supernode_takes_the_highest_epoch_and_then_version_and_writes_it_again_before_it_answers():
    placement = machine(OLD)
    asked = tell(placement, lease())
    assert asked[0] == Persist(Promised(6))
    assert sent(asked, Prepare) == [Prepare(6), Prepare(6)]
    assert not replied(ask(placement, FindPlace("ledger")))
    effects = receive(placement, B, Prepared(6, NEWER))
    again = Accepted(6, 8, 1, 1, NEWER.places)
    assert effects[0] == Persist(again)
    assert sent(effects, Write) == [Write(again), Write(again)]
    assert not replied(effects)
    effects = receive(placement, B, Written(6, 8))
    assert replied(effects) == [PlaceFound("ledger", SECOND, A)]
    assert sent(effects, Committed) == [Committed(6, 8)] * 2
    assert Announce(PlacementSettled(6, 1, 1)) in effects


def test_a_promise_of_another_epoch_and_the_word_of_a_forgetful_voter_are_no_part_of_a_majority():
    placement = machine(OLD)
    tell(placement, lease())
    assert receive(placement, B, Prepared(5, NEWER)) == []
    assert not sent(receive(placement, C, Prepared(6, None, 77)), Write)
    # It is told what was written as soon as a majority has told what it has.
    writes = sent(receive(placement, B, Prepared(6, NEWER)), Write)
    assert [write.nonce for write in writes] == [0, 77]


def test_a_nonce_that_is_heard_after_the_lease_is_not_answered():
    placement, _ = serving()
    assert not sent(receive(placement, C, Outbid(6, 6, 77), now=10.0), Write)
    (write,) = sent(receive(placement, C, Outbid(6, 6, 77), now=9.9), Write)
    assert write.nonce == 77


def test_a_swap_is_done_when_a_majority_has_it_and_others_wait_for_the_next_write():
    placement, _ = serving()
    assert not replied(ask(placement, SwapPlace("ledger", None, FIRST)))
    assert ask(placement, SwapPlace("ledger", FIRST, SECOND)) == []
    assert ask(placement, SwapPlace("vault", None, SECOND)) == []
    effects = receive(placement, C, Written(6, 2))
    assert replied(effects) == [PlaceSwapped("ledger", True, FIRST, "", A)]
    done, refused = replied(receive(placement, C, Written(6, 3)))
    assert (done.done, done.current) == (True, SECOND)
    assert (refused.done, refused.decided, refused.current) == (False, True, None)
    assert "generation 2 is wanted" in refused.why


def test_without_its_lease_a_supernode_answers_nothing_for_certain():
    placement, _ = serving()
    assert replied(ask(placement, FindPlace("ledger"), 9.9)) == [PlaceFound("ledger", None, A, first=1)]
    assert not replied(ask(placement, FindPlace("ledger"), 10.0))
    assert not ask(placement, SwapPlace("ledger", None, FIRST), 10.0)
    found, swapped = sorted(replied(tell(placement, LeaseEnded(6), 10.1)), key=lambda each: type(each).__name__)
    assert (found.why[:11], found.supernode) == ("no majority", None)
    assert (swapped.done, swapped.decided) == (False, False)


def test_what_was_in_flight_when_the_lease_ended_is_said_to_be_unknown():
    placement, _ = serving()
    ask(placement, SwapPlace("ledger", None, FIRST))
    (answer,) = replied(tell(placement, LeaseEnded(6)))
    assert (answer.done, answer.decided) == (False, False)


def test_when_the_roster_changes_answers_go_on_and_it_is_settled_when_a_majority_of_the_new_one_has_the_table():
    placement, _ = serving()
    effects = tell(placement, lease(version=2, voters=(A, B, C, D)))
    assert len(sent(effects, Write)) == 3
    assert replied(ask(placement, FindPlace("ledger"))) == [PlaceFound("ledger", None, A, first=1)]
    settled = Announce(PlacementSettled(6, 1, 2))
    assert settled not in receive(placement, D, Written(6, 2))
    assert settled in receive(placement, C, Written(6, 2))


def test_a_supernode_whose_copy_is_damaged_resigns_and_says_why():
    placement = machine(OLD, Amnesia("ruined"))
    effects = tell(placement, lease())
    assert [each.fact for each in effects if isinstance(each, Announce)] == [
        Resign("its copy of the placement is damaged")
    ]
    assert tell(placement, lease(until=11.0)) == []
    (answer,) = replied(ask(placement, FindPlace("ledger")))
    assert "copy is damaged (ruined)" in answer.why


def test_too_many_who_wait_are_turned_away():
    placement = machine()
    tell(placement, lease())
    for _ in range(ASKERS_MAX):
        assert ask(placement, FindPlace("ledger")) == []
    (answer,) = replied(ask(placement, FindPlace("ledger")))
    assert "ask again later" in answer.why
    assert placement.counts["turned_away"] == 1


def test_a_question_that_is_told_and_not_asked_is_counted():
    placement = machine()
    assert receive(placement, B, FindPlace("ledger")) == []
    assert placement.counts["told_not_asked"] == 1


# The table


def test_a_removed_actor_leaves_nothing_and_begins_above_all_that_its_old_owner_can_ask_for():
    placement, _ = serving()
    for question, version in ((SwapPlace("ledger", None, FIRST), 2), (RemovePlace("ledger", FIRST), 3)):
        ask(placement, question)
        (answer,) = replied(receive(placement, C, Written(6, version)))
    assert (answer.done, answer.current, answer.first) == (True, None, 3)
    assert placement.leadership.committed.record.retired == 2
    (found,) = replied(ask(placement, FindPlace("ledger")))
    assert (found.placed, found.why, found.first) == (None, "", 3)
    for late in (SwapPlace("ledger", FIRST, SECOND), SwapPlace("ledger", None, FIRST), RemovePlace("ledger", FIRST)):
        (refused,) = replied(ask(placement, late))
        assert (refused.done, refused.decided, refused.first) == (False, False, 3)
    ask(placement, SwapPlace("ledger", None, Placed(3, B)))
    assert replied(receive(placement, C, Written(6, 4)))[0].done
    (refused,) = replied(ask(placement, SwapPlace("ledger", FIRST, SECOND)))
    assert "generation 3 on" in refused.why


def test_what_is_retired_is_known_to_the_next_supernode():
    placement, _ = serving(table=Accepted(5, 7, 1, 1, (), 9))
    (refused,) = replied(ask(placement, SwapPlace("ledger", None, FIRST)))
    assert "a new actor begins with 10" in refused.why
    assert refused.first == 10


def test_a_removal_that_expects_something_else_is_refused_and_whether_it_was_done_before_is_said_with_care():
    table = PlaceTable([ActorPlace("ledger", SECOND)])
    assert "generation 2 on" in table.refusal(RemovePlace("ledger", FIRST))
    assert table.never(RemovePlace("ledger", FIRST))
    table = PlaceTable([ActorPlace("ledger", Placed(4, A))])
    assert not table.never(RemovePlace("ledger", FIRST))
    assert not PlaceTable().never(RemovePlace("ledger", FIRST))


NODES = st.sampled_from([A, B, C])
PLACES = st.builds(Placed, st.integers(1, 4), NODES, st.lists(NODES, max_size=3).map(tuple))
SWAPS = st.builds(SwapPlace, st.sampled_from(["ledger", "vault"]), st.none() | PLACES, PLACES)


@given(st.lists(SWAPS, max_size=60))
def test_generations_rise_by_one_and_only_from_what_was_expected(swaps):
    table = PlaceTable()
    for swap in swaps:
        before = table.find(swap.actor)
        if not table.refusal(swap):
            assert before == swap.expected
            table.change(swap)
            assert table.find(swap.actor).generation == (before.generation if before else 0) + 1
            # Coming again, it is refused, and not said never to have been done.
            assert table.refusal(swap)
            assert not table.never(swap)
    assert PlaceTable(table.places()).places() == table.places() == table.copy().places()


def test_a_full_table_takes_no_new_actor_but_swaps_the_old():
    table = PlaceTable(ActorPlace(f"actor-{number}", FIRST) for number in range(ACTORS_MAX))
    assert "limit of a site" in table.refusal(SwapPlace("ledger", None, FIRST))
    assert table.refusal(SwapPlace("actor-7", FIRST, SECOND)) == ""


@pytest.mark.parametrize(
    ("wanted", "says"),
    [(Placed(3, B), "generation 3 is wanted"), (Placed(2, B, (A, A)), "a store is named twice")],
)
def test_a_swap_that_cannot_be_meant_is_refused_with_its_reason(wanted, says):
    table = PlaceTable([ActorPlace("ledger", FIRST)])
    assert says in table.refusal(SwapPlace("ledger", FIRST, wanted))


def place_after_a_reform(copy, incarnation):
    """Give where the actor is, once A has reformed the site with this copy."""
    placement = machine(copy)
    tell(placement, lease(epoch=2**20, voters=(A,), incarnation=incarnation))
    (answer,) = replied(ask(placement, FindPlace("ledger")))
    return answer.placed


def test_a_reform_raises_the_generations_above_what_those_may_have_done_that_were_given_up():
    """B and C were only away: they know of later generations than this copy, and come back."""
    copy = Accepted(4, 9, FIRST_INCARNATION, 3, (ActorPlace("ledger", Placed(5, A, (A, B, C))),))
    there = Placed(5 + 10**5, B, (A, B, C))
    once, later = (FIRST_INCARNATION + INCARNATION_STEP + drawn for drawn in (77, 10**6))
    mine, other = place_after_a_reform(copy, once), place_after_a_reform(copy, later)
    assert there.generation < mine.generation < other.generation, "of two reforms at once the one that wins is higher"
    assert (mine.host, mine.stores) == (A, (A, B, C))
    assert mine.generation - 5 == floor_of(once)


def test_who_leads_next_in_an_incarnation_raises_nothing_again():
    incarnation = FIRST_INCARNATION + INCARNATION_STEP
    copy = Accepted(4, 9, incarnation, 3, (ActorPlace("ledger", FIRST),))
    assert place_after_a_reform(copy, incarnation) == FIRST


@given(st.lists(st.integers(0, 2**52), min_size=2, max_size=2))
def test_floors_of_generations_rise_with_incarnations_in_whole_steps(incarnations):
    low, high = map(floor_of, sorted(incarnations))
    assert low <= high
    assert low % 2**REFORM_BITS == high % 2**REFORM_BITS == 0


def test_a_place_says_in_which_generation_its_actor_was_founded_and_the_next_of_that_name_has_another():
    table = PlaceTable()
    for change in (SwapPlace("x", None, FIRST), SwapPlace("x", FIRST, SECOND)):
        assert not table.refusal(change)
        table.change(change)
    assert (table.founded("x"), table.places()) == (1, (ActorPlace("x", SECOND, 1),))
    table.change(RemovePlace("x", SECOND))
    assert table.founded("x") == 0
    again = PlaceTable(table.places(), table.retired)
    again.change(SwapPlace("x", None, Placed(4, A)))
    again.lift(FIRST_INCARNATION, FIRST_INCARNATION + INCARNATION_STEP)
    assert PlaceTable(again.places()).founded("x") == 4, "a reform founds nobody"
