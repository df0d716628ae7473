"""The election machine, input by input."""

from random import Random

import pytest
from election_inputs import fire, receive, tell
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.elector.election import Election
from atoll.actors.elector.election_state import Role
from atoll.actors.elector.messages import (
    EPOCH_MAX,
    MESSAGES,
    Ballot,
    Fitness,
    Heartbeat,
    HeartbeatAck,
    LeaseEnded,
    LeaseRenewed,
    MemberReachable,
    MemberUnreachable,
    Outdated,
    Presiding,
    PreVote,
    PreVoteReply,
    Recall,
    Release,
    Resign,
    RosterChain,
    RosterInForce,
    RosterProposed,
    RosterSigned,
    ScoreChanged,
    SupernodeElected,
    SupernodeLost,
    Vote,
    VoteRequest,
)
from atoll.actors.elector.roster import Roster
from atoll.actors.elector.score import Score
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.runtime.machine import Announce, Arm, Persist, Received, Send, TimerFired, Told
from atoll.testing.elections import SITE, simulated_node, simulated_notary
from atoll.transport.codec import Codec
from atoll.transport.errors import MalformedFrame, UsageError
from atoll.transport.keys import SiteKeys

A, B, C, D = (simulated_node(number) for number in range(4))
ROSTER = Roster.found(SITE, [A, B, C])
L = ElectionSettings().lease_s


def machine(own=A, roster=ROSTER, *, restored=(), now=0.0, score=None):
    election = Election(own, roster, rng=Random(1), notary=simulated_notary(own), score=score)
    return election, election.start(list(restored), now)


def sent(effects, kind):
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


def announced(effects):
    """Give what is announced, but for the lease; `test_lease_news.py` is about that."""
    facts = [effect.fact for effect in effects if isinstance(effect, Announce)]
    return [fact for fact in facts if not isinstance(fact, LeaseRenewed | LeaseEnded)]


def supernode(now=1.0):
    """Make A supernode of epoch 1 with the vote of B; C is silent."""
    election, _ = machine()
    fire(election, "patience", now)
    receive(election, B, PreVoteReply(1, "", 0, Score()), now)
    return election, receive(election, B, Vote(1, "", 1), now)


def follower_of(sender=B, epoch=1, now=1.0):
    election, _ = machine()
    return election, receive(election, sender, Heartbeat(epoch, 1, "because"), now)


def test_a_site_of_one_elects_itself_in_its_first_step():
    roster = Roster.found(SITE, [A])
    election, effects = machine(roster=roster)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(Announce)
    assert announced(effects) == [SupernodeElected(A, 1, confirmed=True, reason="the only voter of its site")]
    assert election.lease_held(0.5)


def test_a_site_of_one_waits_a_lease_after_a_restart():
    roster = Roster.found(SITE, [A])
    election, effects = machine(roster=roster, restored=[Ballot(4, A, 1)], now=100.0)
    assert not announced(effects)
    assert Arm("patience", pytest.approx(L)) in effects
    assert [fact.epoch for fact in announced(fire(election, "patience", 100.0 + L))] == [5]


def test_asking_raises_no_epoch_and_standing_writes_its_own_vote_first():
    election, _ = machine()
    effects = fire(election, "patience", 1.0)
    assert election.epoch == 0
    assert [m.epoch for m in sent(effects, PreVote)] == [1, 1]
    effects = receive(election, B, PreVoteReply(1, "", 0, Score()), 1.0)
    assert effects[0] == Persist(Ballot(1, A, 1))
    assert len(sent(effects, VoteRequest)) == 2


def test_voters_that_are_silent_are_asked_again_and_those_who_answered_are_not():
    election, _ = machine()
    effects = fire(election, "patience", 1.0)
    again = next(effect for effect in effects if isinstance(effect, Arm) and effect.name == "again")
    assert len(sent(fire(election, "again", 1.0 + again.after), PreVote)) == 2
    receive(election, B, PreVoteReply(1, "promised to another", 0, Score()), 1.1)
    assert [effect.target for effect in fire(election, "again", 1.1) if isinstance(effect, Send)] == [C]
    receive(election, C, PreVoteReply(1, "", 0, Score()), 1.1)
    assert election.role is Role.CANDIDATE
    effects = fire(election, "again", 1.15)
    assert [(effect.target, effect.message) for effect in effects if isinstance(effect, Send)] == [
        (voter, VoteRequest(1, 1)) for voter in ROSTER.voters if voter != A
    ]
    receive(election, B, Vote(1, "", 1), 1.2)
    assert fire(election, "again", 1.2) == []


