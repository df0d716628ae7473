"""Each rule about fresh keys has a mutant that breaks it, and a nemesis that must notice.

The real session runs under the very same seeds.
"""

from functools import cache

import pytest
from kills import must_kill, must_spare

from atoll.testing.key_middle import KeyMiddle
from atoll.testing.key_world import KeyFaults, KeyWorld
from atoll.transport.records import EPOCH_S_MAX, PHASE_S, Opener, Sealer
from atoll.transport.rehandshake import YOUNG_S, Rehandshake, Step
from atoll.transport.session import Session
from atoll.transport.session_events import State

SEEDS = range(6)


class SealsWithWhatIsNotProved(Rehandshake):
    def _agree(self, peer_public):
        super()._agree(peer_public)
        self._sealer.renew(self._agreed.sending, self._began_at)


class SaysEverythingOnce(Rehandshake):
    @property
    def deadline(self):
        return self._began_at + (PHASE_S if self.step is Step.RESTING else 2 * EPOCH_S_MAX)

    def tick(self, now):
        if self.step is Step.RESTING:
            super().tick(now)


class KeepsItsEphemeralKey(Rehandshake):
    def _make_ephemeral(self):
        if not hasattr(self, "kept"):
            super()._make_ephemeral()
            self.kept = self._ephemeral
        self._ephemeral, self._public = self.kept, self.kept.public_key().public_bytes_raw()


class MixesNothingFresh(Rehandshake):
    """The ratchet under another name."""

    @staticmethod
    def derive(root, _agreements, transcript):
        return Rehandshake.derive(root, (b"", b"", b""), transcript)


class NeverBegins(Rehandshake):
    def begin(self, now):
        self._began_at = now


class BeginsAnewWhenBothBegin(Rehandshake):
    """Takes the peer's offer for the first word, and makes another key for it."""

    def _take_offer(self, public, now):
        if self.step is Step.OFFERED:
            self._make_ephemeral()
        super()._take_offer(public, now)


class NeverForgetsTheKeyBefore(Opener):
    deadline = None

    def forget_old(self, now):
        pass


class KeepsOldKeys(Sealer):
    def __init__(self, *how):
        self.kept = []
        super().__init__(*how)

    def renew(self, key, now):
        self.kept.append(self._ratchet.ahead(0))
        super().renew(key, now)


class LeavesOutStaticKeys(Rehandshake):
    @staticmethod
    def derive(root, agreements, transcript):
        return Rehandshake.derive(root, (agreements[0], b"", b""), transcript)


class AsksForNoProof(Rehandshake):
    def _take_answer(self, public, proof, now):
        if self.step is Step.OFFERED:
            self._agree(public)
            self.step = Step.AGREED
        super()._take_answer(self._peer_public, self._agreed.expected, now)


class BindsNothingToWhatWasSaid(Rehandshake):
    @staticmethod
    def bind(transcript, epoch, of_initiator, of_responder):
        return transcript


class TurnsForever(Rehandshake):
    """Goes on with the ratchet alone."""

    def reason_to_end(self, now):
        return ""

    @property
    def deadline(self):
        return self._repeat_at


def session(mutant):
    """Give a session with the mutant in it."""
    attribute = {Rehandshake: "rehandshake_kind", Opener: "opener_kind", Sealer: "sealer_kind"}[mutant.__base__]
    return with_keys(Session, **{attribute: mutant})


def with_keys(kind, **kinds):
    """Give such a session whose keys are of these kinds."""
    return type("S", (kind,), {"keys_kind": type("K", (kind.keys_kind,), kinds)})


PEACE = KeyFaults()
LONG = KeyFaults(phases=7.5)
LOSS = KeyFaults(loss=0.7, phases=3.5)
NEMESES = {
    SealsWithWhatIsNotProved: PEACE,
    SaysEverythingOnce: LOSS,
    KeepsItsEphemeralKey: LONG,
    MixesNothingFresh: LONG,
    NeverBegins: PEACE,
    BeginsAnewWhenBothBegin: PEACE,
    NeverForgetsTheKeyBefore: PEACE,
    KeepsOldKeys: LONG,
}


@cache
def violations(seed, faults, kind=Session):
    return KeyWorld(seed, faults, kind).run().violations


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
def test_the_nemesis_of_a_rule_kills_its_mutant_in_half_the_seeds_and_never_the_real_session(mutant):
    faults = NEMESES[mutant]
    must_spare(SEEDS, lambda seed: violations(seed, faults))
    must_kill(mutant, SEEDS, lambda seed: violations(seed, faults, session(mutant)))


MIDDLES = {LeavesOutStaticKeys: "plant", AsksForNoProof: "plant", BindsNothingToWhatWasSaid: "bend"}


def survives_a_middle(kind, how):
    """Tell whether the two ends go on with keys that somebody between them has meddled with."""
    ends, now = KeyWorld(0, PEACE, kind).ends, 100.0 + YOUNG_S
    middle = KeyMiddle(ends[0], how)
    ends[1]._keys.rehandshake.begin(now)
    for _ in range(8):
        for speaker, hearer in (ends, reversed(ends)):
            for record in middle.alter([record for _, record in speaker.outgoing(now)]):
                hearer.receive(record, now)
    return middle.altered > 0 and State.CLOSED not in (ends[0].state, ends[1].state)


@pytest.mark.parametrize("mutant", MIDDLES, ids=lambda mutant: mutant.__name__)
def test_who_sits_in_the_middle_with_stolen_keys_is_noticed_but_for_the_mutants(mutant):
    assert not survives_a_middle(Session, MIDDLES[mutant])
    assert survives_a_middle(session(mutant), MIDDLES[mutant])


def end_beside_a_mute(kind):
    """Tell why the session of an end ends whose peer never offers, nor answers."""
    dumb = type("Dumb", (kind.keys_kind.rehandshake_kind,), {"receive": lambda *_: None, "begin": lambda *_: None})
    ends = KeyWorld(0, PEACE, with_keys(kind, rehandshake_kind=dumb)).ends
    now, events = 100.0, []
    while now < 100.0 + EPOCH_S_MAX + PHASE_S:
        now += 100.0
        for end in ends:
            events += end.tick(now)
            if end.state is State.CLOSED:
                return events[-1].reason
            end.send(b"x")
        for speaker, hearer in (ends, reversed(ends)):
            for _, record in speaker.outgoing(now):
                hearer.receive(record, now)
    return ""


@pytest.mark.parametrize("mutant", [TurnsForever])
def test_keys_wear_out_and_the_session_says_so_but_for_the_mutant(mutant):
    assert "keys are used up" in end_beside_a_mute(Session)
    assert "keys are used up" not in end_beside_a_mute(session(mutant))
