"""Pairing: who is joined with whom, who must go, and what stays counted."""

import pytest
from examples import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from atoll.actors.tunnel_relay.pairing import End, Pair, Pairing, Refuse
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.tickets import NO_HOLDER, Role, Ticket

NOW = 1_800_000_000.0
TUNNEL = b"t" * 16


def ticket(role, *, tunnel=TUNNEL, life_s=600, quota=1000, **shared):
    return Ticket(role, tunnel, int(NOW) + life_s, quota, NO_HOLDER, b"d" * 16, **shared)


OFFER, CALL = ticket(Role.OFFER), ticket(Role.CALL)


def test_the_first_half_waits_and_the_second_makes_a_pair():
    pairing = Pairing()
    assert pairing.arrive(1, OFFER, NOW) == []
    assert pairing.waiting == 1
    assert pairing.arrive(2, CALL, NOW) == [Pair(TUNNEL, offer=1, call=2, quota_bytes=1000)]
    assert (pairing.waiting, pairing.live) == (0, 1)


def test_it_does_not_matter_who_comes_first():
    pairing = Pairing()
    pairing.arrive(1, CALL, NOW)
    assert pairing.arrive(2, OFFER, NOW) == [Pair(TUNNEL, offer=2, call=1, quota_bytes=1000)]


def test_two_of_the_same_role_are_never_joined_and_the_newest_waits():
    pairing = Pairing()
    pairing.arrive(1, OFFER, NOW)
    assert pairing.arrive(2, OFFER, NOW) == [Refuse(1, Reason.REPLACED)]
    assert pairing.arrive(3, CALL, NOW) == [Pair(TUNNEL, offer=2, call=3, quota_bytes=1000)]


def test_a_newcomer_ends_the_live_tunnel_and_what_was_spent_stays_spent():
    pairing = Pairing()
    pairing.arrive(1, OFFER, NOW)
    pairing.arrive(2, CALL, NOW)
    assert pairing.arrive(3, CALL, NOW) == [End(TUNNEL, Reason.REPLACED)]
    pairing.ended(TUNNEL, 400, by_itself=False)
    assert pairing.arrive(4, OFFER, NOW) == [Pair(TUNNEL, offer=4, call=3, quota_bytes=600, again=True)]
    pairing.ended(TUNNEL, 600, by_itself=True)
    assert pairing.live == 0
    assert pairing.arrive(5, OFFER, NOW) == [Refuse(5, Reason.OVER_QUOTA)]


def test_a_ticket_without_bytes_admits_nobody():
    assert Pairing().arrive(1, ticket(Role.OFFER, quota=0), NOW) == [Refuse(1, Reason.OVER_QUOTA)]


def test_halves_that_disagree_get_the_smaller_quota():
    pairing = Pairing()
    pairing.arrive(1, ticket(Role.OFFER, quota=10), NOW)
    assert pairing.arrive(2, CALL, NOW) == [Pair(TUNNEL, offer=1, call=2, quota_bytes=10)]


def test_a_half_whose_partner_does_not_come_is_told_so():
    pairing = Pairing(waiting_s=5)
    pairing.arrive(1, OFFER, NOW)
    assert pairing.deadline() == NOW + 5
    assert pairing.expire(NOW + 4.9) == []
    assert pairing.expire(NOW + 5) == [Refuse(1, Reason.NO_PARTNER)]
    assert pairing.arrive(2, CALL, NOW + 5) == []


def test_a_half_that_left_is_not_joined():
    pairing = Pairing()
    pairing.arrive(1, OFFER, NOW)
    pairing.leave(1)
    pairing.leave(1)
    assert pairing.arrive(2, CALL, NOW) == []


