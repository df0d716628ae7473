"""Hostile beacons and suspicion messages; `make soak` runs a million of each."""

import pytest

from atoll.actors.discoverer import suspicion as module
from atoll.actors.discoverer.messages import MESSAGES, ListSeen, SeenNodes
from atoll.actors.discoverer.suspicion import Suspicion
from atoll.testing import discovery_fuzz
from atoll.testing.discovery_fuzz import BeaconFuzz, SuspicionFuzz
from atoll.transport import beacon_packet
from atoll.transport.beacon_packet import BeaconEar


def test_hostile_beacons_are_refused_and_counted_and_the_genuine_ones_among_them_believed():
    fuzz = BeaconFuzz(1)
    fuzz.run(6000)
    assert fuzz.findings == []
    assert fuzz.fates["believed"] > 50
    assert fuzz.fates["refused"] > 5000
    counts = fuzz._ear.statistics()
    kinds = ("long", "short", "magic", "version", "flags", "length", "text")
    assert min(counts[f"malformed_{kind}"] for kind in kinds) > 0
    assert min(counts[verdict] for verdict in ("forged", "replayed", "heard")) > 20


def test_hostile_suspicion_messages_find_nothing_wrong(enough):
    fuzz = SuspicionFuzz(1)
    fuzz.run(enough(6000))
    assert fuzz.findings == []
    kinds = {kind.__name__ for kind in MESSAGES} - {ListSeen.__name__, SeenNodes.__name__}
    assert {fate.split()[0] for fate in fuzz.fates} == kinds | {"malformed"}
    assert sum(count for fate, count in fuzz.fates.items() if fate.endswith("changed something")) > 20


def test_cases_are_a_function_of_the_seed():
    for kind in (BeaconFuzz, SuspicionFuzz):
        first, second = kind(7), kind(7)
        first.run(500)
        second.run(500)
        assert first.fates == second.fates


@pytest.mark.parametrize("check", ["seal_valid", "beacon_signature_valid"])
def test_the_fuzz_notices_an_ear_that_does_not_check(check, monkeypatch):
    monkeypatch.setattr(beacon_packet, check, lambda *_: True)
    fuzz = BeaconFuzz(2)
    fuzz.run(4000)
    assert "that nobody wrote is believed" in fuzz.findings[0]


def test_the_fuzz_notices_an_ear_that_does_not_count(monkeypatch):
    monkeypatch.setattr(BeaconEar, "_judge", lambda *_: "")
    monkeypatch.setattr(BeaconEar, "statistics", lambda _: {"members_known": 0, "strangers_known": 0})
    fuzz = BeaconFuzz(2)
    fuzz.run(10)
    assert "it was not counted" in fuzz.findings[0]


class CountsTheSameAccuserAgain(Suspicion):
    def _suspect(self, member, incarnation, by, why, now):
        effects = super()._suspect(member, incarnation, by, why, now)
        member.accusers[module.NodeId(bytes([len(member.accusers)]) * 32)] = None
        return effects


class BelievesReplays(Suspicion):
    def _outdated(self, rumour, member):
        return False

    def _revive(self, member, incarnation, *more):
        return super()._revive(member, incarnation + 1, *more)


class ForgetsLimits(Suspicion):
    def _add_member(self, node, now):
        self._members.update({module.NodeId(bytes([n % 256, n // 256]) * 16): None for n in range(module.MEMBERS_MAX)})
        return super()._add_member(node, now)


@pytest.mark.parametrize("mutant", [CountsTheSameAccuserAgain, BelievesReplays, ForgetsLimits])
def test_the_fuzz_notices_a_machine_that_is_wrong(mutant, monkeypatch):
    monkeypatch.setattr(discovery_fuzz, "FINDINGS_MAX", 1)
    fuzz = SuspicionFuzz(3)
    fuzz._machine.__class__ = mutant
    fuzz.run(20_000)
    assert fuzz.findings
