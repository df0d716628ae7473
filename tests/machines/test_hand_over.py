"""The machines of the hand-over by themselves: moves, callers, hostile messages, long states."""

from random import Random

import pytest
from examples import examples
from hand_over_net import A, B, C, Notebook, found
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.hand_over.claims import REST_S
from atoll.actors.hand_over.client import Callers, PlaceCall, PlaceKnown
from atoll.actors.hand_over.durable import DurableOwner, Phase
from atoll.actors.hand_over.hosting import Hosting
from atoll.actors.hand_over.log import parts_of
from atoll.actors.hand_over.log_store import LogStore
from atoll.actors.hand_over.messages import (
    HOSTING,
    MESSAGES,
    PART_BYTES_MAX,
    Call,
    CallAnswered,
    CallDeferred,
    CallRedirected,
    Entry,
    Fenced,
    MayMove,
    Position,
    Sealed,
    StoresWanted,
    TakePlace,
)
from atoll.actors.hand_over.orders import Found, Move, Moved
from atoll.actors.hand_over.state import FORGET_S, ActorState, Answers, decode_state, encode_state
from atoll.actors.placement.messages import FindPlace, Placed, PlaceFound, PlaceSwapped, SwapPlace
from atoll.actors.runtime.machine import Received, Send, TimerFired, Told
from atoll.testing.hand_overs import make_ledger


@pytest.mark.parametrize("stores", [(A, B, C), ()], ids=["durable", "soft"])
def test_an_actor_moves_with_a_state_of_many_parts_and_answers_what_is_repeated_as_before(stores):
    net = found(stores)
    size = PART_BYTES_MAX * 5 + 17
    owner = net.hosts[A].owners["x"]
    owner.application.text = bytes(size)
    assert net.call(A, Call("x", 9, 1, b"abc")) == CallAnswered("x", 9, 1, str(size + 3).encode(), 1)
    net.tell(A, Move("x", B))
    assert net.places["x"] == Placed(2, B, stores)
    moved = net.hosts[B].owners["x"]
    assert moved.application.text == bytes(size) + b"abc"
    assert net.call(B, Call("x", 9, 1, b"abc")) == CallAnswered("x", 9, 1, str(size + 3).encode(), 2)
    assert net.call(B, Call("x", 9, 2, b"d")) == CallAnswered("x", 9, 2, str(size + 4).encode(), 2)
    assert net.call(A, Call("x", 9, 2, b"d")).placed == Placed(2, B, stores)
    assert [fact.why for fact in net.facts if isinstance(fact, Moved)] == [""]


def test_a_host_that_never_saw_the_actor_reads_its_log_from_the_stores():
    net = found()
    for sequence in range(1, 6):
        net.call(A, Call("x", 9, sequence, b"%d" % sequence))
    net.places["x"] = Placed(2, C, (A, B, C))
    net.carry(C, net.hosts[C].handle(Received(A, TakePlace("x", net.places["x"])), 0.0))
    assert net.hosts[C].owners["x"].application.text == b"12345"
    assert net.call(C, Call("x", 9, 5, b"5")) == CallAnswered("x", 9, 5, b"5", 2)
    # The old owner learns of it with its next operation, which nobody acknowledges.
    net.answers.clear()
    net.carry(A, net.hosts[A].handle(Received(C, Call("x", 8, 1, b"late")), 0.0))
    assert not [each for each in net.answers if isinstance(each, CallAnswered)]
    assert "x" not in net.hosts[A].owners


def test_a_state_that_was_changed_on_the_way_is_declined_and_the_source_goes_on():
    net = found(())
    original = net.deliver

    def spoil(node, send):
        if type(send.message).__name__ == "OfferState":
            fields = {name: getattr(send.message, name) for name in send.message.__struct_fields__}
            send = Send(send.target, type(send.message)(**fields | {"digest": bytes(32)}), send.path)
        original(node, send)

    net.deliver = spoil
    net.tell(A, Move("x", B))
    assert "the parts are not what was offered" in net.facts[-1].why
    assert net.call(A, Call("x", 9, 1, b"a")) == CallAnswered("x", 9, 1, b"1", 1)


