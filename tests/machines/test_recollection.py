"""A voter whose journal was damaged, input by input: what it must not do, and how it gets its vote back."""

from random import Random

import pytest
from election_inputs import receive

from atoll.actors.elector.election import Election
from atoll.actors.elector.election_state import Role
from atoll.actors.elector.messages import (
    Amnesia,
    Ballot,
    Heartbeat,
    HeartbeatAck,
    Outdated,
    PreVote,
    PreVoteReply,
    Recall,
    Recalled,
    Reform,
    Signing,
    SupernodeElected,
    Vote,
    VoteRequest,
)
from atoll.actors.elector.recollection import Recollection
from atoll.actors.elector.roster import Roster
from atoll.actors.elector.roster_book import RosterBook
from atoll.actors.elector.score import Score
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.runtime.machine import Announce, Arm, Persist, Send, TimerFired, Told
from atoll.testing.elections import SITE, simulated_node, simulated_notary

A, B, C = (simulated_node(number) for number in range(3))
ROSTER = Roster.found(SITE, [A, B, C])
L = ElectionSettings().lease_s
DAMAGE = Amnesia("no record at byte 60 of 120")


def forgetful(*, restored=(), roster=ROSTER):
    election = Election(A, roster, rng=Random(1), notary=simulated_notary(A))
    return election, election.start([*restored, DAMAGE], 0.0)


def recall(election, now):
    effects = election.handle(TimerFired("recall"), now)
    election.check()
    return effects


def sent(effects, kind):
    return [
        (effect.target, effect.message)
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, kind)
    ]


def asked(election):
    """Let it rest, and give the nonce of its questions."""
    questions = sent(recall(election, L), Recall)
    assert [target for target, _ in questions] == [voter for voter in ROSTER.voters if voter != A]
    (nonce,) = {question.nonce for _, question in questions}
    return nonce


def test_it_asks_nobody_before_a_lease_is_over():
    election, effects = forgetful()
    assert election.role is Role.RECALLING
    assert Arm("recall", pytest.approx(L)) in effects
    assert not any(isinstance(effect, Send) for effect in effects)


@pytest.mark.parametrize("restored", [(), (Ballot(3, B, 1),)], ids=["all is lost", "a beginning is left"])
def test_it_neither_votes_nor_stands_nor_acknowledges(restored):
    election, effects = forgetful(restored=restored)
    assert not any(isinstance(effect, Arm) and effect.name == "patience" for effect in effects)
    for now in (0.1, L + 0.1, 100.0):
        (_, reply), *_ = sent(receive(election, B, PreVote(9, 1, Score()), now), PreVoteReply)
        assert reply.refusal == "its journal is damaged, and it may have voted already"
        (_, vote), *_ = sent(receive(election, B, VoteRequest(9, 1), now), Vote)
        assert vote.refusal == reply.refusal
        beat = receive(election, B, Heartbeat(9, 1, "because"), now)
        assert not sent(beat, HeartbeatAck)
        assert not sent(beat, Outdated)
        assert not any(isinstance(effect, Persist) for effect in beat)
    assert election.status(100.0).supernode == B, "it believes in a supernode as a member without a vote does"


def test_it_votes_again_when_all_who_can_know_have_told_their_epochs():
    election, _ = forgetful()
    nonce = asked(election)
    assert receive(election, B, Recalled(nonce, 5, sure=True), L) == []
    assert [target for target, _ in sent(recall(election, L + 0.3), Recall)] == [C]
    effects = receive(election, C, Recalled(nonce, 7, sure=True), L + 0.4)
    assert effects[:2] == [Persist(Ballot(7, A, 1)), Persist(Amnesia())]
    assert (election.role, election.epoch, election.recollection) == (Role.FOLLOWER, 7, None)
    assert "no vote" not in election.status(L + 0.4).why


