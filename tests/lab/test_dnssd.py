"""DNS-SD as others see it: a browser in another process, and a question written by hand after the RFCs."""

import socket
import struct
import subprocess
import sys
import threading

import anyio
import anyio.to_thread
import pytest
from waiting import until

from atoll.actors.discoverer import discoverer
from atoll.actors.discoverer.discoverer import Discoverer
from atoll.actors.discoverer.messages import MESSAGES, PATH, DialWanted, ListSeen
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem
from atoll.transport import dnssd as module
from atoll.transport.codec import Codec
from atoll.transport.dnssd import Announced, DnsSd
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey
from atoll.transport.network_watch import NetworkChanged

pytestmark = pytest.mark.anyio
CODEC = Codec([*RUNTIME_MESSAGES, *MESSAGES])
MDNS = ("224.0.0.251", 5353)
HERE = ["127.0.0.1"]
PTR, TXT, SRV = 12, 16, 33


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Two loops: each test takes seconds of mDNS's own waiting, and the thread is the same under all."""
    return request.param


BROWSER = """
import sys, time
from zeroconf import ServiceBrowser, Zeroconf
found = []
class Listener:
    def add_service(self, zeroconf, kind, name):
        info = zeroconf.get_service_info(kind, name, timeout=3000)
        if info and info.properties.get(b"short", b"").decode() == sys.argv[1]:
            found.append(info)
    def update_service(self, *_): pass
    def remove_service(self, *_): pass
zeroconf = Zeroconf(interfaces=["127.0.0.1"])
ServiceBrowser(zeroconf, "_atoll._tcp.local.", Listener())
deadline = time.monotonic() + 15
while not found and time.monotonic() < deadline:
    time.sleep(0.02)
for info in found:
    print(info.properties[b"id"].decode(), info.port, info.parsed_addresses()[0], info.properties[b"version"].decode())
zeroconf.close()
"""


@pytest.fixture
async def mdns():
    """Say loudly where loopback takes no multicast, or the port is somebody's own."""
    probe = DnsSd(Announced(NodeKey.generate().node_id, 1, "probe", "0"), HERE)
    try:
        await probe.open()
    except Unreachable as error:
        pytest.skip(f"NO MDNS HERE, SO NOTHING IS SHOWN ABOUT DNS-SD: {error}")
    finally:
        await probe.close()


def said_by(key, label="tv"):
    return DnsSd(Announced(key.node_id, 8085, label, "0.1.0"), HERE)


async def test_a_stock_browser_in_another_process_finds_the_node(mdns):
    key = NodeKey.generate()
    dnssd = said_by(key)
    await dnssd.open()
    try:
        done = await anyio.run_process([sys.executable, "-c", BROWSER, key.node_id.short], check=False)
    finally:
        await dnssd.close()
    assert done.stdout.decode().split() == [str(key.node_id), "8085", "127.0.0.1", "0.1.0"], done.stderr.decode()