def test_tunnels_end_with_the_later_of_their_tickets_and_are_then_forgotten():
    pairing = Pairing(waiting_s=1000)
    pairing.arrive(1, ticket(Role.OFFER, life_s=20), NOW)
    pairing.arrive(2, ticket(Role.CALL, life_s=30), NOW)
    pairing.arrive(3, ticket(Role.CALL, tunnel=b"w" * 16, life_s=30), NOW)
    assert pairing.expire(NOW + 20) == []
    assert pairing.expire(NOW + 30) == [End(TUNNEL, Reason.EXPIRED), Refuse(3, Reason.EXPIRED)]
    assert pairing.deadline() is None


def test_showing_a_ticket_again_and_again_costs_no_memory():
    pairing = Pairing()
    for connection in range(1000):
        pairing.arrive(connection, ticket(Role.OFFER, life_s=600 - connection % 2), NOW)
    assert len(pairing._expiries) <= 2


@pytest.mark.parametrize("limit", ["waiting_max", "remembered_max", "tunnels_max"])
def test_a_full_relay_says_so(limit):
    pairing = Pairing(**{limit: 1})
    pairing.arrive(1, OFFER, NOW)
    if limit == "tunnels_max":
        pairing.arrive(2, CALL, NOW)
    assert pairing.arrive(3, ticket(Role.CALL, tunnel=b"o" * 16), NOW) == [Refuse(3, Reason.FULL)]
    # Who is in already may come again: a full relay must not lock its own tunnels out.
    assert Refuse(4, Reason.FULL) not in pairing.arrive(4, OFFER, NOW)


def test_what_the_relay_allows_bounds_what_tickets_allow():
    pairing = Pairing(quota_bytes_max=500, rate_bytes_s_max=70)
    pairing.arrive(1, ticket(Role.OFFER, rate_bytes_s=80), NOW)
    assert pairing.arrive(2, CALL, NOW) == [Pair(TUNNEL, offer=1, call=2, quota_bytes=500, rate_bytes_s=70)]
    pairing.ended(TUNNEL, 500, by_itself=True)
    assert pairing.arrive(3, CALL, NOW) == [Refuse(3, Reason.OVER_QUOTA)]


@pytest.mark.parametrize(("offer", "call", "agreed"), [(0, 0, 0), (5, 0, 5), (0, 6, 6), (5, 6, 5), (6, 5, 5)])
def test_the_lower_rate_of_the_two_halves_counts(offer, call, agreed):
    pairing = Pairing()
    pairing.arrive(1, ticket(Role.OFFER, rate_bytes_s=offer), NOW)
    [pair] = pairing.arrive(2, ticket(Role.CALL, rate_bytes_s=call), NOW)
    assert pair.rate_bytes_s == agreed


def of_purse(role, tunnel, *, purse=b"p" * 8, most=2):
    return ticket(role, tunnel=tunnel.ljust(16), purse=purse, tunnels_max=most)


def test_a_purse_opens_as_many_tunnels_as_its_tickets_say_and_then_says_so():
    pairing = Pairing()
    pairing.arrive(1, of_purse(Role.OFFER, b"one"), NOW)
    pairing.arrive(2, of_purse(Role.CALL, b"one"), NOW)
    pairing.arrive(3, of_purse(Role.OFFER, b"two"), NOW)
    assert pairing.arrive(4, of_purse(Role.OFFER, b"three"), NOW) == [Refuse(4, Reason.TOO_MANY)]
    assert pairing.arrive(5, of_purse(Role.OFFER, b"other", purse=b"q" * 8), NOW) == []
    # Those that are in may be dialled again, and the other half of one that waits may come.
    assert pairing.arrive(6, of_purse(Role.CALL, b"one"), NOW) == [End(b"one".ljust(16), Reason.REPLACED)]
    assert len(pairing.arrive(7, of_purse(Role.CALL, b"two"), NOW)) == 1
    pairing.leave(6)
    assert pairing.arrive(8, of_purse(Role.OFFER, b"three"), NOW) == []
    pairing.ended(b"two".ljust(16), 0, by_itself=True)
    assert pairing.arrive(9, of_purse(Role.OFFER, b"four"), NOW) == []
    pairing.check()


