"""A supernode's node hears when the lease is renewed, and of its end before anybody else can act on it."""

from random import Random

import pytest

from atoll.actors.elector.election import Election
from atoll.actors.elector.messages import (
    HeartbeatAck,
    LeaseEnded,
    LeaseRenewed,
    MemberReachable,
    Outdated,
    PreVoteReply,
    Release,
    Resign,
    Vote,
    VoteRequest,
)
from atoll.actors.elector.roster import Roster
from atoll.actors.elector.score import Score
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.runtime.machine import Announce, Received, Send, TimerFired, Told
from atoll.testing.elections import SITE, simulated_node, simulated_notary

A, B, C = (simulated_node(number) for number in range(3))
ROSTER = Roster.found(SITE, [A, B, C])
LEASE_S = ElectionSettings().lease_s * 0.96


def news(effects):
    facts = [effect.fact for effect in effects if isinstance(effect, Announce)]
    return [fact for fact in facts if isinstance(fact, LeaseRenewed | LeaseEnded)]


def elected():
    election = Election(A, ROSTER, rng=Random(1), notary=simulated_notary(A))
    election.start([], 0.0)
    election.handle(TimerFired("patience"), 1.0)
    assert not news(election.handle(Received(B, PreVoteReply(1, "", 0, Score())), 1.0))
    return election, election.handle(Received(B, Vote(1, "", 1)), 1.0)


def test_a_lease_is_told_with_whose_word_it_rests_on_and_each_time_it_is_renewed():
    election, effects = elected()
    assert news(effects) == [LeaseRenewed(1, pytest.approx(1.0 + LEASE_S), *ROSTER.mark, ROSTER.voters)]
    assert not news(election.handle(TimerFired("heartbeat"), 1.2))
    (renewed,) = news(election.handle(Received(B, HeartbeatAck(1, 2)), 1.21))
    assert renewed.until == pytest.approx(1.2 + LEASE_S)
    assert not news(election.handle(Received(B, HeartbeatAck(1, 2)), 1.22))
    assert not news(election.handle(Received(C, HeartbeatAck(1, 2)), 1.23))


def test_the_end_is_told_before_the_promises_are_released():
    election, _ = elected()
    election.handle(Told(MemberReachable(B)), 1.05)
    effects = election.handle(Told(Resign("to drain")), 1.1)
    assert any(isinstance(effect, Send) and isinstance(effect.message, Release) for effect in effects)
    assert effects[0] == Announce(LeaseEnded(1))


def test_a_lease_that_runs_out_and_one_that_is_given_up_for_a_higher_epoch_are_told():
    election, _ = elected()
    assert news(election.handle(TimerFired("lease"), 1.0 + LEASE_S))[0] == LeaseEnded(1)
    election, _ = elected()
    effects = election.handle(Received(C, Outdated(7)), 1.1)
    assert effects[0] == Announce(LeaseEnded(1))
    assert news(effects) == [LeaseEnded(1)]
    assert [effect.message for effect in effects if isinstance(effect, Send)] == [
        VoteRequest(8, 1, ROSTER.incarnation)
    ] * 2


def test_a_site_of_one_tells_its_lease_in_its_first_step():
    alone = Roster.found(SITE, [A])
    election = Election(A, alone, rng=Random(1), notary=simulated_notary(A))
    (told,) = news(election.start([], 0.0))
    assert (told.epoch, told.voters) == (1, (A,))