def test_a_majority_of_votes_makes_a_supernode_that_says_why():
    election, effects = supernode()
    fact = announced(effects)[0]
    assert (fact.node, fact.epoch, fact.confirmed) == (A, 1, True)
    assert fact.reason.startswith("2 of 3 voters chose it; ")
    assert len(sent(effects, Heartbeat)) == 2
    assert election.status(1.0).lease_remaining_s == pytest.approx(L * 0.96)


def test_votes_that_come_after_the_lease_they_would_give_are_worth_nothing():
    election, _ = machine()
    fire(election, "patience", 1.0)
    receive(election, B, PreVoteReply(1, "", 0, Score()), 1.0)
    effects = receive(election, B, Vote(1, "", 1), 1.0 + L)
    assert not announced(effects)
    assert sent(effects, Release) == [Release(1)] * 2


def test_a_vote_of_an_earlier_candidacy_does_not_count_in_this_one():
    election, _ = machine()
    fire(election, "patience", 1.0)
    receive(election, B, PreVoteReply(1, "", 0, Score()), 1.0)
    fire(election, "patience", 1.5)  # gives epoch 1 up, asks again
    receive(election, C, PreVoteReply(2, "", 1, Score()), 1.5)
    assert (election.role, election.epoch) == (Role.CANDIDATE, 2)
    assert receive(election, B, Vote(1, "", 1), 1.6) == []
    assert election.role is Role.CANDIDATE


def test_the_lease_counts_from_when_an_acknowledged_heartbeat_was_sent():
    election, _ = supernode(now=1.0)
    fire(election, "heartbeat", 1.2)
    receive(election, B, HeartbeatAck(1, 2), 1.8)
    assert election.status(1.8).lease_remaining_s == pytest.approx(1.2 + L * 0.96 - 1.8)


def test_an_acknowledgement_of_another_epoch_prolongs_nothing():
    election, _ = supernode(now=1.0)
    fire(election, "heartbeat", 1.2)
    before = election.status(1.3)
    receive(election, B, HeartbeatAck(7, 2), 1.3)
    receive(election, B, HeartbeatAck(1, 99), 1.3)
    assert election.status(1.3) == before


def test_a_lease_that_ran_out_while_the_process_stood_still_is_not_shown_as_confirmed():
    election, _ = supernode(now=1.0)
    assert election.status(1.5).confirmed
    shown = election.status(1.0 + L)
    assert (shown.supernode, shown.confirmed, shown.lease_remaining_s) == (A, False, 0.0)


def test_a_release_in_its_own_name_does_not_end_a_supernode_s_promise():
    election, _ = supernode(now=1.0)
    assert receive(election, A, Release(1), 1.1) == []
    assert (election.ignored, election.lease_held(1.1)) == (1, True)


def test_one_word_of_one_voter_does_not_use_up_all_epochs():
    election, _ = supernode(now=1.0)
    assert receive(election, B, Outdated(EPOCH_MAX), 1.1) == []
    assert (election.ignored, election.epoch) == (1, 1)
    assert sent(receive(election, B, Outdated(2**30), 1.1), VoteRequest)[0].epoch == 2**30 + 1


def test_the_supernode_is_shown_with_its_own_epoch_though_a_vote_of_a_later_one_is_cast():
    election, _ = follower_of(B, epoch=1, now=1.0)
    (vote,) = sent(receive(election, C, VoteRequest(2, 1), 1.0 + L), Vote)
    assert vote.refusal == ""
    shown = election.status(1.0 + L)
    assert (shown.supernode, shown.epoch, election.epoch) == (B, 1, 2)


def test_a_supernode_steps_down_when_its_lease_is_over_and_says_so():
    election, _ = supernode(now=1.0)
    assert not election.lease_held(1.0 + L)
    (fact,) = announced(fire(election, "lease", 1.0 + L))
    assert isinstance(fact, SupernodeLost)
    assert "1 of 3 voters in reach, 2 needed: no majority" in fact.reason
    assert election.role is Role.FOLLOWER


def test_a_host_that_slept_finds_its_lease_gone_at_the_first_input():
    election, _ = supernode(now=1.0)
    effects = receive(election, B, HeartbeatAck(1, 1), 3600.0)
    assert [type(fact) for fact in announced(effects)] == [SupernodeLost]


def test_a_vote_is_on_disk_before_it_is_sent():
    election, _ = machine()
    effects = receive(election, B, VoteRequest(1, 1), 1.0)
    assert effects == [Persist(Ballot(1, B, 1)), Send(B, Vote(1, "", 1))]