def test_the_vote_of_the_highest_epoch_it_was_told_counts_as_spent():
    for restored, may_have_it in (((), None), ((Ballot(7, None, 1),), None), ((Ballot(7, B, 1),), B)):
        for candidate in (B, C):
            election, _ = forgetful(restored=restored)
            nonce = asked(election)
            for voter in (B, C):
                receive(election, voter, Recalled(nonce, 7, sure=True), L)
            (_, vote), *_ = sent(receive(election, candidate, VoteRequest(7, 1), L), Vote)
            assert (vote.refusal == "") == (candidate == may_have_it)
            (_, vote), *_ = sent(receive(election, candidate, VoteRequest(8, 1), L), Vote)
            assert vote.refusal == ""


def test_answers_to_another_question_and_of_voters_that_forgot_too_do_not_count():
    election, _ = forgetful()
    nonce = asked(election)
    for voter in (B, C):
        receive(election, voter, Recalled(nonce ^ 1, 5, sure=True), L)
        receive(election, voter, Recalled(nonce, 5, sure=False), L)
    receive(election, simulated_node(9), Recalled(nonce, 5, sure=True), L)
    assert election.role is Role.RECALLING
    assert "so are those of 2 of 2 other voters" in election.status(L).why
    for voter in (B, C):
        receive(election, voter, Recalled(nonce, 5, sure=True), L)
    assert election.role is Role.FOLLOWER


def test_a_voter_tells_its_epoch_and_whether_it_is_sure():
    sound = Election(A, ROSTER, rng=Random(1), notary=simulated_notary(A))
    sound.start([Ballot(4, B, 1)], 0.0)
    assert receive(sound, B, Recall(42), 0.1) == [
        Persist(Signing(None, 4)),
        Send(B, Recalled(42, 4, sure=True, roster_version=1)),
    ]
    assert receive(sound, C, Recall(43), 0.1) == [Send(C, Recalled(43, 4, sure=True, roster_version=1))]
    election, _ = forgetful(restored=[Ballot(4, B, 1)])
    assert receive(election, B, Recall(42), 0.1) == [Send(B, Recalled(42, 4, sure=False, roster_version=1))]


def test_whoever_won_with_a_forgotten_vote_is_always_among_those_who_are_asked():
    for count in range(2, 8):
        roster = Roster.found(SITE, [simulated_node(number) for number in range(count)])
        others, winners = count - 1, roster.quorum - 1
        needed = Recollection("", A, RosterBook(roster, simulated_notary(A)), Random(1)).needed(roster)
        assert others - needed < winners, "so many may be left out that all the winner's voters are"
        assert others - (needed - 1) >= winners, "one answer fewer would not be enough: it asks no more than it must"


def test_the_only_voter_of_a_site_may_have_forgotten_others_and_waits_for_a_person():
    election, _ = forgetful(roster=Roster.found(SITE, [A]), restored=[Ballot(3, A, 1)])
    assert recall(election, 100.0) == [Arm("recall", pytest.approx(0.25))]
    assert "it is the only voter" in election.status(100.0).why
    assert "atoll site reform" in election.status(100.0).why
    assert election.reform_refusal() == ""
    effects = election.handle(Told(Reform("a person's word")), 101.0)
    assert Persist(Amnesia()) in effects
    facts = [
        effect.fact
        for effect in election.handle(TimerFired("patience"), 101.0 + L + 0.01)
        if isinstance(effect, Announce)
    ]
    assert [fact.node for fact in facts if isinstance(fact, SupernodeElected)] == [A]


def test_the_reason_names_the_damage_and_how_many_are_waited_for():
    election, _ = forgetful()
    why = election.status(0.5).why
    assert "this node has no vote, because its election journal is damaged (no record at byte 60 of 120)" in why
    assert "0 of the 2 other voters have answered" in why


def test_what_was_forgotten_once_is_known_after_the_next_start():
    election = Election(A, ROSTER, rng=Random(1), notary=simulated_notary(A))
    election.start([Ballot(3, B, 1), DAMAGE, Ballot(7, A, 1), Amnesia()], 0.0)
    assert election.role is Role.FOLLOWER
    election = Election(A, ROSTER, rng=Random(1), notary=simulated_notary(A))
    election.start([DAMAGE, Ballot(7, A, 1)], 0.0)
    assert election.role is Role.RECALLING
