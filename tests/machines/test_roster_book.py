"""Rosters by themselves: which are taken over, which are refused, which win, and what is passed on."""

from random import Random

import pytest
from certified_rosters import FIRST, SECOND, SITE, A, B, C, D, E, book, certified
from msgspec.structs import replace

from atoll.actors.elector.messages import (
    MESSAGES,
    RosterChain,
)
from atoll.actors.elector.roster import INCARNATION_STEP, Roster
from atoll.actors.elector.roster_book import CHAIN_MAX
from atoll.transport.codec import Codec
from atoll.transport.keys import SiteKeys


def test_a_version_signed_by_a_majority_of_the_one_before_is_taken_over():
    known = book(FIRST)
    assert known.take(RosterChain((FIRST, SECOND)))
    assert known.current == SECOND
    assert known.previous == FIRST
    assert not known.take(RosterChain((FIRST, SECOND)))
    assert not known.take(RosterChain((FIRST,)))
    assert known.current == SECOND


@pytest.mark.parametrize(
    ("roster", "words"),
    [
        (certified(FIRST, [A, B, C, D], [A]), "1 more signatures"),
        (certified(FIRST, [A, B, C, D], [A, D]), "1 more signatures"),
        (certified(FIRST, [A, B, C, D], [A, B], signed_in=2), "2 more signatures"),
        (certified(FIRST, [A, B, C, D, E], [A, B]), "changes 2 voters"),
        (certified(FIRST, [A, B, D], [A, B]), "changes 2 voters"),
        (replace(SECOND, voters=tuple(sorted([A, B, C, E]))), "not made with this site's secret"),
        (replace(SECOND, signatures=()), "not made with this site's secret"),
        (replace(SECOND, previous=b"x" * 32).sealed(SITE.roster_key), "does not follow"),
        (certified(certified(FIRST, [A, B], [A, B]), [A, B, D], [A, B]), "does not follow"),
    ],
)
def test_what_no_majority_signed_or_is_not_one_step_is_refused_with_its_reason(roster, words):
    known = book(FIRST)
    roster = replace(roster, version=2).sealed(SITE.roster_key) if roster.version == 3 else roster
    assert not known.take(RosterChain((roster,)))
    assert words in known.refused
    assert known.current == FIRST


def test_signatures_twice_by_one_voter_count_once():
    twice = certified(FIRST, [A, B, C, D], [A])
    twice = replace(twice, signatures=twice.signatures * 2).sealed(SITE.roster_key)
    assert not book(FIRST).take(RosterChain((twice,)))


def test_a_member_without_any_takes_a_sealed_roster_of_any_version():
    known = book()
    assert known.take(RosterChain((SECOND,)))
    assert known.current == SECOND
    foreign = Roster.found(SiteKeys(bytes(32)), [D])
    assert not book().take(RosterChain((foreign,)))


def grown(count):
    """Rosters that take D in and out again, so many."""
    rosters = [FIRST]
    while len(rosters) < count:
        voters = [A, B, C] if D in rosters[-1].voters else [A, B, C, D]
        rosters.append(certified(rosters[-1], voters, [A, B, C], epoch=len(rosters)))
    return rosters


def test_a_node_behind_is_sent_what_it_lacks_and_one_before():
    rosters = grown(6)
    known = book(*rosters)
    assert known.since(rosters[3].mark).rosters == tuple(rosters[3:])
    assert known.since((0, 0)).rosters == tuple(rosters)
    assert known.since(rosters[-1].mark).rosters == tuple(rosters[-2:])
    behind = book(*rosters[:4])
    assert behind.take(known.since(rosters[3].mark))
    assert behind.chain == known.chain


def test_a_chain_is_bounded_and_who_is_farther_behind_trusts_the_seal_as_a_joiner_does():
    rosters = grown(CHAIN_MAX + 5)
    known = book(*rosters)
    assert len(known.chain) == CHAIN_MAX
    assert len(Codec(MESSAGES).encode(known.record())) < 32 * 1024
    behind = book(*rosters[:2])
    assert behind.take(known.since(rosters[1].mark))
    assert behind.current == rosters[-1]
    forged = replace(rosters[-1], seal=b"x" * 32)
    assert not book(*rosters[:2]).take(RosterChain((*rosters[-3:-1], forged)))


def test_a_higher_incarnation_wins_and_a_lower_one_never():
    known = book(FIRST, SECOND)
    reformed = SECOND.reformed(E, 2**20, "all others are gone", roster_key=SITE.roster_key, rng=Random(1))
    assert reformed.incarnation // INCARNATION_STEP == 2
    assert reformed.mark > SECOND.mark
    assert known.take(RosterChain((reformed,)))
    assert not known.take(RosterChain((FIRST, SECOND)))
    assert known.current == reformed


def test_two_people_who_reform_at_once_make_two_incarnations():
    one, other = (
        FIRST.reformed(node, 9, "", roster_key=SITE.roster_key, rng=Random(number))
        for number, node in enumerate([A, B])
    )
    assert one.incarnation != other.incarnation
