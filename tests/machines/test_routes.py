"""How a node is reached, and the reason that is given."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.router import routes
from atoll.actors.router.routes import BEARER_RETRY_S, RouteTable, Way
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId


def node(number):
    return NodeId(hashlib.sha256(b"%d" % number).digest())


OWN, PEER = node(0), node(1)


@pytest.fixture
def table():
    return RouteTable(OWN)


def test_this_node_is_here(table):
    assert table.route(OWN, 0.0).way is Way.HERE


def test_nobody_knows_a_stranger(table):
    route = table.route(PEER, 0.0)
    assert route.way is Way.NONE
    assert "never heard of" in route.reason


def test_a_link_is_preferred_to_everything(table):
    table.signaling_found(PEER, "relay-1", 100.0)
    table.bearer_open(PEER, "relay-1")
    table.link_up(PEER, Standing.MEMBER)
    assert table.route(PEER, 0.0).way is Way.DIRECT


def test_a_bearer_is_preferred_to_signaling_and_says_why_not_direct(table):
    table.link_up(PEER, Standing.MEMBER)
    table.link_down(PEER, "silent for 3 s")
    table.signaling_found(PEER, "relay-1", 100.0)
    table.bearer_open(PEER, "relay-2")
    route = table.route(PEER, 0.0)
    assert route.way is Way.BEP
    assert "silent for 3 s" in route.reason
    assert "relay-2" in route.reason


def test_a_lost_bearer_falls_back_to_signaling_at_once_with_the_reason(table):
    table.signaling_found(PEER, "relay-1", 100.0)
    table.bearer_open(PEER, "relay-1")
    table.bearer_lost(PEER, "the relay closed it", 1.0)
    route = table.route(PEER, 1.0)
    assert route.way is Way.SEP
    assert "the relay closed it" in route.reason


def test_an_expired_ticket_is_no_route(table):
    table.signaling_found(PEER, "relay-1", 100.0)
    assert table.route(PEER, 99.9).way is Way.SEP
    assert table.route(PEER, 100.0).way is Way.NONE


def test_the_other_relay_goes_on_when_the_ticket_at_one_ends(table):
    table.signaling_found(PEER, "relay-1", 100.0)
    table.signaling_found(PEER, "relay-2", 200.0)
    route = table.route(PEER, 150.0)
    assert route.way is Way.SEP
    assert "relay-2" in route.reason


def test_a_bearer_is_asked_for_after_the_first_answered_call_and_only_once(table):
    table.signaling_found(PEER, "relay-1", 100.0)
    assert not table.bearer_wanted(PEER, 0.0)
    table.bearer_for(PEER, "calls")
    assert table.bearer_wanted(PEER, 0.0)
    table.bearer_asked(PEER)
    assert not table.bearer_wanted(PEER, 0.0)


def test_a_failed_bearer_is_tried_again_only_after_a_while(table):
    table.bearer_for(PEER, "calls")
    table.bearer_asked(PEER)
    table.bearer_lost(PEER, "refused", 10.0)
    assert not table.bearer_wanted(PEER, 10.0 + BEARER_RETRY_S - 0.1)
    assert table.bearer_wanted(PEER, 10.0 + BEARER_RETRY_S)


def test_nobody_asks_for_a_bearer_over_a_live_link(table):
    table.bearer_for(PEER, "calls")
    table.link_up(PEER, Standing.GRANTED)
    assert not table.bearer_wanted(PEER, 0.0)


def test_the_table_is_bounded_and_forgets_no_live_link(monkeypatch):
    monkeypatch.setattr(routes, "PEERS_MAX", 8)
    table = RouteTable(OWN)
    table.link_up(PEER, Standing.MEMBER)
    for number in range(2, 40):
        table.signaling_found(node(number), "relay-1", 100.0)
    assert len(table) == 8
    assert table.route(PEER, 0.0).way is Way.DIRECT


EVENTS = st.lists(
    st.tuples(st.sampled_from(["up", "down", "found", "lost", "open", "closed", "asked", "called"]), st.integers(1, 3)),
    max_size=40,
)


@given(EVENTS)
def test_every_order_of_events_gives_the_best_way_there_is(events):
    table, live, bearers, signaling = RouteTable(OWN), set(), set(), set()
    for name, number in events:
        peer = node(number)
        match name:
            case "up":
                table.link_up(peer, Standing.MEMBER)
                live.add(peer)
            case "down":
                table.link_down(peer, "gone")
                live.discard(peer)
            case "found":
                table.signaling_found(peer, "relay-1", 100.0)
                signaling.add(peer)
            case "lost":
                table.signaling_over(peer)
                signaling.discard(peer)
            case "open":
                table.bearer_open(peer, "relay-1")
                bearers.add(peer)
            case "closed":
                table.bearer_lost(peer, "gone", 0.0)
                bearers.discard(peer)
            case "asked":
                table.bearer_asked(peer)
            case "called":
                table.bearer_for(peer, "calls")
    for number in (1, 2, 3):
        peer = node(number)
        best = (
            Way.DIRECT if peer in live else Way.BEP if peer in bearers else Way.SEP if peer in signaling else Way.NONE
        )
        route = table.route(peer, 1.0)
        assert route.way is best
        assert route.reason
