"""Beacons: the packet, the ear that hostile packets meet, and real multicast on loopback and between namespaces."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ports import free_port

from atoll.transport import beacon_packet
from atoll.transport.beacon import GROUP_4, INTERFACES_MAX, Beacon, Face, faces_of
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
WITHIN_S = 10
OWN, PEER, OTHER = (NodeKey(bytes([number]) * 32) for number in (1, 2, 3))
SITE, ELSEWHERE = SiteKeys(b"s" * 32), SiteKeys(b"e" * 32)
HOST = "192.0.2.7"


def beacon(key=PEER, site=SITE, *, sequence=1, boot=1000, port=8085, label="tv", release="0.1.0"):
    return BeaconPacket(key.node_id, port, boot, sequence, label, release).encode(key, site)


@pytest.fixture
def ear():
    return BeaconEar(OWN.node_id, 500, SITE)


# The packet


def test_a_packet_is_read_as_it_was_written():
    packet = BeaconPacket.decode(beacon(label="Küche", sequence=7))
    assert packet == BeaconPacket(PEER.node_id, 8085, 1000, 7, "Küche", "0.1.0", SITE.tag)


@given(
    st.tuples(st.integers(1, 65535), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)),
    st.text(max_size=80),
    st.text(max_size=80),
    st.sampled_from([None, SITE]),
)
@settings(max_examples=60)
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


def changed(data, at, value):
    return data[:at] + bytes([value]) + data[at + 1 :]


LABEL_AT = 51
BAD = {
    "short": beacon()[:100],
    "long": beacon() + bytes(PACKET_BYTES_MAX),
    "magic": b"GET" + beacon()[3:],
    "version": changed(beacon(), 3, 2),
    "flags": changed(beacon(), 4, 0x81),
    "port": changed(changed(beacon(), 5, 0), 6, 0),
    "text": changed(beacon(), LABEL_AT, 255),
    "length": beacon() + b"!",
}


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
@settings(max_examples=200)
def test_any_bytes_are_either_malformed_or_forged(data):
    ear = BeaconEar(OWN.node_id, 1, SITE)
    assert ear.hear(data, HOST, 0.0) is None
    assert sum(ear.statistics().values()) == 1


@given(st.integers(0, 8 * len(beacon()) - 1), st.sampled_from([SITE, None, ELSEWHERE]))
@settings(max_examples=150)
def test_one_flipped_bit_is_always_noticed(bit, site):
    data = bytearray(beacon(site=site))
    data[bit % (8 * len(data)) // 8] ^= 1 << bit % 8
    ear = BeaconEar(OWN.node_id, 1, SITE)
    assert ear.hear(bytes(data), HOST, 0.0) is None


@given(st.integers(0, len(beacon()) - 1))
@settings(max_examples=60)
def test_a_truncated_packet_is_malformed(length):
    with pytest.raises(MalformedBeacon):
        BeaconPacket.decode(beacon()[:length])


# The ear


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
@settings(max_examples=100)
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


# Interfaces


class Ip:
    def __init__(self, ip):
        self.ip = ip


class Adapter:
    def __init__(self, name, index, *ips):
        self.nice_name, self.index, self.ips = name, index, [Ip(ip) for ip in ips]


ETH = Adapter("eth0", 4, "192.0.2.2", ("fd00::2", 0, 0), ("fe80::2", 0, 4), ("fe80::3", 0, 4))
LO = Adapter("lo", 1, "127.0.0.1", ("::1", 0, 0))


def test_beacons_leave_from_each_ipv4_address_and_each_link_local_interface():
    assert faces_of([ETH, LO, Adapter("down0", 9)]) == [
        Face(4, "lo", 1, "127.0.0.1"),
        Face(4, "eth0", 4, "192.0.2.2"),
        Face(6, "eth0", 4, "fe80::2"),
    ]


def test_only_the_named_interfaces_are_used():
    assert {face.name for face in faces_of([ETH, LO], ("lo",))} == {"lo"}


def test_a_host_with_hundreds_of_interfaces_uses_the_first_ones():
    faces = faces_of([Adapter(f"veth{number}", number, f"10.0.0.{number}") for number in range(1, 200)])
    assert len(faces) == INTERFACES_MAX


# Sockets


@contextlib.asynccontextmanager
async def beacons(*described, port, period_s=0.1):
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Beacon(key, 1000 + number, site, beacon_port=port, interfaces=("lo",), period_s=period_s)
            )
            for number, (key, site) in enumerate(described)
        ]


async def wait_heard(one, wanted):
    with anyio.fail_after(WITHIN_S):
        while not wanted(heard := await one.receive()):
            pass
    return heard


@pytest.mark.anyio
async def test_nodes_of_one_host_hear_each_other():
    async with beacons((OWN, SITE), (PEER, SITE), (OTHER, None), port=free_port(socket.SOCK_DGRAM)) as (
        own,
        peer,
        other,
    ):
        heard = await wait_heard(own, lambda each: each.peer == PEER.node_id)
        assert (heard.host, heard.port, heard.boot) == ("127.0.0.1", 1001, peer.boot)
        assert heard.member_tag
        assert not (await wait_heard(own, lambda each: each.peer == OTHER.node_id)).member_tag
        assert not (await wait_heard(other, lambda each: each.peer == OWN.node_id)).member_tag
        assert own.notes == ()
        assert own.statistics()["own"] > 0
        assert own.statistics()["interfaces"] == 1


@pytest.mark.anyio
async def test_garbage_on_the_port_is_counted_and_nothing_ends():
    port = free_port(socket.SOCK_DGRAM)
    async with beacons((OWN, SITE), (PEER, SITE), port=port) as (own, _):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            for data in (b"", b"x", os.urandom(200), os.urandom(3000), *BAD.values()):
                sender.sendto(data, (GROUP_4, port))
            with anyio.fail_after(WITHIN_S):
                while not all(own.statistics().get(f"malformed_{kind}") for kind in BAD):
                    await own.receive()
        await wait_heard(own, lambda each: each.peer == PEER.node_id)


@pytest.mark.anyio
async def test_a_packet_to_this_host_alone_is_not_read():
    port = free_port(socket.SOCK_DGRAM)
    async with beacons((OWN, SITE), (PEER, SITE), port=port) as (own, _):
        await wait_heard(own, lambda _: True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(5):
                with contextlib.suppress(ConnectionRefusedError):
                    sender.sendto(b"unicast", ("127.0.0.1", port))
        for _ in range(3):
            await own.receive()
        assert not [name for name in own.statistics() if name.startswith("malformed")]


@pytest.mark.anyio
async def test_a_reader_who_does_not_come_costs_only_hints(monkeypatch):
    monkeypatch.setattr("atoll.transport.beacon.QUEUE_MAX", 2)
    async with beacons((OWN, SITE), (PEER, SITE), port=free_port(socket.SOCK_DGRAM), period_s=0.02) as (own, peer):
        with anyio.fail_after(WITHIN_S):
            while not own.statistics().get("overflowed"):
                await peer.receive()


@pytest.mark.anyio
async def test_a_host_without_a_usable_interface_says_so_and_goes_on(caplog):
    async with Beacon(
        OWN, 1, SITE, beacon_port=free_port(socket.SOCK_DGRAM), interfaces=("nowhere0",), period_s=0.02
    ) as lonely:
        with anyio.fail_after(WITHIN_S):
            while not lonely.notes:
                await anyio.lowlevel.checkpoint()
    assert "nodes here do not find each other" in lonely.notes[0]
    assert caplog.text.count("nodes here do not find each other") == 1


@pytest.mark.anyio
async def test_a_port_that_another_program_holds_for_itself_is_said_in_words():
    port = free_port(socket.SOCK_DGRAM)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as greedy:
        greedy.bind(("0.0.0.0", port))
        async with beacons((OWN, SITE), port=port) as (own,):
            with anyio.fail_after(WITHIN_S):
                while not own.notes:
                    await anyio.lowlevel.checkpoint()
                assert str(port) in own.notes[0]
                greedy.close()
                while own.notes:
                    await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "arguments", [{"port_of_links": 0}, {"port_of_links": 70_000}, {"beacon_port": 0}, {"period_s": 0}]
)
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(UsageError):
        Beacon(**{"key": OWN, "port_of_links": 1, "site_keys": None} | arguments)


# Namespaces

LISTENER = """
import sys, time
import anyio
from atoll.transport.beacon import Beacon
from atoll.transport.keys import NodeKey

