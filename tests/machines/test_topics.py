"""The machines of the topics: rings, windows, who may visit, what is refused; and sites of them under faults."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.topics import exchange as exchange_module
from atoll.actors.topics.errors import BadTopic, NotLetIn, TooMany
from atoll.actors.topics.exchange import LEASE_S, SUBSCRIBERS_MAX, Exchange, Flush, Say
from atoll.actors.topics.gates import GUESTS_PER_PEER_MAX, KEPT_S, Gates
from atoll.actors.topics.messages import (
    GAP_MAX,
    HOPS_MAX,
    NODE_FILTERS_MAX,
    Lost,
    Publication,
    TopicMessages,
    TopicsTaken,
    TopicsWanted,
    VisitBegins,
    VisitHeard,
    VisitMessage,
    VisitPublish,
    VisitTaken,
    VisitWelcome,
)
from atoll.actors.topics.ring import Missed, Ring
from atoll.actors.topics.seen import PUBLISHERS_MAX, WINDOW, Seen
from atoll.actors.topics.visit import Visit
from atoll.testing.topic_world import FAULTS, TopicWorld, node_id, tag
from atoll.transport.base import Standing
from atoll.transport.errors import MalformedFrame

HERE, PEER, BOOT, KEY = node_id("here"), node_id("peer"), b"bootboot", b"k" * 16
OURS, THEIRS = tag("ours"), tag("theirs")
ALL = ("#",)
CYCLE = {
    "sites": {"a": 2, "b": 1, "c": 1},
    "joins": [("a0", "b0", "both", ALL), ("b0", "c0", "both", ALL), ("c0", "a1", "both", ALL)],
}
PAIR = {"sites": {"a": 2, "b": 2}, "joins": [("a0", "b0", "both", ALL)]}


@pytest.mark.parametrize("waiting", [8192, 4], ids=["room", "hardly any room"])
@pytest.mark.parametrize("world", [CYCLE, PAIR], ids=["a circle of three sites", "two sites"])
@pytest.mark.parametrize("faults", [(), ("cut stream",), FAULTS], ids=["nothing breaks", "streams", "all"])
def test_each_message_comes_once_in_order_and_what_does_not_is_said_to_be_missing(world, faults, waiting, monkeypatch):
    monkeypatch.setattr(exchange_module, "WAITING_MAX", waiting)
    for seed in range(3):
        assert TopicWorld(Random(seed), faults=faults, fault_rate=0.1, **world).run() == [], f"seed {seed}"


# Rings


class Way:
    """A ring, and a reader of it at the other end of a way that breaks."""

    def __init__(self, count_max):
        self.ring = Ring(count_max, 100)
        self.put = 0
        self.got, self.missed, self.heard = [], 0, 0

    def read(self):
        found = self.ring.take()
        if found is None or isinstance(found, Missed):
            return found
        number, (first, weight) = found
        # As a visitor does: the gap in the numbers is what is missing.
        self.missed += number - weight - self.heard
        self.heard = number
        self.got.append((first, weight))
        return found


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 40), st.integers(1, 3)),
        st.tuples(st.sampled_from(["read", "break", "acknowledge"]), st.just(0), st.just(0)),
    ),
    max_size=80,
)


@given(st.integers(1, 6), ACTS)
def test_of_a_ring_everything_comes_once_and_in_order_or_is_counted(count_max, acts):
    way = Way(count_max)
    for act, size, weight in acts:
        match act:
            case "put":
                way.ring.put((way.put + 1, weight), size, weight)
                way.put += weight
            case "read":
                way.read()
            case "break":
                way.ring.go_back(way.heard)
            case "acknowledge":
                way.ring.acknowledge(way.heard)
        way.ring.check()
    while way.read() is not None:
        pass
    assert not way.ring.waits
    assert way.got == sorted(set(way.got))
    assert sum(weight for _, weight in way.got) + way.missed == way.put


def test_one_item_has_room_however_long_it_is():
    ring = Ring(4, 10)
    ring.put("short", 1)
    ring.put("long", 1000)
    assert ring.take() == Missed(1)
    assert ring.take() == (2, "long")


# Windows


@given(st.lists(st.integers(1, 3 * WINDOW), max_size=60))
def test_a_message_is_new_once_and_never_when_it_is_older_than_the_window(numbers):
    seen, there, highest, old = Seen(), set(), 0, 0
    for number in numbers:
        too_old = number <= highest - WINDOW
        assert seen.is_new("publisher", number) == (number not in there and not too_old)
        old += too_old
        there.add(number)
        highest = max(highest, number)
    assert seen.old == old


def test_publishers_that_were_silent_longest_are_forgotten_first():
    seen = Seen()
    for publisher in range(PUBLISHERS_MAX + 1):
        assert seen.is_new(publisher, 1)
    assert len(seen) == PUBLISHERS_MAX
    assert not seen.is_new(1, 1)
    assert seen.is_new(0, 1)


# Members


def exchange():
    made = Exchange(node=HERE, boot=BOOT, site=OURS)
    made.peer_up(PEER, 0.0)
    return made


def said(**changes):
    fields = {"topic": "a", "payload": b"", "node": PEER, "boot": BOOT, "sequence": 1, "time_ms": 0, "via": ()}
    return Publication(**(fields | changes))


BAD_TELLS = {
    "a wish that is no filter": TopicsWanted(BOOT, 1, ("a/#/b",)),
    "what is said on streams": VisitTaken(1),
    "a message of another node": TopicMessages(BOOT, BOOT, 1, 1, (said(node=HERE),)),
    "a message of our own site from outside": TopicMessages(BOOT, BOOT, 1, 1, (said(via=(THEIRS, OURS)),)),
    "a loss of our own site from outside": TopicMessages(BOOT, BOOT, 1, 1, (Lost(3, (OURS,)),)),
    "a topic that is none": TopicMessages(BOOT, BOOT, 1, 1, (said(topic="a/+"),)),
    "more losses than there can be": TopicMessages(BOOT, BOOT, 1, GAP_MAX + 2, (said(),)),
}


@pytest.mark.parametrize("name", BAD_TELLS)
def test_a_member_that_breaks_the_rules_is_not_heard(name):
    made = exchange()
    subscriber, _ = made.subscribe(("#",), 0.0)
    with pytest.raises(MalformedFrame):
        made.hear(PEER, BAD_TELLS[name], 0.0)
    made.check()
    assert len(subscriber.ring) == 0


def test_numbers_are_not_said_twice():
    made = exchange()
    made.hear(PEER, TopicMessages(BOOT, BOOT, 1, 1, (said(),)), 0.0)
    with pytest.raises(MalformedFrame, match="twice"):
        made.hear(PEER, TopicMessages(BOOT, BOOT, 1, 1, (said(),)), 0.0)


def test_a_wish_holds_for_its_lease_and_is_forgotten_with_its_last_filter():
    made = exchange()
    assert made.hear(PEER, TopicsWanted(BOOT, 1, ("a",)), 0.0) == [Say(PEER, TopicsTaken(BOOT, 1))]
    _, effects = made.publish("a", b"", 0)
    assert effects == [Flush(PEER)]
    assert made.outgoing(PEER).items[0].sequence == 1
    made.tick(LEASE_S - 0.1)
    assert made.reach("a") == (0, 1)
    made.tick(LEASE_S)
    assert made.reach("a") == (0, 0)
    made.hear(PEER, TopicsWanted(BOOT, 2, ("a",)), LEASE_S)
    made.hear(PEER, TopicsWanted(BOOT, 3, ()), LEASE_S)
    assert made.reach("a") == (0, 0)
    # What was said before comes late: an older wish changes nothing.
    made.hear(PEER, TopicsWanted(BOOT, 5, ("a",)), LEASE_S)
    made.hear(PEER, TopicsWanted(BOOT, 4, ("b",)), LEASE_S)
    assert (made.reach("a"), made.reach("b")) == ((0, 1), (0, 0))


def test_what_a_member_cannot_be_sent_waits_for_its_link():
    made = exchange()
    made.hear(PEER, TopicsWanted(BOOT, 1, ("a",)), 0.0)
    made.peer_down(PEER)
    made.publish("a", b"1", 0)
    assert made.outgoing(PEER) is None
    assert Flush(PEER) in made.peer_up(PEER, 1.0)
    assert [each.payload for each in made.outgoing(PEER).items] == [b"1"]


def test_subscribers_and_their_filters_have_limits_with_names():
    made = exchange()
    for number in range(NODE_FILTERS_MAX // 64):
        made.subscribe(tuple(f"{number}/{each}" for each in range(64)), 0.0)
    with pytest.raises(TooMany, match=f"{NODE_FILTERS_MAX} filters"):
        made.subscribe(("one more",), 0.0)
    for _ in range(SUBSCRIBERS_MAX - len(made.subscribers)):
        made.subscribe(("0/0",), 0.0)
    with pytest.raises(TooMany, match=f"{SUBSCRIBERS_MAX} subscribers"):
        made.subscribe(("0/0",), 0.0)
    made.check()
    for number in list(made.subscribers):
        made.unsubscribe(number, 0.0)
    assert not made.wants


# Visits


def gates(subscribe=(), publish=()):
    return Gates(
        exchange=Exchange(node=HERE, boot=BOOT, site=OURS),
        may_subscribe=subscribe,
        may_publish=publish,
        draw_epoch=iter(number.to_bytes(8, "big") for number in range(1, 1000)).__next__,
    )


def begins(filters=("a",), publishes=(), **changes):
    fields = {"key": KEY, "site": THEIRS, "joins": False, "epoch": b"", "heard": 0, "published": 0}
    return VisitBegins(**(fields | {"filters": filters, "publishes": publishes} | changes))


def test_nobody_from_outside_may_do_anything_that_the_config_does_not_name():
    refused = {
        ((), ()): (("a",), ()),
        (("a/#",), ()): (("#",), ()),
        (("a/+",), ()): (("a/#",), ()),
        (("#",), ()): ((), ("a",)),
        ((), ("a",)): ((), ("a", "b")),
    }
    for allowed, wanted in refused.items():
        with pytest.raises(NotLetIn, match=r"pubsub\.(subscribe|publish) = \["):
            gates(*allowed).begin(PEER, Standing.GRANTED, begins(*wanted), 0.0)
    for standing in (Standing.NEIGHBOUR, Standing.CLOUD):
        with pytest.raises(NotLetIn, match="members"):
            gates(("#",), ("#",)).begin(PEER, standing, begins(), 0.0)
    guest, _, _ = gates(("a/#",), ("b",)).begin(PEER, Standing.GRANTED, begins(("a/+/c",), ("b",)), 0.0)
    assert guest.here
    gates().begin(PEER, Standing.MEMBER, begins(site=OURS), 0.0)


BAD_BEGINS = {
    "for nothing": (Standing.GRANTED, begins(filters=())),
    "a filter that is none": (Standing.GRANTED, begins(("a#",))),
    "half an epoch": (Standing.GRANTED, begins(epoch=b"half")),
    "a stranger of our site": (Standing.GRANTED, begins(site=OURS)),
    "a member of another site": (Standing.MEMBER, begins()),
}


@pytest.mark.parametrize("name", BAD_BEGINS)
def test_a_visit_that_cannot_be_is_not_begun(name):
    gate = gates(("#",))
    with pytest.raises(MalformedFrame):
        gate.begin(PEER, *BAD_BEGINS[name], 0.0)
    assert not gate.guests


def test_a_join_within_one_site_is_refused_in_words():
    with pytest.raises(NotLetIn, match="same site"):
        gates().begin(PEER, Standing.MEMBER, begins(site=OURS, joins=True), 0.0)


BAD_WORDS = {
    "heard what was not said": VisitHeard(1),
    "said before": VisitPublish(0x10, said(via=(THEIRS,))),
    "another topic": VisitPublish(0x11, said(topic="c", via=(THEIRS,))),
    "no topic": VisitPublish(0x11, said(topic="b/+", via=(THEIRS,))),
    "no way": VisitPublish(0x11, said(topic="b")),
    "another way": VisitPublish(0x11, said(topic="b", via=(THEIRS, tag("else")))),
    "back again": VisitPublish(0x11, said(topic="b", via=(OURS, THEIRS))),
    "a loss that comes back": VisitPublish(0x12, Lost(2, (OURS, THEIRS))),
    "a loss that never was": VisitPublish(GAP_MAX + 0x20, said(topic="b", via=(THEIRS,))),
    "a welcome": VisitWelcome(OURS, BOOT, 0),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_a_visitor_that_breaks_the_rules_is_not_heard(name):
    gate = gates(("#",), ("#",))
    guest, _, _ = gate.begin(PEER, Standing.GRANTED, begins(publishes=("b",)), 0.0)
    gate.hear(guest, VisitPublish(0x10, said(topic="b", via=(THEIRS,))))
    with pytest.raises(MalformedFrame):
        gate.hear(guest, BAD_WORDS[name])
    assert (guest.taken, gate.exchange.sequence) == (0x10, 0)
    gate.check()


def test_a_visitor_that_comes_back_in_time_gets_what_it_has_not_and_later_begins_anew():
    gate = gates(("#",))
    guest, welcome, _ = gate.begin(PEER, Standing.GRANTED, begins(), 0.0)
    for payload in (b"1", b"2", b"3"):
        gate.exchange.publish("a", payload, 0)
    assert gate.outgoing(guest).number == 1
    assert gate.outgoing(guest).number == 2
    gate.away(guest, guest.here, 0.0)
    gate.tick(KEPT_S - 1)
    again, same, _ = gate.begin(PEER, Standing.GRANTED, begins(epoch=welcome.epoch, heard=1), KEPT_S - 1)
    assert (again, same.epoch) == (guest, welcome.epoch)
    assert [gate.outgoing(guest).item.payload for _ in range(2)] == [b"2", b"3"]
    assert gate.outgoing(guest) is None
    gate.away(guest, guest.here, KEPT_S)
    gate.tick(2 * KEPT_S)
    assert (gate.guests, gate.exchange.subscribers) == ({}, {})
    _, fresh, _ = gate.begin(PEER, Standing.GRANTED, begins(epoch=welcome.epoch, heard=3), 2 * KEPT_S)
    assert fresh.epoch != welcome.epoch
    with pytest.raises(MalformedFrame, match="never said"):
        gate.begin(PEER, Standing.GRANTED, begins(epoch=fresh.epoch, heard=1), 2 * KEPT_S)


def test_one_node_has_so_many_visits_and_those_that_are_away_make_room():
    gate = gates(("#",))
    keys = [bytes([number]) * 16 for number in range(GUESTS_PER_PEER_MAX + 1)]
    guests = [gate.begin(PEER, Standing.GRANTED, begins((str(key[0]),), key=key), 0.0)[0] for key in keys[:-1]]
    with pytest.raises(TooMany, match=f"{GUESTS_PER_PEER_MAX} visits"):
        gate.begin(PEER, Standing.GRANTED, begins(key=keys[-1]), 0.0)
    gate.away(guests[3], guests[3].here, 1.0)
    gate.begin(PEER, Standing.GRANTED, begins(key=keys[-1]), 2.0)
    assert (PEER, keys[3]) not in gate.guests
    assert len(gate.guests) == GUESTS_PER_PEER_MAX
    gate.check()


def test_a_message_crosses_so_many_borders_and_no_more():
    made = exchange()
    far = said(via=tuple(tag(str(number)) for number in range(HOPS_MAX)))
    assert made.leaving(far, beyond=THEIRS, joins=False) is None
    near = said(via=far.via[1:])
    assert made.leaving(near, beyond=THEIRS, joins=True).via == (*near.via, OURS)
    assert made.leaving(near, beyond=near.via[0], joins=True) is None
    assert made.leaving(near, beyond=near.via[0], joins=False) is not None
    assert made.leaving(far, beyond=OURS, joins=False) == far


BAD_ANSWERS = {
    "before a welcome": (False, VisitMessage(1, said(via=(OURS,)))),
    "a second welcome": (True, VisitWelcome(OURS, BOOT, 0)),
    "more taken than was said": (False, VisitWelcome(OURS, BOOT, 1)),
    "taken, and never said": (True, VisitTaken(1)),
    "a number before": (True, VisitMessage(5, said(via=(OURS,)))),
    "a loss that never was": (True, VisitMessage(GAP_MAX + 7, said(via=(OURS,)))),
    "another topic": (True, VisitMessage(6, said(topic="b", via=(OURS,)))),
    "another way": (True, VisitMessage(6, said(via=(tag("else"),)))),
    "a visitor's word": (True, VisitHeard(5)),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_a_gate_that_breaks_the_rules_is_not_believed(name):
    visit = Visit(key=KEY, site=THEIRS, filters=("a",))
    visit.begin()
    welcomed, answer = BAD_ANSWERS[name]
    if welcomed:
        visit.hear(VisitWelcome(OURS, BOOT, 0))
        assert len(visit.hear(VisitMessage(5, said(via=(OURS,))))) == 2
    before = visit.heard
    with pytest.raises(MalformedFrame):
        visit.hear(answer)
    assert visit.heard == before
    visit.check()


def test_what_is_published_has_a_topic_and_a_bounded_payload():
    made = exchange()
    for topic, payload in (("a/#", b""), ("", b""), ("a", bytes(262_145))):
        with pytest.raises(BadTopic):
            made.publish(topic, payload, 0)
    assert made.sequence == 0
