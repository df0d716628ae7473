"""Removals at one host: what it believes of the placement, whose answers may be older than what it knows."""

from random import Random

import msgspec
import pytest
from hand_over_net import A, B, C, Notebook, found

from atoll.actors.hand_over.claims import REST_S
from atoll.actors.hand_over.client import Callers, PlaceCall, PlaceKnown
from atoll.actors.hand_over.departures import WISH_S
from atoll.actors.hand_over.hosting import Hosting
from atoll.actors.hand_over.messages import (
    Call,
    CallAnswered,
    CallDeferred,
    CallRefused,
    Position,
    Seal,
    Sealed,
    TakePlace,
)
from atoll.actors.hand_over.move import FREEZE_S
from atoll.actors.hand_over.orders import CallEnded, Found, Move, Remove, Removed
from atoll.actors.hand_over.renewals import DOUBT_S
from atoll.actors.hand_over.site_messages import OwnerDoubted
from atoll.actors.hand_over.state import ActorState, decode_state
from atoll.actors.placement.messages import FindPlace, Placed, PlaceFound, PlaceSwapped, RemovePlace
from atoll.actors.runtime.machine import Announce, Received, Send, TimerFired, Told


class Slow(Notebook):
    """A soft actor whose operations take as long as the test wants."""

    def apply(self, operation, _number):
        super().apply(operation, _number)


class HostOfOne:
    """A host that owns the soft actor x in generation 5, the first one after a removal."""

    def __init__(self, make=Notebook):
        self.machine = Hosting(A, rng=Random(1), make=lambda *_: make())
        self.machine.handle(Told(Found("x", "Notebook", ())), 0.0)
        self.place(None, first=5)
        self.machine.handle(Received(A, PlaceSwapped("x", False, None, "a new actor begins with 5", first=5)), 0.0)
        self.swapped(Placed(5, A))
        assert self.machine.owners["x"].placed == Placed(5, A)

    def do(self, event, now=0.0):
        effects = self.machine.handle(event, now)
        self.machine.check()
        self.facts = [each.fact for each in effects if isinstance(each, Announce)]
        self.sent = [each.message for each in effects if not isinstance(each, Announce) and hasattr(each, "message")]
        self.removed = [each for each in self.facts if isinstance(each, Removed)]

    def place(self, placed, first=0, now=0.0):
        self.do(Received(A, PlaceFound("x", placed, A, first=first)), now)

    def swapped(self, current, *, done=True, first=0, now=0.0):
        self.do(Received(A, PlaceSwapped("x", done, current, "" if done else "no", first=first)), now)

    def remove(self, now=0.0):
        self.do(Told(Remove("x")), now)

    def fire(self, now):
        self.do(TimerFired("x"), now)

    def doubt(self):
        self.do(Received(B, OwnerDoubted("x")))

    def call(self, sequence=1, operation=b"a", now=0.0):
        self.do(Received(C, Call("x", 9, sequence, operation)), now)
        return self.sent[0] if self.sent else None

    def late_call(self, since):
        self.do(Received(C, Call("x", 9, 1, b"a", since)))
        return self.sent[0]

    @property
    def owner(self):
        return self.machine.owners.get("x")


@pytest.fixture
def host():
    return HostOfOne()


def asking():
    """Give a host that has asked the placement to remove the actor."""
    host = HostOfOne()
    host.remove()
    host.place(Placed(5, A))
    assert host.sent == [RemovePlace("x", Placed(5, A))]
    return host


def test_a_removal_asks_the_placement_first_and_then_takes_no_calls(host):
    host.remove()
    assert host.sent == [FindPlace("x")]
    assert isinstance(host.call(), CallAnswered)
    host.place(Placed(5, A))
    assert host.sent == [RemovePlace("x", Placed(5, A))]
    assert isinstance(host.call(2), CallDeferred)
    host.swapped(None, first=7)
    assert host.removed == [Removed("x", "")], "it is said once"
    assert host.owner is None


