"""Rules of changing a roster that only one order of events needs: it is played by hand, and the mutant must fall.

The real machine goes through the very same orders, and through those of all the others.
"""

import pytest
from kills import must_kill, must_spare

from atoll.actors.elector.messages import (
    Amnesia,
    Ballot,
    PreVote,
    PreVoteReply,
    Recall,
    Recalled,
    RosterChain,
    RosterProposed,
    RosterSigned,
    Signing,
    Vote,
    VoteRequest,
)
from atoll.actors.elector.recollection import Recollection
from atoll.actors.elector.roster_change import Signer
from atoll.actors.elector.voter import Voter
from atoll.testing.election_by_hand import ElectionByHand, ToldElection, ToldRosters, certified, chain

SEEDS = range(6)
A, B, C, D, E = range(5)
L = 0.9
LOST = Amnesia("as the test wants it")


class VoterSignsInAnyEpoch(Signer):
    def in_its_epoch(self, proposal, epoch):
        return True


class OlderRostersGetVotes(Voter):
    def outdated(self, roster):
        return False


class WhoeverAnswersARecallSignsOn(Signer):
    def fence(self, epoch, *effects):
        return list(effects)


class WhatOthersSignedIsNotSignedAgain(Recollection):
    def pending(self):
        return None


class RostersThatMayBeFinalAreNotAskedFor(Recollection):
    def rosters(self):
        return super().rosters()[:1]


def signed_after_a_vote_elsewhere(hand):
    """B votes for D, and then signs for A, whose lease has a moment left; C's vote makes D supernode."""
    first = hand.founded(A, B, C, D, E)
    for host in (A, B, C, D, E):
        hand.start(host, roster=first)
    hand.elect(A, B, C, D, E)
    hand.beat(A, B, C, D, E)
    for _ in range(5):
        hand.wait(0.19)
        hand.beat(A, B, E)
    hand.drop()
    hand.ask(D)
    hand.flow(C, D, only=(PreVote,))
    late = [letter for letter in hand.letters if isinstance(letter[2], PreVoteReply)]
    hand.drop()
    for _ in range(5):
        hand.wait(0.19)
        hand.beat(A, C, E)
    hand.drop()
    hand.wait(0.5)
    hand.ask(D)
    hand.letters += late
    hand.flow(C, D, only=(PreVoteReply,))
    hand.flow(B, D, only=(PreVote, PreVoteReply, VoteRequest, Vote))
    stood, hand.letters = hand.letters, []
    hand.want(A, A, B, C, E)
    hand.fire(A, "heartbeat")
    hand.flow(A, B, E, only=(RosterProposed, RosterSigned))
    hand.drop()
    hand.letters = stood
    hand.wait(0.45)
    hand.want(D, B, C, D, E)
    hand.flow(C, D, only=(VoteRequest, Vote))
    hand.drop()
    hand.fire(D, "heartbeat")
    hand.flow(B, C, D)
    hand.fire(D, "heartbeat")
    hand.flow(B, C, D)


def voted_for_who_is_two_rosters_behind(hand):
    """A leads the third roster; C has heard of none but the first, and B is asked first by C."""
    first = hand.founded(A, B, C)
    second = certified(hand, first, [A, B, C, D], [A, B], 1)
    third = certified(hand, second, [A, B, C, D, E], [A, B, D], 1)
    for host in (A, B, D, E):
        hand.start(host, chain(first, second, third), Ballot(1, None, 3), roster=first)
    hand.start(C, roster=first)
    hand.wait(L)
    hand.elect(A, D, E)
    for _ in range(4):
        # C hears first that the epoch it asks for has begun.
        hand.beat_only(A, D, E)
        hand.ask(C)
        hand.flow(B, C, but=(RosterChain,))
        hand.wait(0.1)


