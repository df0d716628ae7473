"""The election machine and its rosters: proposed, signed, in force, and what ends a reign."""

from random import Random

import pytest
from certified_rosters import FIRST, SECOND, SITE, A, B, C, D, E, book, certified, notary
from election_inputs import fire, receive, tell
from msgspec.structs import replace

from atoll.actors.elector.election import Election
from atoll.actors.elector.election_state import Role
from atoll.actors.elector.messages import (
    Ballot,
    Fitness,
    Heartbeat,
    HeartbeatAck,
    Leave,
    Leaving,
    MemberReachable,
    PlacementSettled,
    PreVote,
    PreVoteReply,
    Reform,
    Release,
    RosterChain,
    RosterInForce,
    RosterProposed,
    RosterSigned,
    Signing,
    SupernodeElected,
    Vote,
    VoteRequest,
)
from atoll.actors.elector.roster import FIRST_INCARNATION, Roster
from atoll.actors.elector.score import Score
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.runtime.machine import Announce, Persist, Send

L = ElectionSettings().lease_s
SETTINGS = ElectionSettings(settle_s=1.0)


def machine(own=A, roster=FIRST, *, restored=(), gated=False, named=(), now=0.0):
    election = Election(
        own, roster, rng=Random(1), notary=notary(own), settings=SETTINGS, gated=gated, named=named, score=Score()
    )
    return election, election.start(list(restored), now)


def sent(effects, kind):
    return [
        (effect.target, effect.message)
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, kind)
    ]


def announced(effects, kind):
    return [effect.fact for effect in effects if isinstance(effect, Announce) and isinstance(effect.fact, kind)]


def supernode(*, pending=None, now=1.0, voters=(B,), **more):
    """Make A supernode of epoch 1."""
    election, _ = machine(**more)
    fire(election, "patience", now)
    for voter in voters:
        receive(election, voter, PreVoteReply(1, "", 0, Score()), now)
    for voter in voters:
        effects = receive(election, voter, Vote(1, "", 1, pending), now)
    return election, effects


def beat(election, now, *voters):
    """Let a heartbeat go out and be acknowledged."""
    effects = fire(election, "heartbeat", now)
    incarnation, version = election.roster.mark
    for voter in voters:
        ack = HeartbeatAck(election.epoch, election.reign.sequence, version, incarnation)
        effects += receive(election, voter, ack, now)
    return effects


def signed(election, voter, proposal, now):
    answer = RosterSigned(proposal.epoch, proposal.version, notary(voter).signature(proposal))
    return receive(election, voter, answer, now)


def following(own=B, epoch=1, **more):
    election, _ = machine(own, **more)
    receive(election, A, Heartbeat(epoch, 1, "because", 1), 1.0)
    return election


PROPOSAL = FIRST.next([A, B], 1, "without one")


def test_a_signature_is_on_disk_before_it_is_sent():
    election = following()
    effects = receive(election, A, RosterProposed(1, PROPOSAL), 1.1)
    assert effects[0] == Persist(Signing(PROPOSAL))
    ((target, answer),) = sent(effects, RosterSigned)
    assert target == A
    assert notary().signed(PROPOSAL, B, answer.signature)
    assert not notary().signed(replace(PROPOSAL, epoch=2), B, answer.signature)


def test_the_same_proposal_is_signed_again_without_another_write():
    election = following()
    first, again = (receive(election, A, RosterProposed(1, PROPOSAL), now) for now in (1.1, 1.2))
    assert sent(first, RosterSigned) == sent(again, RosterSigned)
    assert not any(isinstance(effect, Persist) for effect in again)


@pytest.mark.parametrize(
    ("proposal", "words"),
    [
        (replace(PROPOSAL, epoch=2), "not of the epoch"),
        (FIRST.next([A], 1, ""), "changes 2 voters"),
        (FIRST.next([A, B, D], 1, ""), "changes 2 voters"),
        (SECOND.next([A, B, C], 1, ""), "does not follow"),
        (replace(PROPOSAL, voters=(B, A)), "not sorted"),
    ],
)
def test_a_voter_says_why_it_does_not_sign(proposal, words):
    election = following()
    effects = receive(election, A, RosterProposed(proposal.epoch, proposal), 1.1)
    ((_, answer),) = sent(effects, RosterSigned)
    assert words in answer.refusal
    assert answer.signature == b""
    assert not any(isinstance(effect, Persist) for effect in effects)


