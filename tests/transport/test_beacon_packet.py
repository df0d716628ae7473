"""The beacon's bytes, and which of those that arrive are heard: replays, forgeries, floods, twins."""

from collections import Counter
from pathlib import Path

import pytest
from beacon_samples import BAD, ELSEWHERE, OTHER, OWN, PEER, SITE, beacon
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atoll.transport import beacon_packet
from atoll.transport.beacon_packet import (
    CHECKS_BURST,
    FORGET_S,
    HOSTS_MAX,
    LABEL_BYTES_MAX,
    PACKET_BYTES_MAX,
    RELEASE_BYTES_MAX,
    STRANGERS_PER_SOURCE_MAX,
    BeaconEar,
    BeaconPacket,
    MalformedBeacon,
)
from atoll.transport.errors import UsageError
from atoll.transport.keys import NodeKey, SiteKeys

GOLDEN = Path(__file__).parent.parent / "golden" / "beacon.txt"
HOST = "192.0.2.7"


@pytest.fixture
def ear():
    return BeaconEar(OWN.node_id, 500, SITE)


def test_a_packet_is_read_as_it_was_written():
    packet = BeaconPacket.decode(beacon(label="Küche", sequence=7))
    assert packet == BeaconPacket(PEER.node_id, 8085, 1000, 7, "Küche", "0.1.0", SITE.tag)


@given(
    st.tuples(st.integers(1, 65535), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)),
    st.text(max_size=80),
    st.text(max_size=80),
    st.sampled_from([None, SITE]),
)
@settings(max_examples=examples(60))
def test_every_packet_fits_and_can_be_read(numbers, label, release, site):
    port, boot, sequence = numbers
    data = BeaconPacket(PEER.node_id, port, boot, sequence, label, release).encode(PEER, site)
    packet = BeaconPacket.decode(data)
    assert len(data) <= PACKET_BYTES_MAX
    assert (packet.node, packet.port, packet.boot, packet.sequence) == (PEER.node_id, port, boot, sequence)
    assert len(packet.label.encode()) <= LABEL_BYTES_MAX
    assert len(packet.release.encode()) <= RELEASE_BYTES_MAX
    assert packet.label.isprintable()
    assert packet.tag == (b"" if site is None else site.tag)
    assert BeaconEar(OWN.node_id, 1, SITE).hear(data, HOST, 0.0) is not None


def golden():
    return dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())


@pytest.mark.parametrize(("name", "site"), [("member", SITE), ("neighbour", None)])
def test_the_bytes_of_a_packet_stay(name, site):
    assert beacon(site=site, label="Küche", sequence=7).hex() == golden()[name]


def test_a_port_that_nobody_can_dial_is_not_told():
    with pytest.raises(UsageError, match="65535"):
        beacon(port=0)


@pytest.mark.parametrize("kind", BAD)
def test_a_malformed_packet_is_counted_by_its_kind(ear, kind):
    with pytest.raises(MalformedBeacon) as caught:
        BeaconPacket.decode(BAD[kind])
    assert caught.value.kind == kind
    assert ear.hear(BAD[kind], HOST, 0.0) is None
    assert ear.statistics()[f"malformed_{kind}"] == 1


def test_a_newer_version_is_named_even_when_it_is_shorter():
    with pytest.raises(MalformedBeacon, match="version 9"):
        BeaconPacket.decode(b"ATL\x09")


@pytest.mark.parametrize("label", [b"\x1b[2J", b"\xff\xfe\xfd\xfc"])
def test_a_label_that_would_play_with_a_terminal_is_refused(label):
    data = beacon(label="ABCD").replace(b"ABCD", label)
    with pytest.raises(MalformedBeacon) as caught:
        BeaconPacket.decode(data)
    assert caught.value.kind == "text"


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"ATL\x01" + tail))
@example(b"")
@settings(max_examples=examples(200))
def test_any_bytes_are_either_malformed_or_forged(data):
    ear = BeaconEar(OWN.node_id, 1, SITE)
    assert ear.hear(data, HOST, 0.0) is None
    assert sum(ear.statistics().values()) == 1