def test_nobody_serves_while_the_placement_has_not_said_who_does():
    net = found(())
    net.lost = lambda send: isinstance(send.message, SwapPlace)
    net.tell(A, Move("x", B))
    assert isinstance(net.call(A, Call("x", 9, 1, b"a")), CallDeferred)
    for at in (1.0, 2.0, 3.0):
        net.carry(A, net.hosts[A]._tick("x", at))
    assert isinstance(net.call(A, Call("x", 9, 1, b"a")), CallDeferred)
    net.lost = lambda _send: False
    net.carry(A, net.hosts[A]._tick("x", 4.0))
    assert net.places["x"] == Placed(2, A, ())
    assert net.call(A, Call("x", 9, 1, b"a")) == CallAnswered("x", 9, 1, b"1", 2)


def test_a_host_that_is_told_of_its_next_tenure_in_its_last_one_asks_the_placement():
    net = found(())
    net.places["x"] = Placed(3, A, ())
    net.carry(A, net.hosts[A].handle(Received(B, TakePlace("x", net.places["x"])), 0.0))
    assert net.call(A, Call("x", 9, 1, b"a")).generation == 4, "a soft one without its state begins in a new one"


def test_a_caller_tells_a_host_that_sends_it_away_with_older_word_what_it_knows():
    callers = Callers(C, rng=Random(1))
    callers.handle(Told(PlaceKnown("x", Placed(3, A))), 0.0)
    (send, _arm) = callers.handle(Told(PlaceCall("x", b"a", 1)), 0.0)
    client, sequence = send.message.client, send.message.sequence
    (hint,) = callers.handle(Received(A, CallRedirected("x", client, sequence, Placed(2, B))), 0.0)
    assert hint == Send(A, TakePlace("x", Placed(3, A)), HOSTING)
    assert callers.handle(Received(B, CallRedirected("x", client, sequence, Placed(2, B))), 0.0) == []


def test_every_call_that_is_redirected_follows_at_once_and_not_the_first_one_alone():
    callers = Callers(C, rng=Random(1))
    callers.handle(Told(PlaceKnown("x", Placed(1, A))), 0.0)
    calls = [callers.handle(Told(PlaceCall("x", b"op", key)), 0.0)[0] for key in (1, 2)]
    assert [each.target for each in calls] == [A, A]
    for call in calls:
        redirected = CallRedirected("x", call.message.client, call.message.sequence, Placed(2, B))
        again = [each for each in callers.handle(Received(A, redirected), 0.0) if isinstance(each, Send)]
        assert [(each.target, each.message) for each in again] == [(B, call.message)]
        assert callers.handle(Received(A, redirected), 0.0) == [], "it was sent there already"


def test_an_owner_writes_nothing_before_a_majority_of_its_stores_takes_nobody_else():
    """Of two stores one has everything, which is enough to leave the other behind, and not enough to write."""
    owner = DurableOwner("x", Placed(5, A, (A, B)), life=1, make=make_ledger, kind="ledger")
    owner.begin()
    assert owner.receive(A, Sealed("x", 5, 1, 9, True, Position(4, 7), 4), 0.0) == []
    assert owner.phase is Phase.SEALING
    assert owner.fits([A])
    assert not owner.fits([A, B])
    assert not owner.fits([B])
    assert not owner.fits([A, C])
    (seal,) = owner.stores.teach([A, C])
    assert seal.target == C
    owner.receive(C, Sealed("x", 5, 1, 8, False, Position(), 0), 0.0)
    assert owner.fits([A, C])
    assert not owner.fits([C])


@pytest.mark.parametrize("wanted", [(), (A, A), (B, A)], ids=["none", "twice the same", "the same set"])
def test_sets_of_stores_that_cannot_be_are_refused(wanted):
    net = found((A, B))
    net.carry(A, net.hosts[A].handle(Received(C, StoresWanted("x", (A, B), wanted)), 0.0))
    assert not net.hosts[A].renewals.changes
    assert net.places["x"].generation == 1


def test_a_full_table_of_answers_forgets_only_who_was_silent_for_long():
    answers = Answers(clients_max=2)
    for client in (1, 2):
        answers.note(Entry(1, client, client, 1, b"", b"r"), float(client))
    assert answers.room_for(1, 5.0) == 0
    assert answers.room_for(3, 5.0) is None
    assert answers.room_for(3, 1.0 + FORGET_S) == 1
    answers.note(Entry(1, 3, 3, 1, b"", b"r", forgets=1), 200.0)
    assert list(answers.table) == [2, 3]
    state = ActorState("Boiler", b"data", answers.snapshot())
    assert decode_state(encode_state(state)) == state


@given(st.binary(max_size=3 * PART_BYTES_MAX))
@settings(max_examples=examples(10))
def test_a_state_is_the_sum_of_its_parts(state):
    assert b"".join(parts_of(state)) == state