def test_a_second_proposal_of_the_same_epoch_is_not_signed():
    election = following()
    receive(election, A, RosterProposed(1, PROPOSAL), 1.1)
    ((_, answer),) = sent(receive(election, A, RosterProposed(1, FIRST.next([A, C], 1, "")), 1.2), RosterSigned)
    assert answer.refusal == "another one was signed in this epoch"


def test_only_voters_may_propose():
    election = following()
    assert not receive(election, D, RosterProposed(1, PROPOSAL), 1.1)


def test_a_vote_tells_what_was_signed_even_after_a_restart():
    election, _ = machine(B, restored=[Ballot(1, A, 1), Signing(PROPOSAL)], now=5.0)
    ((_, vote),) = sent(receive(election, C, VoteRequest(2, 1), 5.0 + L), Vote)
    assert vote.pending == PROPOSAL
    election, _ = machine(B, roster=FIRST, restored=[RosterChain((FIRST, SECOND)), Ballot(1, A, 1), Signing(PROPOSAL)])
    ((_, vote),) = sent(receive(election, C, VoteRequest(2, 2), L), Vote)
    assert vote.pending is None


def test_a_new_supernode_finishes_the_newest_proposal_under_its_own_epoch():
    older, newer = FIRST.next([A, C], 0, "older"), replace(PROPOSAL, epoch=0)
    election, effects = supernode(pending=newer, restored=[Signing(replace(older, epoch=0))], gated=True)
    proposals = {message.proposal for _, message in sent(effects + beat(election, 1.1, B), RosterProposed)}
    assert len(proposals) == 1
    (proposal,) = proposals
    assert proposal.epoch == 1
    assert proposal.digest in (older.digest, newer.digest)


def test_a_supernode_finishes_what_a_later_epoch_signed_rather_than_an_older_one():
    older, newer = FIRST.next([A, C], 1, "older"), FIRST.next([A, B], 2, "newer")
    election, _ = machine(restored=[Ballot(3, A, 1), Signing(older)])
    fire(election, "patience", 2.0)
    receive(election, B, PreVoteReply(4, "", 3, Score()), 2.0)
    effects = receive(election, B, Vote(4, "", 4, newer), 2.0)
    assert [message.proposal.digest for _, message in sent(effects, RosterProposed)][:1] == [newer.digest]


def joined(election, node=D, now=1.0, after=1.2):
    """A member comes into reach and stays for long enough."""
    tell(election, MemberReachable(node), now)
    receive(election, node, Fitness(Score(), 1), now)
    return now + after


def shrinking(**more):
    """A supernode whose voter C leaves in good order, while B is in reach."""
    election, _ = supernode(**more)
    for voter in (B, C):
        tell(election, MemberReachable(voter), 1.0)
    receive(election, C, Leaving("sold"), 1.1)
    return election


def test_a_majority_of_signatures_of_its_epoch_makes_a_roster_final():
    election = shrinking()
    beat(election, 1.2, B)
    ((_, first), (_, second)) = sent(beat(election, 1.3, B), RosterProposed)
    proposal = first.proposal
    assert first == second
    assert proposal.voters == tuple(sorted([A, B]))
    assert "it leaves: sold" in proposal.reason
    stale = RosterSigned(0, 2, notary(B).signature(replace(proposal, epoch=0)))
    assert not announced(receive(election, B, stale, 1.3), RosterInForce)
    forged = RosterSigned(1, 2, notary(C).signature(proposal))
    assert not announced(receive(election, B, forged, 1.3), RosterInForce)
    assert not announced(receive(election, D, RosterSigned(1, 2, notary(D).signature(proposal)), 1.3), RosterInForce)
    effects = signed(election, B, proposal, 1.3)
    (fact,) = announced(effects, RosterInForce)
    assert fact.voters == proposal.voters
    chain = next(effect.record for effect in effects if isinstance(effect, Persist))
    assert chain.rosters[-1].version == 2
    assert {target for target, _ in sent(effects, RosterChain)} == {B, C}
    assert election.status(1.3).roster_reason == proposal.reason
    assert election.quorum == election.reign.quorum == 2
    assert book(FIRST).take(chain)