@given(st.integers(0, 8 * len(beacon()) - 1), st.sampled_from([SITE, None, ELSEWHERE]))
@settings(max_examples=examples(150))
def test_one_flipped_bit_is_always_noticed(bit, site):
    data = bytearray(beacon(site=site))
    data[bit % (8 * len(data)) // 8] ^= 1 << bit % 8
    ear = BeaconEar(OWN.node_id, 1, SITE)
    assert ear.hear(bytes(data), HOST, 0.0) is None


@given(st.integers(0, len(beacon()) - 1))
@settings(max_examples=examples(60))
def test_a_truncated_packet_is_malformed(length):
    with pytest.raises(MalformedBeacon):
        BeaconPacket.decode(beacon()[:length])


def test_a_member_is_heard_as_one(ear):
    heard = ear.hear(beacon(), HOST, 0.0)
    assert (heard.peer, heard.host, heard.port, heard.boot) == (PEER.node_id, HOST, 8085, 1000)
    assert heard.member_tag
    assert (heard.label, heard.release) == ("tv", "0.1.0")


@pytest.mark.parametrize("site", [None, ELSEWHERE])
def test_a_node_of_another_site_is_a_neighbour(ear, site):
    assert ear.hear(beacon(site=site), HOST, 0.0).member_tag is False


def test_a_node_without_a_site_hears_everybody_as_neighbours():
    assert BeaconEar(OWN.node_id, 1, None).hear(beacon(), HOST, 0.0).member_tag is False


def test_own_beacons_are_ignored_and_counted(ear):
    assert ear.hear(beacon(OWN, boot=500), HOST, 0.0) is None
    assert ear.statistics()["own"] == 1
    assert ear.twin_heard_at is None


def test_another_process_with_our_key_is_noticed(ear):
    assert ear.hear(beacon(OWN, boot=501), HOST, 7.0) is None
    assert ear.twin_heard_at == 7.0


def test_a_forged_or_recorded_beacon_in_our_name_is_no_twin(ear):
    forged = beacon(OWN, boot=501, site=None)[:-1] + b"!"
    assert ear.hear(forged, HOST, 0.0) is None
    assert ear.hear(beacon(OWN, boot=499), HOST, 0.0) is None
    assert ear.twin_heard_at is None
    assert ear.statistics()["forged"] == ear.statistics()["replayed"] == 1


@pytest.mark.parametrize("site", [SITE, None])
def test_an_old_sequence_is_a_replay_even_when_it_comes_late(ear, site):
    first, second, third = (beacon(site=site, sequence=each) for each in (1, 2, 3))
    assert ear.hear(first, HOST, 0.0)
    assert ear.hear(second, HOST, 1.0)
    assert ear.hear(third, HOST, 2.0)
    for now in (2.1, 500.0):
        assert ear.hear(first, "203.0.113.9", now) is None
        assert ear.hear(second, "203.0.113.9", now) is None
    assert ear.statistics()["replayed"] == 4


def test_an_earlier_boot_is_a_replay_while_the_later_one_is_heard(ear):
    old = beacon(boot=900, sequence=77)
    assert ear.hear(beacon(boot=1000), HOST, 0.0)
    assert ear.hear(old, HOST, 1.0) is None
    assert ear.statistics()["replayed"] == 1


def test_a_host_whose_clock_was_set_back_is_heard_again_after_a_while(ear):
    assert ear.hear(beacon(boot=1000), HOST, 0.0)
    assert ear.hear(beacon(boot=3), HOST, FORGET_S - 0.1) is None
    assert ear.hear(beacon(boot=3, sequence=2), HOST, FORGET_S)


def test_one_beat_over_several_interfaces_is_heard_once_for_each_address(ear):
    data = beacon()
    hosts = [HOST, "192.0.2.8", "fe80::1%eth0"]
    assert [ear.hear(data, host, 0.0).host for host in hosts] == hosts
    assert ear.hear(data, HOST, 0.0) is None
    assert ear.statistics()["repeated"] == 1
    for number in range(50):
        ear.hear(data, f"198.51.100.{number}", 0.1)
    assert ear.statistics()["heard"] == HOSTS_MAX


def test_other_bytes_under_a_sequence_heard_already_are_forged(ear):
    assert ear.hear(beacon(site=None), HOST, 0.0)
    assert ear.hear(beacon(site=None, port=1), HOST, 0.0) is None
    assert ear.statistics()["forged"] == 1


def test_a_right_tag_with_a_wrong_hmac_is_forged(ear):
    # An outsider can copy the tag, which is public, and sign with a key of his own.
    rogue = SiteKeys(b"r" * 32)
    rogue.__dict__["tag"] = SITE.tag
    assert ear.hear(beacon(site=rogue), HOST, 0.0) is None
    assert ear.statistics()["forged"] == 1


def signed_by(signer, data):
    return data[:-64] + signer.sign(b"atoll beacon" + data[:-64])


@pytest.mark.parametrize("site", [SITE, None])
def test_a_signature_of_another_key_is_forged(ear, site):
    assert ear.hear(signed_by(OTHER, beacon(site=site)), HOST, 0.0) is None
    assert ear.statistics()["forged"] == 1


def test_a_stranger_is_checked_at_every_new_sequence(ear):
    assert ear.hear(beacon(site=None, sequence=1), HOST, 0.0)
    assert ear.hear(signed_by(OTHER, beacon(site=None, sequence=4_000_000)), HOST, 1.0) is None
    assert ear.hear(beacon(site=None, sequence=2), HOST, 1.1), "a forged jump ahead must not make the true one a replay"


def test_a_members_signature_is_checked_once_a_boot(ear, monkeypatch):
    checked = []
    real = beacon_packet.signature_valid
    monkeypatch.setattr(
        beacon_packet, "signature_valid", lambda *arguments: checked.append(arguments[0]) or real(*arguments)
    )
    for sequence in range(1, 30):
        assert ear.hear(beacon(sequence=sequence), HOST, sequence * 1.0)
    assert len(checked) == 1
    assert ear.hear(beacon(boot=2000), HOST, 31.0)
    assert len(checked) == 2


def test_who_joins_our_site_becomes_a_member(ear):
    assert not ear.hear(beacon(site=None, boot=1000), HOST, 0.0).member_tag
    assert ear.hear(beacon(site=SITE, boot=1001), HOST, 1.0).member_tag
    assert (ear.statistics()["members_known"], ear.statistics()["strangers_known"]) == (1, 0)


def strangers(count, start=1000):
    for number in range(start, start + count):
        key = NodeKey(number.to_bytes(32, "big"))
        yield BeaconPacket(key.node_id, 1, 1, 1).encode(key, None)


def test_invented_nodes_of_one_source_do_not_grow_memory_nor_starve_others(ear):
    for number, data in enumerate(strangers(400)):
        ear.hear(data, "198.51.100.1", number / 10)
        if number == 200:
            assert ear.hear(beacon(site=None), HOST, number / 10), "another source's share is untouched"
        if number % 50 == 0:
            # Keeps its nodes alive, so that none of them is forgotten for a new one.
            ear.hear(beacon(OTHER, None, sequence=number + 1), "198.51.100.1", number / 10)
    assert ear.statistics()["strangers_known"] <= STRANGERS_PER_SOURCE_MAX + 1
    assert ear.statistics()["limited"] > 0


def test_a_fast_flood_of_one_source_buys_few_checks_and_no_member_notices(ear, monkeypatch):
    checks = Counter()
    real = beacon_packet.signature_valid
    monkeypatch.setattr(beacon_packet, "signature_valid", lambda *arguments: checks.update(["all"]) or real(*arguments))
    assert ear.hear(beacon(OTHER), HOST, 0.0)
    for number, data in enumerate(strangers(300)):
        ear.hear(data, HOST, number / 10_000)
    assert checks["all"] <= CHECKS_BURST + 2
    assert ear.hear(beacon(OTHER, sequence=2), HOST, 0.04), "even a member at that very address goes on"
    assert ear.hear(beacon(PEER, site=None), "192.0.2.99", 0.04), "another stranger is heard meanwhile"


def test_a_flood_of_invented_sources_is_bounded_too(ear, monkeypatch):
    monkeypatch.setattr(beacon_packet, "SOURCES_MAX", 64)
    monkeypatch.setattr(beacon_packet, "FIRST_CHECKS_PER_S", 20.0)
    assert ear.hear(beacon(OTHER, None), "192.0.2.99", 0.0)
    for number, data in enumerate(strangers(300)):
        ear.hear(data, f"203.0.113.{number}", 0.001)
    assert len(ear._sources) <= 64
    assert ear.statistics()["strangers_known"] <= 21
    assert ear.hear(beacon(PEER), HOST, 0.01), "members do not share the strangers' budget"
    assert ear.hear(beacon(OTHER, None, sequence=2), "192.0.2.99", 1.0), "nor do strangers known before"


def test_silent_strangers_make_room(ear, monkeypatch):
    monkeypatch.setattr(ear._strangers, "_size_max", 5)
    packets = list(strangers(7))
    for number, data in enumerate(packets[:6]):
        ear.hear(data, f"203.0.113.{number}", 0.0)
    assert ear.statistics()["strangers_known"] == 5
    assert ear.statistics()["limited"] == 1
    assert ear.hear(packets[6], HOST, FORGET_S)
    assert ear.statistics()["strangers_known"] == 5


EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2), st.floats(0, 4)), max_size=40
)
PACKETS = {
    (who, boot, sequence): beacon((PEER, OTHER, OWN)[who], (SITE, None, SITE)[who], boot=boot, sequence=sequence)
    for who in range(3)
    for boot in range(1, 4)
    for sequence in range(1, 5)
}


@given(EVENTS)
@settings(max_examples=examples(100))
def test_no_order_of_replays_is_ever_heard_as_news(events):
    """What is heard is newer, or the same beat at another address, or an earlier boot after a long silence."""
    ear, now, last = BeaconEar(OWN.node_id, 9, SITE), 0.0, {}
    for who, boot, sequence, address, pause in events:
        now += pause
        host = f"192.0.2.{address}"
        if ear.hear(PACKETS[who, boot, sequence], host, now) is None:
            continue
        assert who != 2
        before, hosts, at = last.get(who, ((0, 0), set(), now))
        if (boot, sequence) == before:
            assert host not in hosts
            hosts.add(host)
            continue
        assert (boot, sequence) > before or (boot < before[0] and now - at >= FORGET_S)
        last[who] = ((boot, sequence), {host}, now)