def asked(name, kind):
    """Write a question after RFC 1035 and RFC 6762: one question, class IN, from a port of our own."""
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.rstrip(".").split("."))
    return struct.pack(">HHHHHH", 7, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def ask(name, kind):
    """Ask as a resolver that knows no mDNS does; it is answered to its own port (RFC 6762, section 6.7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sock.settimeout(1.0)
        for _ in range(10):
            sock.sendto(asked(name, kind), MDNS)
            try:
                while True:
                    data = sock.recv(9000)
                    if struct.unpack_from(">HHHH", data)[0] == 7 and struct.unpack_from(">HHHH", data)[3]:
                        return data
            except TimeoutError:
                continue
    return b""


async def test_a_question_written_by_hand_is_answered_with_name_port_and_texts(mdns):
    key = NodeKey.generate()
    dnssd = said_by(key, "living room.tv")
    await dnssd.open()
    try:
        instance = f"living room-tv-{key.node_id.short}"
        names = await anyio.to_thread.run_sync(ask, "_atoll._tcp.local.", PTR)
        assert instance.encode() in names
        texts = await anyio.to_thread.run_sync(ask, f"{instance}._atoll._tcp.local.", TXT)
        for text in (f"id={key.node_id}", f"short={key.node_id.short}", "label=living room.tv", "version=0.1.0"):
            assert bytes([len(text)]) + text.encode() in texts
        where = await anyio.to_thread.run_sync(ask, f"{instance}._atoll._tcp.local.", SRV)
        assert struct.pack(">HHH", 0, 0, 8085) in where
    finally:
        await dnssd.close()


class Dials(Actor):
    def __init__(self):
        self.wanted = []

    async def started(self):
        self.system.subscribe(DialWanted, self.ref)

    async def receive(self, delivery):
        self.wanted.append(delivery.message)


async def test_two_nodes_without_beacons_hear_each_other_and_one_dials(mdns, monkeypatch):
    monkeypatch.setattr(discoverer, "HINTS_S", 0.1)
    low, high = sorted((NodeKey.generate() for _ in range(2)), key=lambda key: key.node_id)
    threads = threading.active_count()
    async with ActorSystem(low.node_id, CODEC) as one, ActorSystem(high.node_id, CODEC) as other:
        await one.spawn(Dials, "dials")
        dials = one._cells["dials"].actor
        for system, key in ((one, low), (other, high)):
            await system.spawn(lambda key=key: Discoverer(key.node_id, None, dnssd=lambda key=key: said_by(key)), PATH)
        await until(lambda: [each for each in dials.wanted if each.peer == high.node_id])
        assert DialWanted(high.node_id, "127.0.0.1", 8085) in dials.wanted
        seen = await one.ask(one.find(PATH), ListSeen())
        (line,) = [each for each in seen.nodes if each.node == high.node_id]
        assert (line.label, line.release, line.member, line.standing) == ("tv", "0.1.0", False, "")
    await until(lambda: threading.active_count() <= threads + 2)


async def test_where_it_cannot_be_had_the_node_says_so_and_goes_on(monkeypatch):
    key = NodeKey.generate()

    class Taken(DnsSd):
        tries = 0

        def _open(self):
            Taken.tries += 1
            raise OSError("Address already in use") if Taken.tries == 1 else ImportError("No module named zeroconf")

    watches = []

    class Watch:
        def __init__(self, tell):
            watches.append(tell)

        async def run(self):
            await anyio.sleep_forever()

    async def notes():
        return (await system.ask(system.find(PATH), ListSeen())).notes

    async with ActorSystem(key.node_id, CODEC) as system:
        said = Announced(key.node_id, 8085, "tv", "0")
        await system.spawn(lambda: Discoverer(key.node_id, None, watch=Watch, dnssd=lambda: Taken(said, HERE)), PATH)
        actor = system._cells[PATH].actor
        await until(lambda: actor._dnssd_note)
        assert await notes() == ("UDP port 5353 cannot be used for DNS-SD: Address already in use",)
        # Tried anew when the network changes, not all the time.
        watches[0](NetworkChanged(frozenset(), frozenset(), "an interface changed"))
        await until(lambda: "zeroconf" in actor._dnssd_note)
        assert await notes() == ("DNS-SD needs the package zeroconf: pip install 'atoll[dnssd]'",)
    assert Taken.tries == 2


def test_a_node_that_is_not_asked_to_does_not_even_import_it():
    program = "import sys, atoll.node; print('zeroconf' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {b"id": b"tv"},
        {b"id": b"\xff"},
        {b"id": None},
        {b"id": b"ID", b"label": b"x" * 49},
        {b"id": b"ID", b"label": b"a\nb"},
        {b"id": b"ID", b"version": b"9" * 25},
        {b"id": b"ID", b"more": b"x" * 600},
    ],
)
def test_what_strangers_announce_is_refused_where_it_is_no_node(texts):
    node, own = NodeKey.generate().node_id, NodeKey.generate().node_id
    filled = {key: str(node).encode() if value == b"ID" else value for key, value in texts.items()}
    with pytest.raises(module.UsageError):
        module.hints_of(8085, filled, HERE, own)


@pytest.mark.parametrize("port", [None, 0, 65536])
def test_a_port_that_is_none_is_refused(port):
    node, own = NodeKey.generate().node_id, NodeKey.generate().node_id
    with pytest.raises(module.UsageError):
        module.hints_of(port, {b"id": str(node).encode()}, HERE, own)


def test_addresses_and_services_are_limited(monkeypatch):
    own, node = NodeKey.generate().node_id, NodeKey.generate().node_id
    many = [f"192.0.2.{number}" for number in range(100)]
    assert len(module.hints_of(1, {b"id": str(node).encode()}, many, own)) == module.ADDRESSES_MAX
    assert module.hints_of(1, {b"id": str(own).encode()}, many, own) == []
    monkeypatch.setattr(module, "SERVICES_MAX", 2)
    dnssd = DnsSd(Announced(own, 1, "", ""), HERE)

    class Info:
        port = 8085

        def __init__(self):
            self.properties = {b"id": str(NodeKey.generate().node_id).encode()}

        def parsed_scoped_addresses(self):
            return HERE

    for number in range(4):
        dnssd._take(f"node-{number}", Info())
    dnssd._take("nobody", None)
    bad = Info()
    bad.properties = {}
    dnssd._take("node-0", bad)
    assert dnssd.statistics() == {"services": 1, "refused": 2, "unresolved": 1, "malformed": 1}
    assert len(dnssd.hints()) == 1