def test_a_change_waits_for_the_placement_and_for_a_majority_that_has_the_roster():
    election = shrinking(gated=True)
    beat(election, 1.15, B)
    assert not sent(beat(election, 1.2, B), RosterProposed)
    tell(election, PlacementSettled(0, *FIRST.mark), 1.3)
    tell(election, PlacementSettled(1, FIRST_INCARNATION, 2), 1.3)
    assert not sent(beat(election, 1.3, B), RosterProposed)
    tell(election, PlacementSettled(1, *FIRST.mark), 1.4)
    assert sent(beat(election, 1.4, B), RosterProposed)
    election = shrinking()
    fire(election, "heartbeat", 1.2)
    receive(election, B, HeartbeatAck(1, election.reign.sequence, 0), 1.2)
    assert not sent(beat(election, 1.4), RosterProposed)


def test_whom_a_supernode_adds_acknowledges_heartbeats_before_it_votes():
    election, _ = supernode(roster=Roster.found(SITE, [A, B]), voters=(B,), named=(A, B, D))
    tell(election, MemberReachable(B), 1.0)
    now = joined(election)
    beat(election, 1.6, B)
    ((target, invitation),) = sent(fire(election, "heartbeat", now), RosterProposed)
    assert target == D
    guest, _ = machine(D, roster=Roster.found(SITE, [A, B]))
    assert not sent(receive(guest, A, Heartbeat(1, 9, "", 1), 2.0), HeartbeatAck), "nobody has invited it"
    receive(guest, A, invitation, 2.0)
    effects = receive(guest, A, Heartbeat(1, 9, "", 1), 2.0)
    ((_, ack),) = sent(effects, HeartbeatAck)
    assert effects.index(Persist(Ballot(1, A, 1))) < effects.index(Send(A, ack))
    assert guest.role is Role.BYSTANDER
    assert not sent(receive(guest, B, Heartbeat(1, 9, "", 1), 2.0), HeartbeatAck)
    assert [target for target, _ in sent(beat(election, 2.3, B, D), RosterProposed)] == [D, B, D]
    effects = signed(election, B, invitation.proposal, 2.4)
    assert announced(effects, RosterInForce)[0].voters == tuple(sorted([A, B, D]))
    assert election.lease_held(2.4)
    ((_, chain), *_) = sent(effects, RosterChain)
    receive(guest, A, chain, 2.5)
    assert guest.role is Role.FOLLOWER


def test_a_member_that_does_not_answer_its_invitation_is_passed_over():
    election, _ = supernode(roster=Roster.found(SITE, [A, B]), voters=(B,), named=(A, B, D))
    tell(election, MemberReachable(B), 1.0)
    joined(election)
    now, asked = 1.0, 0
    while now < 8.0:
        now += 0.2
        asked += len(sent(beat(election, now, B), RosterProposed))
    assert 10 < asked < 20
    assert election.status(now).change == ""
    assert election.roster.version == 1


def test_a_final_roster_is_not_put_in_force_before_the_lease_holds_under_it():
    election, _ = machine(roster=Roster.found(SITE, [A]))
    tell(election, MemberReachable(D), 0.1)
    tell(election, MemberReachable(E), 0.1)
    for step in range(1, 20):
        effects = fire(election, "heartbeat", step * 0.2)
    newcomer = election.rosters.change.newcomer
    assert newcomer in (D, E)
    assert election.roster.version == 1
    assert not any(isinstance(effect, Persist) for effect in effects)
    effects = receive(election, newcomer, HeartbeatAck(1, election.reign.sequence, 1), 3.9)
    assert announced(effects, RosterInForce)[0].voters == tuple(sorted([A, newcomer]))
    assert election.lease_held(3.9)