def positions():
    return st.builds(Position, st.integers(0, 4), st.integers(0, 12))


def values_for(kind):
    small = st.integers(0, 12)
    known = {
        "actor": st.just("x"), "generation": st.integers(0, 4), "life": st.integers(0, 2), "memory": small,
        "after": small if kind.__name__ == "ReadLog" else positions(), "base": positions(), "last": positions(),
        "position": positions(), "voice": st.booleans(), "whole": st.booleans(), "missing": st.booleans(),
        "compact": st.booleans(), "digest": st.binary(min_size=32, max_size=32), "data": st.binary(max_size=9),
        "entries": st.lists(st.builds(Entry, st.integers(0, 4), small, small, small), max_size=4).map(tuple),
        "placed": st.builds(Placed, st.integers(1, 4), st.sampled_from([A, B])),
        "wanted": st.builds(Placed, st.integers(1, 4), st.sampled_from([A, B])),
        "operation": st.binary(max_size=9), "reply": st.binary(max_size=9), "why": st.just(""), "kind": st.just("k"),
    }  # fmt: skip
    if kind is StoresWanted:
        stores = st.lists(st.sampled_from([A, B, C]), max_size=3).map(tuple)
        return st.builds(kind, st.just("x"), st.just((A, B)) | stores, stores)
    return st.builds(kind, **{name: known.get(name, small) for name in kind.__struct_fields__})


@given(st.lists(st.one_of([values_for(kind) for kind in MESSAGES]), max_size=40))
@settings(max_examples=examples(150))
def test_no_message_crashes_a_host_or_a_store(messages):
    store, host = LogStore(rng=Random(1)), Hosting(A, rng=Random(2), make=lambda *_: Notebook())
    host.handle(Told(Found("x", "k", (A, B))), 0.0)
    host.handle(Received(A, PlaceSwapped("x", True, Placed(1, A, (A, B)))), 0.0)
    for number, message in enumerate(messages):
        store.handle(Received(B, message), float(number))
        host.handle(Received(B, message), float(number))
        store.check()


@pytest.mark.parametrize("stores", [(A, B), ()], ids=["durable", "soft"])
def test_an_actor_is_founded_above_the_generations_that_removals_have_used_up(stores):
    host = Hosting(A, rng=Random(1), make=lambda *_: Notebook())
    host.handle(Told(Found("x", "k", stores)), 0.0)
    if stores:
        seals = host.handle(Received(A, PlaceFound("x", None, A, first=7)), 0.0)
        assert [(each.target, each.message.generation, each.message.founds) for each in seals] == [
            (A, 7, True),
            (B, 7, True),
        ]
        life = seals[0].message.life
        host.handle(Received(A, Sealed("x", 7, life, 9, True, Position(), 0)), 0.0)
        (again,) = host.handle(Received(B, Sealed("x", 7, life, 8, True, Position(), 0)), 0.0)
    else:
        refusal = PlaceSwapped("x", False, None, "a new actor begins with 7", A, decided=False, first=7)
        (again,) = host.handle(Received(A, refusal), 0.0)
    assert again.message == SwapPlace("x", None, Placed(7, A, stores))
    host.handle(Received(A, PlaceSwapped("x", True, Placed(7, A, stores))), 0.0)
    assert host.owners["x"].placed.generation == 7


def test_an_actor_is_not_founded_before_a_majority_of_its_stores_has_begun_its_log():
    host = Hosting(A, rng=Random(1), make=lambda *_: Notebook())
    host.handle(Told(Found("x", "k", (A, B, C))), 0.0)
    seal = host.handle(Received(A, PlaceFound("x", None, A)), 0.0)[0].message
    assert host.handle(Received(A, Sealed("x", 1, seal.life, 9, True, Position(), 0)), 0.0) == []
    assert host.handle(Received(B, Sealed("x", 1, seal.life, 8, False, Position(), 0)), 0.0) == []
    assert len(host.handle(Received(A, PlaceFound("x", None, A)), 0.1)) == 2, (
        "those that have not begun are asked again"
    )
    assert host.handle(Received(C, Fenced("x", 1, seal.life, 1)), 0.1) == [], "the third may be about to answer"
    (find, _) = host.handle(TimerFired("x"), 0.25)
    assert find.message == FindPlace("x")
    (find, _) = host.handle(TimerFired("x"), REST_S)
    assert find.message == FindPlace("x"), "it has its time from when the majority was known"
    (swap, _) = host.handle(TimerFired("x"), 0.25 + REST_S)
    assert swap.message == SwapPlace("x", None, Placed(1, A, (A, B, C)))