def test_a_promised_voter_refuses_even_a_higher_epoch_until_its_promise_is_over():
    election, _ = follower_of(B, now=1.0)
    (vote,) = sent(receive(election, C, VoteRequest(9, 1), 1.0 + L - 0.01), Vote)
    assert vote == Vote(9, "promised to another", 1)
    (vote,) = sent(receive(election, C, VoteRequest(9, 1), 1.0 + L + 0.01), Vote)
    assert not vote.refusal


def test_a_vote_of_an_epoch_is_given_once():
    election, _ = machine()
    receive(election, B, VoteRequest(1, 1), 1.0)
    (vote,) = sent(receive(election, C, VoteRequest(1, 1), 5.0), Vote)
    assert vote.refusal == "the vote of this epoch is spent"
    (vote,) = sent(receive(election, B, VoteRequest(1, 1), 5.0), Vote)
    assert not vote.refusal


def test_a_restarted_voter_waits_a_lease_if_and_only_if_it_has_a_ballot():
    election, _ = machine(restored=[Ballot(3, B, 1)], now=10.0)
    (vote,) = sent(receive(election, C, VoteRequest(4, 1), 10.0 + L - 0.01), Vote)
    assert vote.refusal == "just restarted, older promises may still bind"
    (vote,) = sent(receive(election, C, VoteRequest(4, 1), 10.0 + L), Vote)
    assert not vote.refusal
    fresh, _ = machine(now=10.0)
    (vote,) = sent(receive(fresh, C, VoteRequest(4, 1), 10.0), Vote)
    assert not vote.refusal


def test_a_candidate_with_an_older_roster_is_refused():
    election, _ = machine()
    (vote,) = sent(receive(election, B, VoteRequest(1, 0), 1.0), Vote)
    assert vote.refusal == "its roster is older than ours"


def test_who_is_not_on_the_roster_is_not_counted_and_not_answered():
    election, _ = machine()
    assert receive(election, D, VoteRequest(1, 1), 1.0) == []
    fire(election, "patience", 1.0)
    assert receive(election, D, PreVoteReply(1, "", 0, Score()), 1.0) == []
    assert election.ignored == 2


def test_a_heartbeat_of_a_left_epoch_is_answered_with_ours_and_the_supernode_stands_above_it():
    voter, _ = follower_of(B, epoch=5)
    (answer,) = sent(receive(voter, C, Heartbeat(4, 1, ""), 1.1), Outdated)
    assert answer.epoch == 5
    election, _ = supernode()
    effects = receive(election, C, answer, 1.1)
    assert effects[2] == Persist(Ballot(6, A, 1))
    assert not election.lease_held(1.1)
    (elected,) = announced(receive(election, B, Vote(6, "", 6), 1.1))
    assert elected.epoch == 6


def test_a_candidate_that_gives_up_frees_its_voters():
    voter, _ = machine(own=C)
    receive(voter, A, VoteRequest(1, 1), 1.0)
    receive(voter, A, Release(1), 1.1)
    (vote,) = sent(receive(voter, B, VoteRequest(2, 1), 1.1), Vote)
    assert not vote.refusal


def test_a_release_that_comes_late_does_not_end_a_promise_of_a_later_epoch():
    voter, _ = machine(own=C)
    receive(voter, A, Heartbeat(2, 1, ""), 1.0)
    receive(voter, A, Release(1), 1.1)
    (vote,) = sent(receive(voter, B, VoteRequest(3, 1), 1.1), Vote)
    assert vote.refusal == "promised to another"


def test_a_planned_transfer_gives_up_the_lease_first_and_lets_the_successor_stand_at_once():
    election, _ = supernode()
    tell(election, MemberReachable(B), 1.1)
    effects = tell(election, Resign("to drain"), 1.1)
    assert not election.lease_held(1.1)
    assert [fact.reason for fact in announced(effects)] == [f"to drain; handed over to {B.short}"]
    (release, _) = sent(effects, Release)
    successor, _ = machine(own=B)
    receive(successor, A, Heartbeat(1, 1, ""), 1.0)
    assert sent(receive(successor, A, release, 1.1), VoteRequest) == [VoteRequest(2, 1)] * 2
    (vote,) = sent(receive(election, B, VoteRequest(2, 1), 1.2), Vote)
    assert not vote.refusal


def test_a_supernode_hands_over_when_another_has_been_better_for_long_enough():
    election, _ = supernode(now=1.0)
    tell(election, MemberReachable(B), 1.0)
    receive(election, B, Fitness(Score(mains=True), 1), 1.0)
    now, handed = 1.0, []
    while not handed and now < 60.0:
        now += 0.2
        fire(election, "heartbeat", now)
        receive(election, B, HeartbeatAck(1, election.reign.sequence), now)
        if round(now * 5) % 5 == 0:
            handed = announced(fire(election, "tick", now))
    assert 30.0 <= now - 1.0 <= 33.0
    assert handed[0].reason.endswith("on mains power")