@pytest.mark.parametrize("late", [Placed(5, A), Placed(4, B)], ids=["here", "elsewhere"])
def test_late_word_of_a_place_that_was_removed_is_not_believed(late):
    """It would begin the actor anew here, or send callers to a host that has nothing."""
    host = asking()
    host.swapped(None, first=7)
    host.place(late)
    assert (host.owner, host.sent, host.facts) == (None, [], [])
    assert "x" not in host.machine.tombstones


def test_a_removal_waits_for_what_is_in_hand_and_not_for_ever():
    for waits_s, asks in ((FREEZE_S / 2, False), (FREEZE_S, True)):
        host = HostOfOne(Slow)
        assert host.call() is None
        host.remove()
        host.place(Placed(5, A))
        assert host.sent == []
        host.fire(waits_s)
        assert (RemovePlace("x", Placed(5, A)) in host.sent) == asks


def test_a_removal_is_asked_for_until_the_placement_says_what_is_there():
    host = asking()
    for now in (1.0, 10.0, 100.0):
        host.fire(now)
        assert (host.sent, host.removed) == ([RemovePlace("x", Placed(5, A))], [])
        assert host.owner.frozen


def test_a_removal_is_given_up_where_the_placement_does_not_answer(host):
    host.remove()
    host.fire(WISH_S)
    assert host.removed == [Removed("x", "the placement does not answer")]
    assert isinstance(host.call(now=WISH_S), CallAnswered)


@pytest.mark.parametrize("late", [Placed(2, B), Placed(4, B), Placed(2, A)], ids=["before", "later", "here"])
def test_word_of_an_older_generation_ends_no_removal(late):
    """Its owner would be frozen for good, and nobody would ask for the removal any more."""
    host = asking()
    host.place(late)
    assert host.removed == []
    host.fire(1.0)
    assert host.sent == [RemovePlace("x", Placed(5, A))]
    host.swapped(None, first=7, now=1.0)
    assert host.removed == [Removed("x", "")]


@pytest.mark.parametrize("ask", [False, True], ids=["wanted", "asking"])
def test_word_from_before_an_actor_began_does_not_make_its_removal_done(ask, host):
    """The founder asks more than once whether there is one; an answer may come when it has begun."""
    if ask:
        host = asking()
    else:
        host.remove()
    host.place(None, first=5)
    assert host.removed == []
    assert host.owner is not None
    if not ask:
        host.place(Placed(5, A))
    host.swapped(None, first=7)
    assert host.removed == [Removed("x", "")]


def test_a_removal_is_over_where_the_actor_has_gone_elsewhere_or_goes_on():
    for where in (B, A):
        host = asking()
        host.place(Placed(6, where))
        assert host.removed == [Removed("x", "the placement says generation 6")]
        assert host.owner is None or isinstance(host.call(), CallAnswered)


def test_an_actor_that_is_about_to_begin_is_not_removed():
    """Else it would be said to be gone, and begin."""
    machine = Hosting(A, rng=Random(1), make=lambda *_: Notebook())
    machine.handle(Told(Found("x", "Notebook", ())), 0.0)
    effects = machine.handle(Told(Remove("x")), 0.0)
    assert [each.fact.why for each in effects if isinstance(each, Announce)] == ["it is about to change"]


def test_a_late_copy_of_the_first_call_to_the_actor_before_is_refused(host):
    refused = host.late_call(since=2)
    assert isinstance(refused, CallRefused)
    assert (refused.unknown, refused.began) == (True, 5)
    assert host.owner.application.text == b""
    assert isinstance(host.late_call(since=5), CallAnswered)
    assert isinstance(host.late_call(since=2), CallRefused), "even if it looks like one that was answered"


def test_a_call_of_a_node_that_does_not_say_since_when_is_taken(host):
    assert isinstance(host.late_call(since=0), CallAnswered)