def test_a_founder_that_begins_with_a_higher_generation_gives_the_rest_of_its_stores_their_time_anew():
    host = Hosting(A, rng=Random(1), make=lambda *_: Notebook())
    host.handle(Told(Found("x", "k", (A, B, C))), 0.0)
    for generation, now in ((1, 0.0), (4, REST_S - 0.25)):
        seal = host.handle(Received(A, PlaceFound("x", None, A, first=generation)), now)[0].message
        for store in (A, B):
            host.handle(Received(store, Sealed("x", generation, seal.life, 9, True, Position(), 0)), now)
        (find, _) = host.handle(TimerFired("x"), now)
        assert find.message == FindPlace("x")
    (find, _) = host.handle(TimerFired("x"), 2 * REST_S - 0.5)
    assert find.message == FindPlace("x")
    (swap, _) = host.handle(TimerFired("x"), 2 * REST_S - 0.25)
    assert swap.message == SwapPlace("x", None, Placed(4, A, (A, B)))


def test_an_actor_is_founded_at_once_when_all_its_stores_have_begun_its_log():
    host = Hosting(A, rng=Random(1), make=lambda *_: Notebook())
    host.handle(Told(Found("x", "k", (A, B, C))), 0.0)
    seal = host.handle(Received(A, PlaceFound("x", None, A)), 0.0)[0].message
    for store in (A, B):
        assert host.handle(Received(store, Sealed("x", 1, seal.life, 9, True, Position(), 0)), 0.0) == []
    (swap,) = host.handle(Received(C, Sealed("x", 1, seal.life, 9, True, Position(), 0)), 0.0)
    assert swap.message == SwapPlace("x", None, Placed(1, A, (A, B, C)))


def swapped_and_moved_on(placed):
    """Give what the supernode answers to a swap that may have been done, when the actor has gone on since."""
    return PlaceSwapped("x", False, placed, "another stands there", A, decided=False)


@pytest.mark.parametrize("stores", [(A, B, C), ()], ids=["durable", "soft"])
def test_a_source_whose_move_was_done_and_forgotten_finds_out_where_the_actor_is(stores):
    net = found(stores)
    net.lost = lambda send: isinstance(send.message, SwapPlace)
    net.tell(A, Move("x", B))
    net.places["x"] = later = Placed(3, C, stores)
    (find,) = net.hosts[A].handle(Received(A, swapped_and_moved_on(later)), 0.1)
    assert find.message == FindPlace("x")
    net.carry(A, net.hosts[A]._tick("x", 3.0))
    (find,) = net.hosts[A].handle(Received(A, swapped_and_moved_on(later)), 3.1)
    net.carry(A, [find])
    assert "x" not in net.hosts[A].owners
    assert net.call(A, Call("x", 9, 1, b"a")).placed == later


def test_a_host_that_cannot_run_an_actor_does_not_begin_it_again_and_again():
    """Each time would cost a generation, on the disks of all voters and stores."""
    net = found(())
    tried = []
    host = Hosting(B, rng=Random(1), make=lambda *_: tried.append("once more"))
    host.handle(Received(A, TakePlace("x", Placed(2, B))), 0.0)
    host.handle(Received(A, PlaceFound("x", Placed(2, B))), 0.0)
    assert "x" not in host.owners
    deferred, find = host.handle(Received(C, Call("x", 9, 1, b"a")), 1.0)
    assert "no actor of the kind" in deferred.message.why
    assert find.message == FindPlace("x")
    effects = host.handle(Received(A, PlaceFound("x", Placed(2, B))), 1.0)
    assert (effects, len(tried)) == ([], 1), "it asked for no generation either"
    host.handle(Received(A, TakePlace("x", Placed(4, B))), 2.0)
    host.handle(Received(A, PlaceFound("x", Placed(4, B))), 2.0)
    assert len(tried) == 2, "placed anew, it is tried anew"
    assert net.hosts[A].owners


def test_an_owner_whose_actor_was_removed_ends_and_one_that_hears_old_word_of_it_does_not():
    for first, ends in ((1, False), (3, True)):
        net = found(())
        net.hosts[A].handle(Received(B, TakePlace("x", Placed(2, A))), 0.0)
        net.hosts[A].handle(Received(A, PlaceFound("x", None, A, first=first)), 0.0)
        assert ("x" not in net.hosts[A].owners) == ends


