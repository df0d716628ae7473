"""Hostile election messages and frames; `make soak` runs a million of each."""

from random import Random

import pytest

from atoll.actors.elector.election import Election
from atoll.actors.elector.election_state import Role
from atoll.actors.elector.elector import Elector
from atoll.actors.elector.messages import MESSAGES
from atoll.actors.runtime.machine import Received
from atoll.testing import election_fuzz
from atoll.testing.election_fuzz import ElectionFuzz, Harvest, fingerprint, made_up
from atoll.testing.elections import CODEC
from atoll.testing.frame_fuzz import FrameFuzz
from atoll.testing.fuzz import Mutator
from atoll.testing.standing_fuzz import StandingFuzz
from atoll.transport.base import Standing
from atoll.transport.codec import Message
from atoll.transport.errors import MalformedFrame


def test_hostile_messages_find_nothing_wrong_in_any_role(enough):
    fuzz = ElectionFuzz(1)
    fuzz.run(enough(4000))
    assert fuzz.findings == []
    assert {fate.split(":")[0] for fate in fuzz.fates} == {role.value for role in Role}
    read = {fate.split(": ")[1].removesuffix(" refused") for fate in fuzz.fates} - {"no message"}
    assert read == {kind.__name__ for kind in MESSAGES}, "every kind gets through the codec"


def test_hostile_frames_and_envelopes_are_read_or_refused():
    fuzz = FrameFuzz(1)
    fuzz.run(1500)
    assert fuzz.findings == []
    assert min(fuzz.fates.values()) > 20, fuzz.fates
    assert len(fuzz.fates) == 7


def test_only_members_reach_an_elector_and_each_refusal_is_counted_once():
    fuzz = StandingFuzz(1)
    fuzz.run(1500)
    assert fuzz.findings == []
    assert fuzz.fates["member: taken"] > 20
    strangers = [standing.value for standing in Standing if standing is not Standing.MEMBER]
    assert all(fuzz.fates[f"{each}: refused"] > 100 and not fuzz.fates[f"{each}: taken"] for each in strangers)


def test_an_elector_that_is_open_to_everybody_is_noticed(monkeypatch):
    monkeypatch.setattr(Elector, "open_to", frozenset(Standing))
    fuzz = StandingFuzz(1)
    fuzz.run(500)
    assert fuzz.findings


def test_cases_are_a_function_of_the_seed():
    first, second = ElectionFuzz(7), ElectionFuzz(7)
    first.run(500)
    second.run(500)
    assert first.fates == second.fates


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_kind_of_message_can_be_made_up_from_its_types(kind):
    message = made_up(kind, Random(3))
    assert CODEC.decode(CODEC.encode(message)) == message


def test_variants_are_mostly_hostile_and_some_get_through():
    samples = Harvest.reaped(2).messages["Heartbeat"]
    mutator, read = Mutator(Random(1)), 0
    for _ in range(500):
        data = mutator.variant(samples)
        try:
            CODEC.decode(data)
            read += data not in samples
        except MalformedFrame:
            pass
    assert 50 < read < 450


class HeedsEverybody(Election):
    def _heeds(self, sender, message):
        return True


class BelievesAnyEpoch(Election):
    def _epoch_max(self):
        return 2**60


class CountsNothing(Election):
    def _receive(self, sender, message, now):
        counted = self.ignored
        effects = super()._receive(sender, message, now)
        self.ignored = counted
        return effects


class ForgetsItsVote(Election):
    def _receive(self, sender, message, now):
        self.voter.ballot = type(self.voter.ballot)(self.voter.ballot.epoch)
        return super()._receive(sender, message, now)


@pytest.mark.parametrize("mutant", [HeedsEverybody, BelievesAnyEpoch, CountsNothing, ForgetsItsVote])
def test_the_fuzz_notices_a_machine_that_is_wrong(mutant, monkeypatch):
    real = election_fuzz.Harvest.reaped

    def reaped(seed):
        harvest = real(seed)
        for states in harvest.states.values():
            for state in states:
                as_mutant(state.machine, mutant)
        return harvest

    monkeypatch.setattr(election_fuzz.Harvest, "reaped", reaped)
    monkeypatch.setattr(election_fuzz, "FINDINGS_MAX", 1)
    fuzz = ElectionFuzz(6)
    fuzz.run(20_000)
    assert fuzz.findings


def as_mutant(machine, mutant):
    """Let a machine that the simulation left in its state be of another kind from now on."""
    machine.__class__ = mutant


def test_a_fingerprint_tells_states_apart_and_leaves_counters_out():
    harvest = Harvest.reaped(4)
    state = harvest.states[Role.FOLLOWER][0]
    before = fingerprint(state.machine)
    state.machine.ignored += 1
    assert fingerprint(state.machine) == before
    supernode = next(peer for peer in state.peers if peer != state.machine.own)
    state.machine.handle(Received(supernode, CODEC.decode(harvest.messages["Fitness"][0])), state.now)
    assert isinstance(CODEC.decode(harvest.messages["Fitness"][0]), Message)
    assert fingerprint(state.machine) != before