def test_an_actor_remembers_in_which_generation_it_began_wherever_it_is_and_however_its_log_is_compacted():
    for stores in ((), (A, B, C)):
        net = found(stores)
        net.call(A, Call("x", 9, 1, b"a", 1))
        net.tell(A, Move("x", B))
        assert net.hosts[B].owners["x"].began == 1
        assert net.call(B, Call("x", 9, 2, b"b", 1)) == CallAnswered("x", 9, 2, b"2", 2)
    owner = net.hosts[B].owners["x"]
    net.carry(B, owner._compact(wanted=True))
    assert owner.log.base.index > 0
    net.places["x"] = Placed(3, C, (A, B, C))
    net.carry(C, net.hosts[C].handle(Received(A, PlaceFound("x", net.places["x"], A)), 0.0))
    assert net.hosts[C].owners["x"].serving
    assert net.hosts[C].owners["x"].began == 1


def test_a_state_of_a_node_that_did_not_say_when_it_began_is_read():
    old = msgspec.msgpack.encode(("Boiler", b"data", ()))
    assert decode_state(old) == ActorState("Boiler", b"data", (), 0)


def test_an_owner_that_asks_its_stores_in_vain_asks_the_placement_whether_it_is_over():
    """It may have been removed by force before it heard that it has the place; nobody else would tell it."""
    machine = Hosting(A, rng=Random(1), make=lambda *_: Notebook())
    machine.handle(Received(B, TakePlace("x", Placed(5, A, (B, C)))), 0.0)
    machine.handle(Received(A, PlaceFound("x", Placed(5, A, (B, C)), A)), 0.0)
    asked = []
    for tenths in range(1, 121):
        effects = machine.handle(TimerFired("x"), tenths / 10)
        if any(isinstance(each, Send) and each.message == FindPlace("x") for each in effects):
            asked.append(tenths / 10)
            machine.handle(Received(A, PlaceFound("x", Placed(5, A, (B, C)), A)), tenths / 10)
    assert len(asked) == 2
    assert asked[0] >= DOUBT_S
    assert machine.owners["x"].placed.generation == 5
    machine.handle(Received(A, PlaceFound("x", None, A, first=7)), 13.0)
    assert "x" not in machine.owners


def test_an_actor_is_placed_on_the_stores_that_have_begun_it_and_on_no_other():
    """One that is away may still have the log of the actor that was removed, with a voice."""
    machine = Hosting(A, rng=Random(1), make=lambda *_: Notebook())
    machine.handle(Told(Found("x", "Notebook", (A, B, C))), 0.0)
    seals = machine.handle(Received(A, PlaceFound("x", None, A, first=3)), 0.0)
    (life,) = {each.message.life for each in seals if isinstance(each, Send) and isinstance(each.message, Seal)}
    for store in (A, B):
        machine.handle(Received(store, Sealed("x", 3, life, 9, True, Position(), 0)), 0.0)
    machine.handle(TimerFired("x"), 1.0)
    effects = machine.handle(TimerFired("x"), 1.0 + REST_S)
    assert [each.message.wanted for each in effects if isinstance(each, Send)] == [Placed(3, A, (A, B))]


class Calling:
    """A caller of x that heard of it in generation 2, and is told that its client is not known."""

    def __init__(self):
        self.callers = Callers(C, rng=Random(1))
        self.do(Told(PlaceCall("x", b"a", 1)))
        self.do(Received(A, PlaceFound("x", Placed(2, A))))
        self.refused()

    def refused(self, began=0):
        (call,) = self.sent
        self.do(Received(A, CallRefused("x", call.client, call.sequence, "not known", unknown=True, began=began)))

    def do(self, event):
        effects = self.callers.handle(event, 0.0)
        self.sent = [each.message for each in effects if hasattr(each, "message")]
        self.ended = [each.fact for each in effects if isinstance(each, Announce)]