def begun(hand, *signers):
    """A is supernode and proposes to take D out; `signers` sign, and then B loses its journal and answers again."""
    first = hand.founded(A, B, C, D, E)
    for host in (A, B, C, D, E):
        hand.start(host, roster=first)
    hand.elect(A, B, C, D, E)
    hand.beat(A, B, C, D, E)
    hand.want(A, A, B, C, E)
    hand.wait(0.19)
    hand.fire(A, "heartbeat")
    hand.flow(A, B, only=(RosterProposed,))
    for signer in signers:
        hand.flow(A, signer, only=(RosterProposed,))
    answers = [letter for letter in hand.letters if isinstance(letter[2], RosterSigned)]
    hand.drop()
    hand.start(B, LOST, roster=first)
    for _ in range(5):
        hand.wait(0.19)
        hand.beat_only(A, C, E)
    hand.fire(B, "recall")
    hand.flow(B, C, D, E, only=(Recall, Recalled))
    hand.drop()
    return answers


def led_elsewhere(hand):
    """A is not heard of any more; D is elected with the votes of B and E, and takes A out."""
    hand.drop()
    hand.want(D, B, C, D, E)
    hand.wait(2 * L)
    hand.elect(D, B, E)
    for _ in range(2):
        hand.beat(D, B, E)


def signed_after_the_answer_to_a_recall(hand):
    answers = begun(hand)
    hand.letters = answers
    hand.flow(A, B, only=(RosterSigned,))
    hand.fire(A, "heartbeat")
    hand.flow(A, C, only=(RosterProposed, RosterSigned))
    led_elsewhere(hand)


def forgot_what_another_remembers(hand):
    answers = begun(hand, C)
    hand.letters = answers
    hand.flow(A, B, C, only=(RosterSigned,))
    led_elsewhere(hand)


def forgot_a_vote_under_a_roster_that_others_only_signed(hand):
    """A was elected under the second roster with B's vote; C signed that roster, and does not know that it is final."""
    first = hand.founded(A, B, C, D)
    second = certified(hand, first, [A, B, C], [A, B, C], 4)
    for host in (A, B):
        hand.start(host, chain(first, second), Ballot(4, None, 2), roster=first)
    hand.start(C, Ballot(4, None, 1), Signing(first.next(second.voters, 4, second.reason)), roster=first)
    hand.start(D, Ballot(4, None, 1), roster=first)
    hand.wait(2 * L)
    hand.elect(A, B)
    hand.start(B, LOST, roster=first)
    hand.wait(2 * L)
    hand.fire(B, "recall")
    hand.flow(B, C, D, only=(Recall, Recalled))
    hand.elect(C, B, D)


NEMESES = {
    VoterSignsInAnyEpoch: signed_after_a_vote_elsewhere,
    OlderRostersGetVotes: voted_for_who_is_two_rosters_behind,
    WhoeverAnswersARecallSignsOn: signed_after_the_answer_to_a_recall,
    WhatOthersSignedIsNotSignedAgain: forgot_what_another_remembers,
    RostersThatMayBeFinalAreNotAskedFor: forgot_a_vote_under_a_roster_that_others_only_signed,
}


def election_with(mutant):
    if issubclass(mutant, Signer):
        rosters = type(mutant.__name__, (ToldRosters,), {"signer_kind": mutant})
        return type(mutant.__name__, (ToldElection,), {"rosters_kind": rosters})
    part = "voter_kind" if issubclass(mutant, Voter) else "recollection_kind"
    return type(mutant.__name__, (ToldElection,), {part: mutant})


def violations(order, seed, kind=ToldElection):
    hand = ElectionByHand(seed, 5, kind)
    order(hand)
    return hand.violations


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
def test_the_order_that_needs_a_rule_breaks_its_mutant_in_half_the_seeds_and_never_the_real_machine(mutant):
    order = NEMESES[mutant]
    must_spare(SEEDS, lambda seed: violations(order, seed))
    must_kill(mutant, SEEDS, lambda seed: violations(order, seed, election_with(mutant)))