def test_a_supernode_may_take_itself_out_and_names_its_heir():
    election, _ = supernode()
    for voter in (B, C):
        tell(election, MemberReachable(voter), 1.0)
    assert {target for target, _ in sent(tell(election, Leave("it is sold"), 1.1), Leaving)} == {B, C}
    beat(election, 1.2, B)
    ((_, message), *_) = sent(beat(election, 1.25, B), RosterProposed)
    assert message.proposal.voters == tuple(sorted([B, C]))
    effects = signed(election, B, message.proposal, 1.3)
    assert election.role is Role.BYSTANDER
    assert not election.lease_held(1.3)
    releases = dict(sent(effects, Release))
    assert set(releases) == {B, C}
    heir = releases[B].successor
    successor = following(heir)
    ((_, chain), *_) = sent(effects, RosterChain)
    receive(successor, A, chain, 1.3)
    assert sent(receive(successor, A, releases[heir], 1.35), VoteRequest)


def test_a_lease_is_worth_nothing_under_a_roster_that_has_not_promised():
    election, _ = supernode()
    chain = RosterChain((FIRST, certified(FIRST, [A, B, C, D], [B, C])))
    effects = receive(election, C, chain, 1.1)
    assert not election.lease_held(1.1), "two of four voters have promised"
    assert election.role is Role.FOLLOWER
    assert election.quorum == 3
    assert effects


def test_a_roster_of_a_later_epoch_ends_a_reign_and_raises_the_epoch():
    election, _ = supernode(voters=(B, C))
    effects = receive(election, C, RosterChain((certified(FIRST, [A, B, C, D], [B, C], epoch=5),)), 1.1)
    assert election.role is Role.FOLLOWER
    assert election.epoch == 5
    assert Persist(Ballot(5, None, 2)) in effects


def test_who_is_taken_out_votes_no_more_and_who_comes_in_votes():
    election = following(C)
    receive(election, A, RosterChain((certified(FIRST, [A, B], [A, B]),)), 1.1)
    assert election.role is Role.BYSTANDER
    assert not sent(receive(election, B, VoteRequest(9, 2), 9.0), Vote)


def test_whoever_asks_with_an_older_roster_is_refused_and_told_the_newer_one():
    election, _ = machine(B)
    election.rosters.book.adopt(SECOND)
    election.voter.roster = SECOND.mark
    effects = receive(election, A, VoteRequest(3, 1), 1.0)
    ((_, vote),) = sent(effects, Vote)
    assert vote.refusal == "its roster is older than ours"
    assert sent(effects, RosterChain) == [(A, RosterChain((FIRST, SECOND)))]
    behind, _ = machine(A)
    assert sent(receive(behind, B, PreVote(3, 2, Score()), 1.0), Fitness) == [(B, Fitness(Score(), 1))]


def test_a_reformed_site_has_one_voter_that_rests_a_lease_and_a_far_higher_epoch():
    election = following()
    effects = tell(election, Reform("the others are gone"), 5.0)
    assert election.roster.voters == (B,)
    assert election.epoch >= 2**20
    assert not election.lease_held(5.0)
    assert next(effect for effect in effects if isinstance(effect, Persist)).record == RosterChain((election.roster,))
    (elected,) = announced(fire(election, "patience", 5.0 + L + 0.01), SupernodeElected)
    assert (elected.node, elected.confirmed) == (B, True)
    other, _ = machine(C)
    receive(other, B, RosterChain((election.roster,)), 6.0)
    assert other.role is Role.BYSTANDER
    assert other.status(6.0).roster_reason == "the others are gone"


def test_a_reform_is_spoken_against_while_a_majority_lives():
    election = following()
    assert "nothing needs to be reformed" in election.reform_refusal()
    election, _ = machine(B)
    assert election.reform_refusal() == ""
    tell(election, MemberReachable(A), 0.0)
    assert "an election is under way; wait for it" in election.reform_refusal()
    newcomer, _ = machine(D, roster=Roster())
    assert newcomer.reform_refusal() == ""


def test_what_is_on_disk_wins_over_the_voters_of_a_config():
    changed = Roster.found(SITE, [A, D])
    election, _ = machine(roster=changed, restored=[RosterChain((FIRST,))])
    assert election.roster == FIRST
    _, effects = machine()
    assert effects[0] == Persist(RosterChain((FIRST,)))