def test_a_caller_that_asks_the_next_actor_is_not_told_of_the_removal_of_the_one_before():
    """It would take for removed what may have been applied."""
    calling = Calling()
    calling.do(Received(A, PlaceFound("x", Placed(5, B))))
    (call,) = calling.sent
    calling.do(Received(A, PlaceFound("x", None, A, first=4)))
    assert calling.ended == []
    calling.do(Received(B, CallAnswered("x", call.client, call.sequence, b"1", 5)))
    assert calling.ended == [CallEnded("x", 1, 1, b"1", "")]


def test_a_caller_whose_actor_is_nowhere_any_more_is_told_that_it_was_removed():
    calling = Calling()
    calling.do(Received(A, PlaceFound("x", None, A, first=4)))
    assert calling.ended == [CallEnded("x", 1, 1, b"", "x was removed")]


def test_a_caller_says_of_its_number_always_the_same_generation_and_of_a_new_one_the_newer():
    """Else of two copies of one call one might be applied, and the other be said to be unknown."""
    calling = Calling()
    calling.do(Received(A, PlaceFound("x", Placed(5, B))))
    (first,) = calling.sent
    assert first.since == 5
    calling.do(Received(A, PlaceFound("x", Placed(6, A))))
    assert calling.sent == [first]
    calling.refused(began=9)
    calling.do(Received(A, PlaceFound("x", Placed(9, B))))
    (second,) = calling.sent
    assert second.since == 9
    assert second.client != first.client
    calling.refused(began=9)
    assert [each.failed for each in calling.ended] == ["not known"], "it is asked anew for a later actor only"


@pytest.mark.parametrize("answer", [{"placed": Placed(6, B)}, {"placed": None, "first": 7}], ids=["moved", "removed"])
def test_an_owner_that_is_doubted_asks_the_placement_and_goes_by_its_word_alone(host, answer):
    host.doubt()
    assert host.sent == [FindPlace("x")]
    assert host.owner.serving
    host.place(Placed(5, A))
    assert host.owner.serving
    host.doubt()
    host.place(**answer)
    assert host.owner is None
    host.doubt()
    assert host.sent == [], "what is not owned here is not asked for"


def test_an_order_that_comes_again_ends_no_actor_that_was_founded_since(host):
    """Its answer was lost, and somebody has begun the next one of that name meanwhile."""
    host.do(Told(Remove("x", founded=2)))
    host.do(Received(A, PlaceFound("x", Placed(5, A), A, founded=5)))
    assert [each.why for each in host.removed] == ["it is another one, which was founded in generation 5"]
    assert host.owner.serving
    assert not host.owner.frozen


def test_an_order_waits_for_an_answer_that_says_which_actor_has_the_place(host):
    host.do(Told(Remove("x", founded=5)))
    host.swapped(Placed(5, A))
    assert not host.owner.frozen
    host.do(Received(A, PlaceFound("x", Placed(5, A), A, founded=5)))
    assert host.sent == [RemovePlace("x", Placed(5, A))]


def test_where_nobody_knows_who_was_founded_when_the_one_of_that_name_ends(host):
    host.do(Told(Remove("x", founded=2)))
    host.place(Placed(5, A))
    assert host.sent == [RemovePlace("x", Placed(5, A))]


@pytest.mark.parametrize(("first", "told"), [(3, []), (5, ["x was removed"])], ids=["before it began", "after"])
def test_late_word_that_there_is_none_ends_no_call_to_an_actor_that_has_begun_since(first, told):
    """The next actor has said that it knows nothing of the client; the placement was asked before that one began."""
    callers = Callers(C, rng=Random(1))
    callers.handle(Told(PlaceKnown("x", Placed(1, A))), 0.0)
    call = callers.handle(Told(PlaceCall("x", b"a", 1)), 0.0)[0].message
    stranger = CallRefused("x", call.client, call.sequence, "asked of generation 1", unknown=True, began=3)
    callers.handle(Received(A, stranger), 0.1)
    effects = callers.handle(Received(A, PlaceFound("x", None, A, first=first)), 0.2)
    assert [each.fact.failed for each in effects if isinstance(each, Announce)] == told