def test_a_supernode_keeps_its_place_when_the_better_one_does_not_stay_better():
    election, _ = supernode(now=1.0)
    tell(election, MemberReachable(B), 1.0)
    for step in range(1, 300):
        now = 1.0 + step * 0.2
        fire(election, "heartbeat", now)
        receive(election, B, HeartbeatAck(1, election.reign.sequence), now)
        receive(election, B, Fitness(Score(mains=step % 100 != 0), 1), now)
        assert not announced(fire(election, "tick", now))


def test_the_fittest_voter_draws_the_shortest_delay():
    best, _ = machine(score=Score(mains=True))
    worst, _ = machine()
    for election, other in ((best, Score()), (worst, Score(mains=True))):
        for peer in (B, C):
            receive(election, peer, Fitness(other, 1), 0.0)
    assert max(best.patience.delay(ROSTER) for _ in range(50)) <= 0.125, "known ranks leave little to chance"
    assert min(worst.patience.delay(ROSTER) for _ in range(50)) >= 0.3


def test_a_member_without_a_vote_learns_the_roster_and_the_supernode_and_forgets_a_silent_one():
    member, _ = machine(own=D, roster=Roster())
    assert member.status(0.0).why.startswith("no roster of this site is known yet: `atoll site reform`")
    effects = receive(member, B, RosterChain((ROSTER,)), 0.0)
    assert effects[0] == Persist(RosterChain((ROSTER,)))
    assert announced(effects) == [RosterInForce(*ROSTER.mark, ROSTER.voters, "")]
    effects = receive(member, A, Presiding(3, True, "chosen", Score()), 1.0)
    assert announced(effects) == [SupernodeElected(A, 3, confirmed=True, reason="chosen")]
    assert not announced(fire(member, "tick", 3.9))
    (lost,) = announced(fire(member, "tick", 4.0))
    assert lost == SupernodeLost(A, 3, f"{A.short} has been silent for 3 s")


def test_a_roster_of_another_site_or_a_second_one_is_not_taken():
    foreign = Roster.found(SiteKeys(bytes(32)), [D])
    member, _ = machine(own=D, roster=Roster())
    assert receive(member, B, RosterChain((foreign,)), 0.0) == []
    assert member.roster.version == 0
    receive(member, B, RosterChain((ROSTER,)), 0.0)
    assert receive(member, B, RosterChain((Roster.found(SITE, [D]),)), 0.0) == []
    assert member.roster == ROSTER
    assert "another roster of version 1 is known here" in member.status(0.0).change
    with pytest.raises(MalformedFrame, match="not made with this site's secret"):
        machine(own=D, roster=foreign)


def test_a_restarted_member_takes_the_newer_roster_from_disk():
    member, _ = machine(own=D, roster=Roster(), restored=[RosterChain((ROSTER,)), Ballot(0, None, 1)])
    assert member.roster == ROSTER


def test_whoever_asks_with_an_older_roster_is_sent_ours():
    election, _ = machine()
    assert receive(election, D, Fitness(Score(), 0), 1.0) == [Send(D, RosterChain((ROSTER,)))]


def test_without_a_majority_the_fittest_in_reach_serves_provisionally_until_one_is_back():
    election, _ = machine(score=Score(mains=True))
    tell(election, MemberReachable(D), 0.0)
    receive(election, D, Fitness(Score(), 1), 0.0)
    assert not announced(fire(election, "tick", 2.6))
    effects = fire(election, "tick", 2.8)
    (fact,) = announced(effects)
    assert (fact.node, fact.confirmed) == (A, False)
    assert fact.reason.startswith("provisional, 1 of 3 voters in reach, 2 needed: no majority; best of 2")
    assert [m.confirmed for m in sent(effects, Presiding)] == [False]
    assert not election.lease_held(2.8)
    (fact,) = announced(receive(election, B, Heartbeat(1, 1, "chosen"), 3.0))
    assert fact == SupernodeElected(B, 1, confirmed=True, reason="chosen")


def test_of_two_provisional_supernodes_the_better_one_is_followed():
    member, _ = machine(own=D, roster=ROSTER)
    receive(member, A, Presiding(1, False, "alone", Score()), 1.0)
    assert not announced(receive(member, A, Presiding(1, False, "alone", Score()), 1.1))
    (fact,) = announced(receive(member, B, Presiding(1, False, "better", Score(mains=True)), 1.2))
    assert fact.node == B
    assert not announced(receive(member, A, Presiding(1, False, "alone", Score()), 1.3))


