"""The re-handshake between two sessions: who begins, what the peer must prove, and how long old keys serve."""

from pathlib import Path

import pytest
from session_pair import Pair

from atoll.testing.key_middle import KeyMiddle
from atoll.testing.key_thief import KeyThief, Recorded
from atoll.transport import ciphers, records
from atoll.transport.records import EPOCH_S_MAX, OLD_KEY_S, PHASE_S, PHASES
from atoll.transport.rehandshake import (
    FOLLOW_TRIES,
    YOUNG_S,
    KeyVerb,
    Rehandshake,
    Step,
    derive,
    key_frame,
    transcript_after,
)
from atoll.transport.session import IDLE_S, Session
from atoll.transport.session_events import Closed, State
from atoll.transport.session_keys import SessionKeys


class Aged(Pair):
    """Two ends that have talked for a while, and go on talking."""

    def __init__(self, seconds=0.0, **how):
        super().__init__(**how)
        self.carry()
        self.live(seconds)

    def live(self, seconds, alter=lambda records: records):
        until = self.now + seconds
        while self.now < until and State.CLOSED not in (self.caller.state, self.callee.state):
            self.caller.send(b"still here")
            self.callee.send(b"here, too")
            self.wait(min(IDLE_S / 3, until - self.now), alter)
        return self

    @property
    def epochs(self):
        return [each.epoch for end in (self.caller, self.callee) for each in (end._keys.sealer, end._keys.opener)]

    def sealed(self, end, plain, path=0):
        """A genuine record of that end with this inside."""
        return end._keys.sealer.seal(plain, path, self.now)


def test_both_ends_begin_at_once_and_agree():
    pair = Aged(PHASE_S + 1)
    assert pair.epochs == [1, 1, 1, 1]
    assert pair.caller._keys.rehandshake.step is pair.callee._keys.rehandshake.step is Step.RESTING
    assert pair.caller._keys.rehandshake._bond.root == pair.callee._keys.rehandshake._bond.root
    assert pair.caller.statistics()["rehandshakes"] == 1
    pair.live(5 * PHASE_S)
    assert min(pair.epochs) >= 5


@pytest.mark.parametrize("begins", ["caller", "callee"])
def test_one_end_begins_and_three_frames_and_two_signs_of_life_are_enough(begins):
    pair = Aged()
    pair.now = YOUNG_S
    getattr(pair, begins)._keys.rehandshake.begin(pair.now)
    sent = []
    pair.carry(lambda each: sent.extend(each) or each)
    assert pair.epochs == [1, 1, 1, 1]
    assert len(sent) <= 5
    pair.caller.send(b"under new keys")
    pair.carry()
    assert pair.messages(pair.callee)[-1] == b"under new keys"


def test_so_many_records_call_for_fresh_keys(monkeypatch):
    monkeypatch.setattr(records, "PHASE_RECORDS", 50)
    pair = Aged()
    pair.now = YOUNG_S
    for number in range(120):
        pair.caller.send(b"%d" % number)
        pair.carry()
    assert max(pair.epochs) >= 1
    assert pair.messages(pair.callee) == [b"%d" % number for number in range(120)]


class Mute(Session):
    """An end that knows nothing of fresh keys, as older ones do."""

    class keys_kind(SessionKeys):  # noqa: N801
        class rehandshake_kind(Rehandshake):  # noqa: N801
            def begin(self, now):
                pass

            def receive(self, verb, epoch, piece, now):
                pass

            def reason_to_end(self, now):
                return ""

            def tick(self, now):
                pass


def beside_a_mute(monkeypatch, kind=Session):
    monkeypatch.setattr("session_pair.Session", type("Both", (Session,), {"answer": Mute.answer, "dial": kind.dial}))
    return Aged()


def test_a_peer_that_never_answers_is_endured_for_so_many_phases_and_then_the_session_ends(monkeypatch):
    pair = beside_a_mute(monkeypatch)
    pair.live((PHASES - 1) * PHASE_S)
    assert pair.caller.state is State.OPEN
    assert pair.caller._keys.sealer.phase == PHASES - 1
    assert pair.messages(pair.callee)[-1] == b"still here"
    pair.live(2 * PHASE_S)
    closed = pair.events[pair.caller][-1]
    assert isinstance(closed, Closed)
    assert "keys are used up" in closed.reason
    assert pair.now <= EPOCH_S_MAX + IDLE_S
    assert "keys are used up" in pair.events[pair.callee][-1].reason


