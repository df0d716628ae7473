"""What libzmq holds of its peers, measured from outside."""

import nacl.bindings as sodium
import pytest
from curve_peer import CurvePeer

from atoll.transport import tcp_connection
from atoll.transport.tcp_connection import STRANGER_BYTES_MAX, UnreadMeters, bytes_on_the_wire


@pytest.mark.parametrize("length", [0, 1, 221, 222, 223, 1000, 300_000])
def test_what_a_message_takes_on_the_wire_is_known_to_the_byte(length):
    peer = CurvePeer(None, None, sends=b"C", hears=b"S")
    peer._shared = sodium.crypto_box_beforenm(*peer._short)
    assert len(peer.message(bytes(length))) == bytes_on_the_wire(length)


@pytest.fixture
def taken(monkeypatch):
    """How many bytes libzmq has read of each connection."""
    counts = {}
    monkeypatch.setattr(tcp_connection, "bytes_taken", lambda descriptor: counts[descriptor])
    monkeypatch.setattr(tcp_connection, "QUIET_BYTES_PER_S", 0)
    return counts


def measured(taken, count, *, allowed):
    meters = UnreadMeters()
    for descriptor in range(count):
        meters.begin(descriptor)
        meters.allow(descriptor, allowed)
        taken[descriptor] = 0
    return meters


def test_who_is_not_judged_yet_may_hold_little_and_what_was_read_does_not_count(taken):
    meters = UnreadMeters()
    meters.begin(5)
    meter = meters.allow(5, STRANGER_BYTES_MAX)
    taken[5] = STRANGER_BYTES_MAX
    assert meters.overfull() == []
    taken[5] += 1
    assert meters.overfull() == [5]
    meter.note_frame(1)
    assert meters.overfull() == []
    # More read than came is an error of ours, and no credit.
    meter.note_frame(10 * STRANGER_BYTES_MAX)
    assert meters.overfull() == []
    taken[5] += STRANGER_BYTES_MAX + 1
    assert meters.overfull() == [5]
    meters.forget(5)
    assert meters.overfull() == []


def test_of_all_together_those_go_who_hold_most_and_no_more_of_them_than_needed(taken, monkeypatch):
    monkeypatch.setattr(tcp_connection, "UNREAD_TOTAL_BYTES_MAX", 1000)
    meters = measured(taken, 4, allowed=600)
    taken.update({0: 100, 1: 550, 2: 200, 3: 500})
    assert meters.overfull() == [1]
    taken[1] = 50
    assert meters.overfull() == []


def test_with_many_connections_each_is_looked_at_in_its_turn(taken, monkeypatch):
    monkeypatch.setattr(tcp_connection, "METERS_PER_LOOK_MAX", 10)
    meters = measured(taken, 25, allowed=100)
    taken[24] = 101
    assert [meters.overfull() for _ in range(3)] == [[], [], [24]]