def test_a_change_of_fitness_is_told_to_those_in_reach_only():
    election, _ = machine()
    tell(election, MemberReachable(B), 0.0)
    tell(election, MemberReachable(C), 0.0)
    tell(election, MemberUnreachable(B), 0.0)
    assert tell(election, ScoreChanged(Score(wired=True)), 0.0) == [Send(C, Fitness(Score(wired=True), 1))]


def test_settings_that_leave_no_lease_are_refused():
    with pytest.raises(UsageError, match="drift"):
        ElectionSettings(drift=0.3)
    with pytest.raises(UsageError, match="delays"):
        ElectionSettings(delay_s_max=1.0)
    with pytest.raises(UsageError, match="heartbeats"):
        ElectionSettings(heartbeat_s=0.6)


@pytest.mark.parametrize(
    ("voters", "words"),
    [([], "names 0 voters"), ([simulated_node(n) for n in range(8)], "names 8 voters"), ([A, A], "named twice")],
)
def test_a_roster_that_cannot_be_is_not_founded(voters, words):
    with pytest.raises(UsageError, match=words):
        Roster.found(SITE, voters)


EPOCHS = st.integers(0, 4)
SCORES = st.builds(Score, mains=st.booleans(), uptime_class=st.integers(0, 3))
WORDS = st.sampled_from(["", "no"])
MESSAGE = st.one_of(
    st.builds(PreVote, EPOCHS, st.integers(0, 2), SCORES),
    st.builds(PreVoteReply, EPOCHS, WORDS, EPOCHS, SCORES),
    st.builds(VoteRequest, EPOCHS, st.integers(0, 2)),
    st.builds(Vote, EPOCHS, WORDS, EPOCHS),
    st.builds(HeartbeatAck, EPOCHS, st.integers(0, 3)),
    st.builds(Outdated, EPOCHS),
    st.builds(Release, EPOCHS, st.sampled_from([None, A, B, D])),
    st.builds(Presiding, EPOCHS, st.booleans(), WORDS, SCORES),
    st.builds(Fitness, SCORES, st.integers(0, 2)),
    st.builds(RosterChain, st.lists(st.sampled_from([ROSTER, Roster(), Roster(2, (D,), b"x")]), max_size=2).map(tuple)),
    st.builds(
        RosterProposed, EPOCHS, st.builds(ROSTER.next, st.sampled_from([(A, B), (A, D), (A, B, C, D)]), EPOCHS, WORDS)
    ),
    st.builds(RosterSigned, EPOCHS, st.integers(0, 3), st.just(b"x"), WORDS, EPOCHS),
    st.builds(Recall, EPOCHS),
)
INPUT = st.one_of(
    st.builds(Received, st.sampled_from([A, B, C, D]), MESSAGE),
    # Heartbeats of B only: two supernodes of one epoch are beyond what the protocol has to bear.
    st.builds(Received, st.just(B), st.builds(Heartbeat, EPOCHS.map(lambda epoch: epoch + 5), EPOCHS, WORDS)),
    st.builds(TimerFired, st.sampled_from(["patience", "heartbeat", "lease", "tick"])),
    st.builds(Told, st.sampled_from([MemberReachable(B), MemberUnreachable(B), Resign("x"), ScoreChanged(Score())])),
)


@settings(max_examples=examples(200))
@given(st.lists(st.tuples(INPUT, st.floats(0, 0.5)), max_size=40), st.booleans())
def test_no_order_of_inputs_breaks_the_machine_or_lowers_its_epoch_on_disk(steps, restarted):
    election, _ = machine(restored=[Ballot(2, B, 1)] if restarted else [])
    now, epoch = 0.0, election.epoch
    for event, after in steps:
        now += after
        for effect in election.handle(event, now):
            if isinstance(effect, Persist) and isinstance(effect.record, Ballot):
                assert effect.record.epoch >= epoch
                epoch = effect.record.epoch
        election.check()


def test_every_message_survives_the_codec_and_a_reason_has_a_limit():
    codec = Codec(MESSAGES)
    assert codec.decode(codec.encode(Release(3, B))) == Release(3, B)
    with pytest.raises(MalformedFrame):
        codec.decode(codec.encode(Heartbeat(1, 1, "x" * 301)))
    with pytest.raises(MalformedFrame):
        codec.decode(codec.encode(Outdated(2**54)))