def test_a_draining_relay_takes_nobody_keeps_its_pairs_and_lets_the_waiting_go():
    pairing = Pairing()
    pairing.arrive(1, OFFER, NOW)
    pairing.arrive(2, CALL, NOW)
    pairing.arrive(3, ticket(Role.OFFER, tunnel=b"o" * 16), NOW)
    assert pairing.drain() == [Refuse(3, Reason.DRAINING)]
    assert pairing.arrive(4, ticket(Role.CALL, tunnel=b"o" * 16), NOW) == [Refuse(4, Reason.DRAINING)]
    # Not even a half of a pair: the other end would be cut for somebody who cannot stay.
    assert pairing.arrive(5, CALL, NOW) == [Refuse(5, Reason.DRAINING)]
    assert (pairing.live, pairing.waiting) == (1, 0)
    pairing.check()


def test_closing_lets_everybody_go():
    pairing = Pairing()
    pairing.arrive(1, OFFER, NOW)
    pairing.arrive(2, CALL, NOW)
    pairing.arrive(3, ticket(Role.CALL, tunnel=b"o" * 16), NOW)
    assert pairing.close(Reason.CLOSED) == [Refuse(3, Reason.CLOSED), End(TUNNEL, Reason.CLOSED)]
    pairing.check()


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order: the invariants hold, and a connection is told one final thing at most."""

    def __init__(self):
        super().__init__()
        self.pairing = Pairing(tunnels_max=2, waiting_max=3, waiting_s=10, remembered_max=4)
        self.now = NOW
        self.next_connection = 0
        self.live = {}
        self.open = set()
        self.spent = {}

    def carry_out(self, effects):
        for effect in effects:
            match effect:
                case Refuse(connection):
                    self.open.remove(connection)
                case Pair(tunnel, offer, call, quota):
                    assert quota > 0
                    assert not self.pairing.draining
                    assert {offer, call} <= self.open
                    assert tunnel not in self.live
                    self.live[tunnel] = (offer, call)
                case End(tunnel):
                    self.open -= set(self.live.pop(tunnel))
                    self.pairing.ended(tunnel, 1, by_itself=False)

    @rule(role=st.sampled_from([Role.OFFER, Role.CALL]), tunnel=st.integers(0, 5), life_s=st.integers(1, 50))
    def arrive(self, role, tunnel, life_s):
        self.next_connection += 1
        self.open.add(self.next_connection)
        life_s += int(self.now - NOW)
        purse = bytes([1 + tunnel % 2]) * 8
        good = ticket(role, tunnel=bytes([tunnel]) * 16, life_s=life_s, quota=3, purse=purse, tunnels_max=2)
        self.carry_out(self.pairing.arrive(self.next_connection, good, self.now))

    @rule(choice=st.integers(0, 100))
    def leave(self, choice):
        if self.open:
            connection = sorted(self.open)[choice % len(self.open)]
            ends = [tunnel for tunnel, pair in self.live.items() if connection in pair]
            for tunnel in ends:
                self.open -= set(self.live.pop(tunnel))
                self.pairing.ended(tunnel, 1, by_itself=True)
            self.pairing.leave(connection)
            self.open.discard(connection)

    @rule(really=st.integers(0, 9))
    def drain(self, really):
        if not really:
            self.carry_out(self.pairing.drain())
            assert self.pairing.waiting == 0

    @rule(seconds=st.integers(0, 20))
    def wait(self, seconds):
        self.now += seconds
        self.carry_out(self.pairing.expire(self.now))
        assert self.pairing.deadline() is None or self.pairing.deadline() > self.now

    @invariant()
    def everybody_is_accounted_for(self):
        self.pairing.check()
        assert self.pairing.live == len(self.live)
        assert len(self.open) == self.pairing.waiting + 2 * self.pairing.live


AnyOrder.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=40)
TestAnyOrder = AnyOrder.TestCase