async def main(number):
    async with Beacon(NodeKey(bytes([number]) * 32), 1000 + number, None, period_s=0.3) as beacon:
        while True:
            heard = await beacon.receive()
            print(heard.host, heard.port, flush=True)

anyio.run(main, int(sys.argv[1]))
"""


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def wire():
    """Two namespaces joined by a veth without any IPv4 address; link-local IPv6 is there by itself."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2 to make network namespaces: beacons between hosts are NOT tested here")
    names = [f"atoll-beacon-{os.getpid()}-{side}" for side in "ab"]
    try:
        for name in names:
            made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"namespaces cannot be made here, beacons between hosts are NOT tested: {made.stderr}")
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "link", "add", "wire", "netns", names[0], "type", "veth", "peer", "name", "wire", "netns", names[1])
        for name in names:
            # Otherwise the address is unusable for a second while duplicates are looked for.
            run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.wire.accept_dad=0")
            run("ip", "-n", name, "link", "set", "wire", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@contextlib.asynccontextmanager
async def listener(namespace, number):
    """A beacon in a namespace; gives an iterator of the lines it prints."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", LISTENER, str(number)]
    async with await anyio.open_process(command, stderr=None) as process:
        try:
            yield process.stdout
        finally:
            process.kill()


async def wait_line(stream, wanted):
    text = ""
    with anyio.fail_after(WITHIN_S):
        while wanted not in text:
            text = text[-1000:] + (await stream.receive()).decode()


def without_ipv6(name):
    run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.wire.disable_ipv6=1")


@pytest.mark.lab
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_two_hosts_hear_each_other_over_ipv6_alone(wire):
    async with listener(wire[0], 1) as first, listener(wire[1], 2) as second:
        await wait_line(first, "%wire 1002")
        await wait_line(second, "%wire 1001")


@pytest.mark.lab
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_two_hosts_hear_each_other_over_ipv4_alone_also_at_a_new_address(wire):
    for number, name in enumerate(wire, 1):
        without_ipv6(name)
        run("ip", "-n", name, "address", "add", f"192.168.77.{number}/24", "dev", "wire")
    async with listener(wire[0], 1) as first, listener(wire[1], 2) as second:
        await wait_line(first, "192.168.77.2 1002")
        await wait_line(second, "192.168.77.1 1001")
        run("ip", "-n", wire[1], "address", "flush", "dev", "wire")
        run("ip", "-n", wire[1], "address", "add", "192.168.77.9/24", "dev", "wire")
        await wait_line(first, "192.168.77.9 1002")
        await wait_line(second, "192.168.77.1 1001")


@pytest.mark.lab
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_interface_that_appears_later_is_joined_and_one_that_vanishes_does_no_harm(wire):
    async with listener(wire[0], 1) as first, listener(wire[1], 2) as second:
        await wait_line(first, "%wire 1002")
        run("ip", "-n", wire[0], "link", "delete", "wire")
        run("ip", "link", "add", "late", "netns", wire[0], "type", "veth", "peer", "name", "late", "netns", wire[1])
        for number, name in enumerate(wire, 1):
            run("ip", "-n", name, "address", "add", f"192.168.78.{number}/24", "dev", "late")
            run("ip", "-n", name, "link", "set", "late", "up")
        await wait_line(first, "192.168.78.2 1002")
        await wait_line(second, "192.168.78.1 1001")