@pytest.mark.parametrize("silent", [FindPlace, MayMove], ids=["placement", "target"])
@pytest.mark.parametrize("stores", [(A, B, C), ()], ids=["durable", "soft"])
def test_an_actor_is_not_frozen_for_a_move_before_placement_and_target_answer(stores, silent):
    """Else every caller would wait for an election, or for a host that is just starting."""
    net = found(stores)
    net.lost = lambda send: isinstance(send.message, silent)
    net.tell(A, Move("x", B))
    assert not net.hosts[A].owners["x"].frozen
    assert net.call(A, Call("x", 9, 1, b"a")) == CallAnswered("x", 9, 1, b"1", 1)
    net.carry(A, net.hosts[A].handle(TimerFired("x"), 1.0))
    assert not any(isinstance(fact, Moved) for fact in net.facts)
    net.lost = lambda _send: False
    net.carry(A, net.hosts[A].handle(TimerFired("x"), 2.0))
    assert net.places["x"].host == B


@pytest.mark.parametrize(
    ("silent", "why"),
    [(FindPlace, "the placement does not answer"), (MayMove, "the target does not answer")],
    ids=["placement", "target"],
)
def test_a_move_is_given_up_when_somebody_does_not_answer(silent, why):
    net = found()
    net.lost = lambda send: isinstance(send.message, silent)
    net.tell(A, Move("x", B))
    net.carry(A, net.hosts[A].handle(TimerFired("x"), 9.0))
    assert net.facts[-1] == Moved("x", B, 0.0, why)
    assert net.hosts[A].owners["x"].serving
    assert net.places["x"].host == A


def test_a_target_that_cannot_run_the_actor_says_so_before_it_is_frozen():
    net = found()
    net.hosts[B] = Hosting(B, rng=Random(1), make=lambda *_: None)
    net.tell(A, Move("x", B))
    assert net.facts[-1] == Moved("x", B, 0.0, "the target declines: no actor of the kind Notebook is known here")
    assert not net.hosts[A].owners["x"].frozen


def test_a_move_that_one_target_declines_may_go_to_the_next_at_once():
    net = found()
    net.hosts[B] = Hosting(B, rng=Random(1), make=lambda *_: None)
    net.lost = lambda send: isinstance(send.message, FindPlace)
    net.tell(A, Move("x", B))
    assert net.facts[-1].why.startswith("the target declines")
    net.lost = lambda _send: False
    net.tell(A, Move("x", C))
    net.carry(A, net.hosts[A].handle(TimerFired("x"), 1.0))
    assert net.places["x"].host == C


def started_again(placed):
    """Give a host that was killed and started again, when the placement has named it as the host of a soft actor."""
    host = Hosting(A, rng=Random(2), make=lambda *_: Notebook())
    host.handle(Told(Found("x", "Notebook", ())), 0.0)
    return host, host.handle(Received(A, PlaceFound("x", placed)), 0.0)


def test_a_host_that_was_killed_claims_the_next_generation_before_it_begins_its_soft_actor_empty():
    """A move that it had begun may be on its way to the placement: only one of the two swaps can be done."""
    host, (swap,) = started_again(Placed(7, A))
    assert swap.message == SwapPlace("x", Placed(7, A), Placed(8, A))
    assert not host.owners
    host.handle(Received(A, PlaceSwapped("x", False, Placed(8, B))), 0.1)
    assert not host.owners, "the move was done"
    host, _ = started_again(Placed(7, A))
    host.handle(Received(A, PlaceSwapped("x", True, Placed(8, A))), 0.1)
    assert host.owners["x"].began == 8, "a late call of a client of the one before is a stranger's"


def test_a_host_that_was_killed_does_not_take_the_place_of_its_former_self_for_what_it_asks_for():
    """Both founded the actor, in the same generation: that it is not done, and there all the same, is no answer."""
    host, (swap,) = started_again(Placed(1, A))
    assert swap.message.wanted == Placed(2, A)
    host, _ = started_again(Placed(7, B))
    host.handle(Told(Found("x", "Notebook", ())), 0.0)
    host = Hosting(A, rng=Random(2), make=lambda *_: Notebook())
    (swap,) = host.handle(Told(Found("x", "Notebook", ())), 0.0)[:1]
    assert swap.message == SwapPlace("x", None, Placed(1, A))
    host.handle(Received(A, PlaceSwapped("x", False, Placed(1, A), decided=False)), 0.1)
    host.handle(Received(A, PlaceFound("x", Placed(1, A))), 0.2)
    assert not host.owners
