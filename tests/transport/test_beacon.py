"""Beacons on real sockets and interfaces: who hears whom, what a host without multicast says."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys

import anyio
import pytest
from beacon_samples import BAD, OTHER, OWN, PEER, SITE
from ports import free_port

from atoll.transport.beacon import GROUP_4, INTERFACES_MAX, Beacon, Face, faces_of
from atoll.transport.errors import UsageError

WITHIN_S = 10


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