def test_a_flood_of_records_wears_the_keys_out_too(monkeypatch):
    monkeypatch.setattr(records, "PHASE_RECORDS", 4)
    pair = beside_a_mute(monkeypatch)
    for number in range(4 * PHASES + 5):
        if pair.caller.state is State.CLOSED:
            break
        pair.caller.send(b"%d" % number)
        pair.carry()
        if pair.caller.deadline <= pair.now:
            pair.wait(0.0)
    assert pair.caller.state is State.CLOSED
    assert "keys are used up" in pair.events[pair.callee][-1].reason


def test_a_peer_that_agrees_and_never_uses_the_new_keys_loses_the_session():
    pair = Aged()
    pair.now = YOUNG_S
    pair.caller._keys.rehandshake.begin(pair.now)
    for record in pair.outgoing(pair.caller):
        pair.callee.receive(record, pair.now)
    for record in pair.outgoing(pair.callee):
        pair.caller.receive(record, pair.now)
    assert pair.caller._keys.rehandshake.step is Step.TURNED
    for _ in range(FOLLOW_TRIES + 1):
        assert pair.caller.state is State.OPEN
        pair.now = pair.caller._keys.rehandshake.deadline
        # It goes on under the old keys, and hears nothing.
        pair.caller.receive(pair.sealed(pair.callee, b""), pair.now)
        pair.events[pair.caller] += pair.caller.tick(pair.now)
    assert "does not use the keys" in pair.events[pair.caller][-1].reason


def test_an_offer_comes_too_early_and_again_in_time():
    pair = Aged()
    pair.callee._keys.rehandshake._began_at = pair.now
    pair.caller._keys.rehandshake.begin(pair.now)
    pair.carry()
    assert pair.epochs == [0] * 4
    assert pair.callee.statistics()["rehandshake_stale"] == 1
    for _ in range(4):
        pair.wait(0.5)
    assert pair.epochs == [1] * 4


def offered(pair):
    """Have the caller offer a key, and give the record."""
    pair.now = YOUNG_S
    pair.caller._keys.rehandshake.begin(pair.now)
    return pair.outgoing(pair.caller)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (key_frame(KeyVerb.OFFER, 1, bytes(31)), "holds 31 bytes"),
        (key_frame(KeyVerb.OFFER, 1, bytes(48)), "holds 48 bytes"),
        (key_frame(KeyVerb.ANSWER, 1, bytes(32)), "holds 32 bytes"),
        (key_frame(KeyVerb.OFFER, 2, bytes(32)), "skips an epoch"),
        (key_frame(KeyVerb.OFFER, 1, bytes(32)), "small order"),
        (key_frame(KeyVerb.ANSWER, 1, bytes([9]) + bytes(47)), "nobody offered"),
        (
            key_frame(KeyVerb.OFFER, 1, bytes([9]) + bytes(31)) + key_frame(KeyVerb.OFFER, 1, bytes([8]) + bytes(31)),
            "two keys",
        ),
        (
            key_frame(KeyVerb.OFFER, 1, bytes([9]) + bytes(31)) + key_frame(KeyVerb.ANSWER, 1, bytes([9]) + bytes(47)),
            "different keys",
        ),
    ],
)
def test_a_peer_that_breaks_the_rules_of_fresh_keys_loses_the_session(frame, words):
    pair = Aged()
    pair.now = YOUNG_S
    *_, closed = pair.callee.receive(pair.sealed(pair.caller, frame), pair.now)
    assert words in closed.reason
    assert (closed.broken, pair.callee.state) == (True, State.CLOSED)


def test_late_and_strange_frames_of_fresh_keys_are_counted_and_change_nothing():
    pair = Aged(PHASE_S + 1)
    before = pair.callee.statistics()["rehandshake_stale"]
    for frame in (
        key_frame(KeyVerb.OFFER, 1, bytes(32)),
        key_frame(KeyVerb.ANSWER, 0, bytes(48)),
        key_frame(9, 2, b"?"),
    ):
        assert pair.callee.receive(pair.sealed(pair.caller, frame), pair.now) == []
    assert pair.callee.statistics()["rehandshake_stale"] == before + 3
    pair.carry()
    assert pair.epochs == [1] * 4


