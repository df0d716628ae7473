"""All keys of one end of a session: made together, made fresh together, and gone together."""

import os

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from atoll.transport.fragments import FRAME
from atoll.transport.keys import NodeKey
from atoll.transport.records import OLD_KEY_S, PHASE_S, Fault
from atoll.transport.rehandshake import YOUNG_S, Step
from atoll.transport.session_keys import SessionKeys
from atoll.transport.session_opening import Opening

SESSION = os.urandom(8)
NOW = 100.0


@pytest.fixture
def ends():
    """Give the keys of both ends of a handshake."""
    caller, callee = NodeKey.generate(), NodeKey.generate()
    dialled = Opening.dial(caller, callee.node_id, b"grant", 4096)
    answered = Opening.answer(callee, dialled.session_id)
    for speaker, hearer in ((dialled, answered), (answered, dialled), (dialled, answered)):
        hearer.read(speaker.write())
    return [SessionKeys(dialled.session_id, each.handshake, NOW) for each in (dialled, answered)]


def exchanged(ends, now):
    """Carry what both say of fresh keys, in sealed records, until nobody says more."""
    said = 0
    for _ in range(4):
        for speaker, hearer in (ends, reversed(ends)):
            for frame in speaker.key_frames(now):
                said += 1
                assert hearer.open(speaker.seal(frame, 0, now), now) == frame
                if frame:
                    _, verb, epoch, _, _ = FRAME.unpack_from(frame)
                    hearer.receive(verb, epoch, memoryview(frame)[FRAME.size :], now)
    return said


def secrets_of(keys):
    """Give the bytes that are secret, as they lie in memory, and not copies."""
    found = [keys.sealer._ratchet._key, keys.opener._ratchet._key, keys.rehandshake._bond.root]
    if keys.opener._next is not None:
        found.append(keys.opener._next._key)
    if keys.rehandshake._agreed is not None:
        found += [keys.rehandshake._agreed.root, keys.rehandshake._agreed.sending]
    return found


def test_what_one_end_seals_the_other_opens_once(ends):
    for speaker, hearer in (ends, reversed(ends)):
        record = speaker.seal(b"hello", 0, NOW)
        assert hearer.open(record, NOW) == b"hello"
        assert hearer.open(record, NOW) is Fault.REPLAYED


def test_nothing_is_said_of_fresh_keys_before_it_is_time(ends):
    assert exchanged(ends, NOW) == 0
    assert ends[0].deadline == NOW + PHASE_S
    assert ends[0].tick(NOW + PHASE_S - 1) == ""
    assert exchanged(ends, NOW + PHASE_S - 1) == 0


def test_old_keys_are_renewed_and_the_other_end_follows(ends):
    now = NOW + PHASE_S
    before = [bytes(each.rehandshake._bond.root) for each in ends]
    assert ends[0].tick(now) == ""
    assert exchanged(ends, now) > 0
    for each in ends:
        assert (each.sealer.epoch, each.opener.epoch, each.rehandshake.step) == (1, 1, Step.RESTING)
    roots = [bytes(each.rehandshake._bond.root) for each in ends]
    assert roots[0] == roots[1] not in before
    assert ends[0].counts["rehandshakes"] == 1


def test_keys_of_before_are_forgotten_when_their_time_has_come(ends):
    late = ends[0].seal(b"sealed before", 1, NOW + YOUNG_S)
    later = ends[0].seal(b"sealed before, too", 1, NOW + YOUNG_S)
    ends[0].begin_rehandshake(NOW + YOUNG_S)
    exchanged(ends, NOW + YOUNG_S)
    assert ends[1].open(late, NOW + YOUNG_S) == b"sealed before"
    assert ends[1].deadline == NOW + YOUNG_S + OLD_KEY_S
    ends[1].forget_old(ends[1].deadline)
    assert ends[1].open(later, NOW + YOUNG_S + OLD_KEY_S) is Fault.FORGED


@pytest.mark.parametrize("moment", ["at rest", "offered", "agreed"])
def test_whoever_erases_them_leaves_none_in_memory(ends, moment):
    now = NOW + YOUNG_S
    if moment != "at rest":
        ends[0].begin_rehandshake(now)
        (frame,) = ends[0].key_frames(now)
        if moment == "agreed":
            _, verb, epoch, _, _ = FRAME.unpack_from(frame)
            ends[1].receive(verb, epoch, memoryview(frame)[FRAME.size :], now)
    records = [each.seal(b"said", 0, now) for each in reversed(ends)]
    for keys, record in zip(ends, records, strict=True):
        secrets = secrets_of(keys)
        assert all(map(any, secrets))
        keys.erase()
        assert not any(map(any, secrets))
        left = [vars(each) for each in (keys.sealer, keys.opener, keys.rehandshake)]
        assert not [each for held in left for each in held.values() if isinstance(each, X25519PrivateKey)]
        with pytest.raises(AttributeError):
            keys.seal(b"more", 0, now)
        assert keys.open(record, now) != b"said"