def test_all_secrets_of_a_re_handshake_are_gone_when_it_is_over():
    pair = Aged()
    offered(pair)
    root = pair.caller._keys.rehandshake._bond.root
    before = bytes(root)
    pair.wait(1.0)
    keys = pair.caller._keys.rehandshake
    assert pair.epochs == [1] * 4
    assert (keys._ephemeral, keys._agreed, keys._public, keys._peer_public) == (None, None, b"", b"")
    assert root is keys._bond.root
    assert root != before, "the very bytes were overwritten"
    pair.caller.close("enough")
    assert root == bytes(32)


@pytest.mark.parametrize("how", ["plant", "bend"])
def test_who_has_stolen_the_keys_but_no_static_one_cannot_sit_down_in_the_middle(how):
    pair = Aged()
    pair.now = YOUNG_S
    middle = KeyMiddle(pair.caller, how)
    pair.callee._keys.rehandshake.begin(pair.now)
    pair.carry(middle.alter)
    assert middle.altered >= 2
    assert State.CLOSED in (pair.caller.state, pair.callee.state)
    reasons = [each.reason for events in pair.events.values() for each in events if isinstance(each, Closed)]
    assert any("different keys" in each for each in reasons)


@pytest.mark.parametrize("victim", ["caller", "callee"])
@pytest.mark.parametrize("at_s", [10.0, PHASE_S - 50, PHASE_S + 50, 2.5 * PHASE_S])
def test_a_thief_opens_what_is_said_until_the_next_re_handshake_and_nothing_before_or_after(victim, at_s):
    pair, recorded = Aged(), []

    def record(each):
        for one in each:
            sealer = pair.caller._keys.sealer
            mine = sealer._counter and one[10:18] and (one in by_caller)
            recorded.append(Recorded(bool(mine), 0, one, pair.now))
        return each

    by_caller, original = set(), pair.outgoing

    def outgoing(end):
        given = original(end)
        if end is pair.caller:
            by_caller.update(given)
        return given

    pair.outgoing = outgoing
    pair.live(at_s, record)
    pair.wait(OLD_KEY_S)
    end = getattr(pair, victim)
    tag = end._keys.sealer._ratchet.tag
    thief, before = KeyThief.of(end), len(recorded)
    pair.live(2.2 * PHASE_S, record)
    opened = thief.read(recorded)
    assert not [each for each in opened if recorded.index(each) < before and each.tag < tag], "before his moment"
    same = [each for each in recorded[before:] if each.tag >> 4 == tag >> 4]
    assert same
    assert [each for each in opened if recorded.index(each) >= before] == same
    assert len({each.tag >> 4 for each in recorded[before:]}) >= 3


def test_a_thief_who_gets_every_ephemeral_key_too_opens_everything(monkeypatch):
    """Or the test above would show nothing."""
    made = []

    class Watched(ciphers.X25519PrivateKey):
        @classmethod
        def generate(cls):
            made.append(genuine())
            return made[-1]

    genuine = ciphers.X25519PrivateKey.generate
    monkeypatch.setattr(ciphers, "X25519PrivateKey", Watched)
    pair, recorded = Aged(), []
    thief = KeyThief.of(pair.caller)
    for _ in range(24):
        pair.now += 100.0
        for end in (pair.caller, pair.callee):
            end.tick(pair.now)
            end.send(b"x")
        for _ in range(6):
            for end, other in ((pair.caller, pair.callee), (pair.callee, pair.caller)):
                for record in pair.outgoing(end):
                    recorded.append(Recorded(end is pair.caller, 0, record, pair.now))
                    other.receive(record, pair.now)
    assert min(pair.epochs) == 2
    thief.secrets += made
    assert len(thief.read(recorded)) == len(recorded)


GOLDEN = Path(__file__).parent.parent / "golden" / "key_frames.txt"
FRAMES = {
    "KEYS OFFER": key_frame(KeyVerb.OFFER, 1, bytes(range(32))),
    "KEYS ANSWER": key_frame(KeyVerb.ANSWER, 2, bytes(range(48))),
    "KEYS TURNED": key_frame(KeyVerb.TURNED, 3),
}
DERIVED = ("initiator to responder", "back", "root", "proof")


def test_every_frame_and_every_derivation_keeps_its_bytes():
    golden = dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())
    transcript = transcript_after(bytes(32), 1, b"i" * 32, b"r" * 32)
    keys = derive(b"r" * 32, (b"1" * 32, b"2" * 32, b"3" * 32), transcript)
    made = {name: frame.hex() for name, frame in FRAMES.items()}
    made |= {"transcript": transcript.hex()}
    made |= {name: key.hex() for name, key in zip(DERIVED, keys, strict=True)}
    assert made == golden
