"""What every link transport keeps, on every loop: the guarantees of `transport/base.py`, one suite for all of them."""

import contextlib
import random
import socket

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from atoll.transport.admission import CloudAdmission, SiteAdmission
from atoll.transport.base import (
    MESSAGE_BYTES_MAX,
    QUEUE_BYTES_MAX,
    Delivered,
    DialFailed,
    LinkDown,
    LinkUp,
    Standing,
)
from atoll.transport.credit import MESSAGE_COST_BYTES, NEIGHBOUR_WINDOW_BYTES, WINDOW_BYTES
from atoll.transport.errors import Congested, Refused, Unreachable, UsageError
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.memory import MemoryNetwork, MemoryTransport
from atoll.transport.zeromq import ZeroMqTransport

pytestmark = pytest.mark.anyio

SITE = SiteKeys.generate()
HANDSHAKE_S = 0.5
BUFFERS_BYTES_MAX = 64 * 1024 * 1024
"""What a slow peer may hold back between two nodes: the sender's queue, the receiver's inbox, the kernel's buffers."""


class Node:
    def __init__(self, transport, key):
        self.transport, self.key = transport, key
        self.enough, self.ended = anyio.Event(), anyio.Event()

    async def live(self, *, task_status):
        async with self.transport:
            task_status.started()
            await self.enough.wait()
        self.ended.set()

    async def close(self):
        self.enough.set()
        with anyio.fail_after(10):
            await self.ended.wait()

    @property
    def id(self):
        return self.key.node_id

    async def next(self, kind):
        """The next event, which must be of this kind."""
        with anyio.fail_after(10):
            event = await self.transport.receive()
        assert isinstance(event, kind), event
        return event

    async def messages(self, count):
        return [(await self.next(Delivered)).data for _ in range(count)]


class World:
    """Opens nodes on one kind of transport, joins them, and does to the wire what the world does."""

    async def __aenter__(self):
        self.stack = contextlib.AsyncExitStack()
        self.group = await self.stack.enter_async_context(anyio.create_task_group())
        self.stack.callback(self.group.cancel_scope.cancel)
        await self.start()
        return self

    async def __aexit__(self, *error):
        return await self.stack.__aexit__(*error)

    async def start(self):
        pass

    async def open(self, *, site=SITE, admission=None, key=None, label="", port=0):
        """A node whose transport lives in a task of its own, as in a supervision tree."""
        key = key or NodeKey.generate()
        admission = admission or SiteAdmission(keys=site, own=key.node_id)
        node = Node(self.make(key, admission, label, port), key)
        await self.group.start(node.live)
        return node

    async def join(self, first, second, *, breakable=False):
        first.transport.dial(second.id, *await self.way(first, second, breakable=breakable))
        return await first.next(LinkUp), await second.next(LinkUp)

    async def pair(self, *, breakable=False):
        first, second = await self.open(), await self.open()
        await self.join(first, second, breakable=breakable)
        return first, second


class MemoryWorld(World):
    silence_s = 0.2

    async def start(self):
        self.network = MemoryNetwork(silence_s=self.silence_s, connect_s=HANDSHAKE_S)

    def make(self, key, admission, label, port):
        return MemoryTransport(self.network, key, admission, label=label, host="127.0.0.1", port=port)

    async def way(self, _first, second, *, breakable=False):
        return "127.0.0.1", second.transport.port

    async def freeze(self, first, second):
        self.network.cut(first.id, second.id)

    async def thaw(self, first, second):
        self.network.heal(first.id, second.id)

    async def kill(self, node):
        node.transport.crash()

    async def black_hole(self, node, peer):
        await self.open(key=peer, port=9)
        self.network.cut(node.id, peer.node_id)
        return 9


class Wire:
    """A TCP proxy between two nodes that can stop carrying, or break."""

    def __init__(self, port):
        self.port, self.flows, self.sockets = port, anyio.Event(), []
        self.flows.set()

    async def live(self, *, task_status):
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            task_status.started(listener.extra(anyio.abc.SocketAttribute.local_port))
            await listener.serve(self.serve)

    async def serve(self, client):
        server = await anyio.connect_tcp("127.0.0.1", self.port)
        self.sockets += [client, server]
        async with client, server, anyio.create_task_group() as group:
            group.start_soon(self.carry, client, server, group)
            group.start_soon(self.carry, server, client, group)

    async def carry(self, source, target, group):
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                data = await source.receive()
                await self.flows.wait()
                await target.send(data)
        group.cancel_scope.cancel()

    async def sever(self):
        for each in self.sockets:
            await anyio.aclose_forcefully(each)


class ZeroMqWorld(World):
    silence_s = 0.6
    """Several heartbeats, also on a busy host."""

    async def start(self):
        self.wires = {}

    def make(self, key, admission, label, port):
        return ZeroMqTransport(
            key,
            admission,
            label=label,
            host="127.0.0.1",
            port=port,
            handshake_s=HANDSHAKE_S,
            silence_s=self.silence_s,
        )

    async def way(self, first, second, *, breakable=False):
        if not breakable:
            return "127.0.0.1", second.transport.port
        wire = self.wires[frozenset((first.id, second.id))] = Wire(second.transport.port)
        return "127.0.0.1", await self.group.start(wire.live)

    async def freeze(self, first, second):
        self.wires[frozenset((first.id, second.id))].flows = anyio.Event()

    async def thaw(self, first, second):
        self.wires[frozenset((first.id, second.id))].flows.set()

    async def kill(self, node):
        # What the kernel does for a process that was killed; the process itself is killed in test_zeromq.py.
        for pair, wire in self.wires.items():
            if node.id in pair:
                await wire.sever()

    async def black_hole(self, _node, _peer):
        hole = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        return hole.getsockname()[1]


@pytest.fixture(params=[MemoryWorld, ZeroMqWorld], ids=["memory", "zeromq"])
def world(request):
    return request.param()


async def test_a_link_comes_up_at_both_ends_with_standing_label_and_host(world):
    async with world:
        first, second = await world.open(label="kitchen"), await world.open(label="cellar")
        here, there = await world.join(first, second)
        assert here == LinkUp(second.id, Standing.MEMBER, "cellar", "127.0.0.1")
        assert there == LinkUp(first.id, Standing.MEMBER, "kitchen", "127.0.0.1")
        for node in (first, second):
            counted = node.transport.statistics()
            assert (counted["links"], counted["links_up"]) == (1, 1)


async def test_thousands_of_messages_of_all_sizes_arrive_whole_and_in_order_both_ways(world):
    async with world:
        first, second = await world.pair()
        sizes = random.Random(1)
        sent = [b"%d " % n + bytes(sizes.choice((0, 1, 100, 3000))) for n in range(3000)]
        sent[10:10] = [b"", bytes(MESSAGE_BYTES_MAX), b"after", bytes(256 * 1024), bytes(256 * 1024 + 1), b""]
        for message in sent:
            first.transport.send(second.id, message)
            second.transport.send(first.id, message)
        assert await second.messages(len(sent)) == sent
        assert await first.messages(len(sent)) == sent
        assert second.transport.statistics()["messages_received"] == len(sent)
        assert first.transport.statistics()["bytes_sent"] == sum(map(len, sent))


async def test_when_both_dial_at_once_one_link_comes_up_and_nothing_is_lost(world):
    async with world:
        first, second = await world.open(), await world.open()
        for turn in range(4):
            here, there = await world.way(first, second), await world.way(second, first)
            first.transport.dial(second.id, *here)
            second.transport.dial(first.id, *there)
            for node, peer in ((first, second), (second, first)):
                assert (await node.next(LinkUp)).peer == peer.id
                node.transport.send(peer.id, b"at once %d" % turn)
            for node, peer in ((first, second), (second, first)):
                # Nothing but the message: no second link, no link down, no failed dial.
                assert await node.next(Delivered) == Delivered(peer.id, b"at once %d" % turn)
                assert node.transport.statistics()["links"] == 1
            first.transport.hang_up(second.id, "next turn")
            await first.next(LinkDown)
            await second.next(LinkDown)


async def test_to_dial_again_is_harmless_before_and_after_the_link_is_up(world):
    async with world:
        first, second = await world.open(), await world.open()
        way = await world.way(first, second)
        for _ in range(3):
            first.transport.dial(second.id, *way)
        await first.next(LinkUp)
        await second.next(LinkUp)
        first.transport.dial(second.id, *way)
        second.transport.dial(first.id, *await world.way(second, first))
        first.transport.send(second.id, b"only this")
        assert await second.messages(1) == [b"only this"]
        assert first.transport.statistics()["links_up"] == second.transport.statistics()["links_up"] == 1


async def test_a_slow_receiver_is_congested_at_its_sender_only_and_loses_nothing_that_was_taken(world):
    async with world:
        sender, slow = await world.pair()
        quick = await world.open()
        await world.join(sender, quick)
        taken, refused_in_a_row = 0, 0
        while refused_in_a_row < 20:
            try:
                sender.transport.send(slow.id, b"%d " % taken + bytes(100_000))
            except Congested:
                refused_in_a_row += 1
                # Whoever reads notices nothing of those who do not.
                sender.transport.send(quick.id, b"quick")
                assert await quick.messages(1) == [b"quick"]
            else:
                taken, refused_in_a_row = taken + 1, 0
            assert taken * 100_000 < BUFFERS_BYTES_MAX
        assert taken * 100_000 > QUEUE_BYTES_MAX // 4
        assert sender.transport.statistics()["congested"] >= 20
        got = await slow.messages(taken)
        assert [int(data.split()[0]) for data in got] == list(range(taken))
        sender.transport.send(slow.id, b"room again")
        assert await slow.messages(1) == [b"room again"]


async def fill(sender, receiver, size):
    """Send until nothing more is taken; how many messages were."""
    taken = refused = 0
    while refused < 20:
        try:
            sender.transport.send(receiver.id, b"%d " % taken + bytes(size))
        except Congested:
            refused += 1
            await anyio.sleep(0.005)
        else:
            taken, refused = taken + 1, 0
    return taken


async def test_no_more_than_a_window_waits_at_who_does_not_read_and_all_of_it_goes_on_when_it_does(world):
    async with world:
        sender, slow = await world.pair()
        for _ in range(3):
            taken = await fill(sender, slow, 50_000)
            assert WINDOW_BYTES // 2 < slow.transport._inbox.bytes <= WINDOW_BYTES
            assert [int(data.split()[0]) for data in await slow.messages(taken)] == list(range(taken))
            assert slow.transport._inbox.bytes == 0


async def test_a_neighbour_has_a_small_window_and_shorter_messages(world):
    async with world:
        sender, stranger = await world.open(), await world.open(site=SiteKeys.generate())
        await world.join(sender, stranger)
        longest = NEIGHBOUR_WINDOW_BYTES * 3 // 4 - MESSAGE_COST_BYTES
        with pytest.raises(UsageError, match=f"at most {longest} bytes, this one has {longest + 1}"):
            sender.transport.send(stranger.id, bytes(longest + 1))
        for _ in range(5):
            sender.transport.send(stranger.id, bytes(longest))
        assert [len(data) for data in await stranger.messages(5)] == [longest] * 5
        taken = await fill(sender, stranger, 10_000)
        assert stranger.transport._inbox.bytes <= NEIGHBOUR_WINDOW_BYTES
        assert len(await stranger.messages(taken)) == taken


async def test_credit_of_a_link_that_has_ended_is_not_the_next_ones(world):
    async with world:
        first, second = await world.pair()
        taken = await fill(first, second, 50_000)
        second.transport.hang_up(first.id, "again")
        await first.next(LinkDown)
        second.transport.dial(first.id, *await world.way(second, first))
        await first.next(LinkUp)
        waited = second.transport._inbox.bytes
        again = await fill(first, second, 50_000)
        assert second.transport._inbox.bytes <= waited + WINDOW_BYTES
        arrived = 0
        while isinstance(event := await second.transport.receive(), Delivered):
            arrived += 1
        # What was still at the sender when the link ended is lost, as it always was.
        assert 0 < arrived < taken
        assert isinstance(event, LinkDown)
        await second.next(LinkUp)
        assert len(await second.messages(again)) == again
        assert second.transport.statistics().get("overdrawn", 0) == 0


async def test_empty_messages_cost_room_too(world):
    async with world:
        sender, slow = await world.pair()
        sent = 0
        with contextlib.suppress(Congested):
            while sent < 200_000:
                sender.transport.send(slow.id, b"")
                sent += 1
        assert 0 < sent < 200_000


async def test_to_hang_up_tells_the_other_end_why_after_all_that_was_said_before(world):
    async with world:
        first, second = await world.pair()
        for n in range(100):
            first.transport.send(second.id, b"%d" % n)
        first.transport.hang_up(second.id, "moving to another room")
        assert (await first.next(LinkDown)).reason == "moving to another room"
        assert await second.messages(100) == [b"%d" % n for n in range(100)]
        assert "moving to another room" in (await second.next(LinkDown)).reason
        for node, peer in ((first, second), (second, first)):
            with pytest.raises(Unreachable, match="no link"):
                node.transport.send(peer.id, b"too late")
            assert node.transport.statistics()["links"] == 0
        first.transport.hang_up(second.id, "twice is harmless")
        await world.join(second, first)


async def test_nothing_is_delivered_after_the_link_is_down(world):
    async with world:
        first, second = await world.pair()
        for n in range(500):
            second.transport.send(first.id, b"%d" % n)
        first.transport.hang_up(second.id, "enough")
        while isinstance(event := await second.transport.receive(), Delivered):
            pass
        assert isinstance(event, LinkDown)
        while isinstance(event := await first.transport.receive(), Delivered):
            pass
        assert isinstance(event, LinkDown)
        await world.join(first, second)
        second.transport.send(first.id, b"of the new link")
        assert await first.messages(1) == [b"of the new link"]


async def test_who_closes_tells_all_peers_at_once(world):
    async with world:
        first, second = await world.pair()
        third = await world.open()
        await world.join(third, first)
        await first.close()
        for node in (second, third):
            assert "the node closes its links" in (await node.next(LinkDown)).reason
        for _ in range(2):
            await first.next(LinkDown)
        with pytest.raises(Unreachable, match="closed"):
            await first.transport.receive()
        with pytest.raises(Unreachable):
            first.transport.send(second.id, b"")
        first.transport.dial(second.id, "127.0.0.1", second.transport.port)
        assert first.transport.statistics()["links"] == 0


async def test_a_silent_peer_is_down_at_both_ends_and_can_be_dialled_again(world):
    async with world:
        first, second = await world.pair(breakable=True)
        await world.freeze(first, second)
        first.transport.send(second.id, b"into the void")
        for node, peer in ((first, second), (second, first)):
            down = await node.next(LinkDown)
            assert down.peer == peer.id
            assert "silent" in down.reason
        await world.thaw(first, second)
        await world.join(first, second)


async def test_a_silence_shorter_than_the_limit_costs_nothing(world):
    async with world:
        first, second = await world.pair(breakable=True)
        await world.freeze(first, second)
        for n in range(10):
            first.transport.send(second.id, b"%d" % n)
        await anyio.sleep(world.silence_s / 4)
        await world.thaw(first, second)
        assert await second.messages(10) == [b"%d" % n for n in range(10)]


async def test_a_quiet_link_stays_up(world):
    async with world:
        first, second = await world.pair()
        await anyio.sleep(1.2 * world.silence_s)
        first.transport.send(second.id, b"still here")
        assert await second.messages(1) == [b"still here"]
        assert first.transport.statistics()["links_up"] == 1


async def test_a_killed_peer_is_down_at_once_and_comes_back_with_the_same_key(world):
    async with world:
        first, second = await world.pair(breakable=True)
        await world.kill(second)
        down = await first.next(LinkDown)
        assert (down.peer, "lost" in down.reason) == (second.id, True)
        again = await world.open(key=second.key)
        await world.join(again, first)
        again.transport.send(first.id, b"back")
        assert await first.messages(1) == [b"back"]


async def test_a_peer_that_restarts_closes_its_old_link_before_the_new_one_comes_up(world):
    async with world:
        first, second = await world.pair()
        await second.close()
        await first.next(LinkDown)
        again = await world.open(key=second.key, port=second.transport.port)
        await world.join(again, first)
        assert first.transport.statistics()["links"] == 1


async def test_another_sites_secret_makes_a_neighbour_never_a_member(world):
    async with world:
        first, stranger = await world.open(), await world.open(site=SiteKeys.generate())
        here, there = await world.join(first, stranger)
        assert here.standing is there.standing is Standing.NEIGHBOUR


def enrol(_peer, credential):
    """A cloud's rules: one secret enrols, nothing shown is a stranger, anything else is refused."""
    if credential not in {b"", b"the right secret"}:
        raise Refused("this enrolment secret is not known here: ask for a new one")
    return Standing.GRANTED if credential else Standing.NEIGHBOUR


async def test_a_cloud_enrols_who_shows_its_secret(world):
    async with world:
        cloud = await world.open(admission=CloudAdmission(enrol))
        key = NodeKey.generate()
        rules = SiteAdmission(keys=SITE, own=key.node_id, clouds={cloud.id}, enrolment=b"the right secret")
        node = await world.open(key=key, admission=rules)
        here, there = await world.join(node, cloud)
        assert (here.standing, there.standing) == (Standing.CLOUD, Standing.GRANTED)


async def test_who_is_refused_hears_why_and_never_becomes_a_link(world):
    async with world:
        cloud = await world.open(admission=CloudAdmission(enrol))
        key = NodeKey.generate()
        rules = SiteAdmission(keys=SITE, own=key.node_id, clouds={cloud.id}, enrolment=b"a wrong secret")
        node = await world.open(key=key, admission=rules)
        node.transport.dial(cloud.id, *await world.way(node, cloud))
        failed = await node.next(DialFailed)
        assert failed.peer == cloud.id
        assert "the other end refused: this enrolment secret is not known here: ask for a new one" in failed.reason
        assert "a wrong secret" not in failed.reason
        counted = cloud.transport.statistics()
        assert (counted["refused_peers"], counted["links"], counted.get("links_up", 0)) == (1, 0, 0)
        with pytest.raises(Unreachable):
            node.transport.send(cloud.id, b"")
        # The one who refused is as well as before, and so is its memory: the right secret is welcome from the same key.
        await node.close()
        rules = SiteAdmission(keys=SITE, own=key.node_id, clouds={cloud.id}, enrolment=b"the right secret")
        _, there = await world.join(await world.open(key=key, admission=rules), cloud)
        assert there.standing is Standing.GRANTED


async def test_who_dials_may_refuse_as_well(world):
    async with world:
        picky = await world.open(admission=CloudAdmission(enrol))
        other = await world.open()
        picky.transport.dial(other.id, *await world.way(picky, other))
        failed = await picky.next(DialFailed)
        assert "refused here: this enrolment secret" in failed.reason
        assert other.transport.statistics()["links"] == 0
        await world.join(other, await world.open())


async def test_a_message_too_long_is_refused_to_its_sender_and_harms_nothing(world):
    async with world:
        first, second = await world.pair()
        with pytest.raises(
            UsageError, match=f"at most {MESSAGE_BYTES_MAX} bytes, this one has {MESSAGE_BYTES_MAX + 1}"
        ):
            first.transport.send(second.id, bytes(MESSAGE_BYTES_MAX + 1))
        first.transport.send(second.id, b"fits")
        assert await second.messages(1) == [b"fits"]


async def test_a_dial_that_finds_nobody_says_so(world):
    async with world:
        first, second = await world.open(), await world.open()
        port = second.transport.port
        await second.close()
        first.transport.dial(second.id, "127.0.0.1", port)
        failed = await first.next(DialFailed)
        assert (failed.peer, failed.reason) == (second.id, f"nobody answers at 127.0.0.1:{port}")
        assert first.transport.statistics()["dials_failed"] == 1
        again = await world.open(key=second.key, port=port)
        await world.join(first, again)


async def test_a_dial_that_finds_another_key_says_so(world):
    async with world:
        first, second = await world.open(), await world.open()
        expected = NodeKey.generate().node_id
        first.transport.dial(expected, "127.0.0.1", second.transport.port)
        failed = await first.next(DialFailed)
        assert failed.peer == expected
        assert "another key than it is dialled with" in failed.reason
        assert second.transport.statistics()["links"] == 0


async def test_no_dial_to_oneself_and_none_to_a_port_that_does_not_exist(world):
    async with world:
        first, second = await world.pair()
        first.transport.dial(first.id, "127.0.0.1", first.transport.port)
        assert (await first.next(DialFailed)).reason == "this is the node itself"
        for port in (0, -1, 65536):
            with pytest.raises(UsageError, match="ports are 1 to 65535"):
                first.transport.dial(second.id, "127.0.0.1", port)


async def test_a_dial_under_way_can_be_given_up(world):
    async with world:
        node, peer = await world.open(), NodeKey.generate()
        node.transport.dial(peer.node_id, "127.0.0.1", await world.black_hole(node, peer))
        await anyio.sleep(0.05)
        node.transport.hang_up(peer.node_id, "changed my mind")
        assert await node.next(DialFailed) == DialFailed(peer.node_id, "changed my mind")
        assert node.transport.statistics()["links"] == 0


async def test_a_dial_into_a_black_hole_ends_by_itself(world):
    async with world:
        node, peer = await world.open(), NodeKey.generate()
        node.transport.dial(peer.node_id, "127.0.0.1", await world.black_hole(node, peer))
        assert (await node.next(DialFailed)).peer == peer.node_id


async def test_a_cancelled_receive_takes_nothing(world):
    async with world:
        first, second = await world.pair()
        got = []

        async def read_impatiently():
            patience = random.Random(7)
            while len(got) < 1000:
                with anyio.move_on_after(patience.choice((0, 0, 0.0002, 0.002))):
                    while True:
                        got.append((await second.transport.receive()).data)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(read_impatiently)
                for n in range(1000):
                    first.transport.send(second.id, b"%d" % n)
                    if n % 7 == 0:
                        await anyio.lowlevel.checkpoint()
        assert got == [b"%d" % n for n in range(1000)]


async def test_a_second_reader_is_told_that_there_is_one(world):
    async with world:
        node = await world.open()
        async with anyio.create_task_group() as group:
            group.start_soon(node.transport.receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(UsageError, match="one reader"):
                await node.transport.receive()
            group.cancel_scope.cancel()


async def test_many_peers_speak_at_once_each_in_its_own_order(world):
    async with world:
        hub, others = await world.open(), [await world.open() for _ in range(6)]
        for node in others:
            await world.join(node, hub)
        for n in range(200):
            for node in others:
                node.transport.send(hub.id, b"%d" % n)
                hub.transport.send(node.id, b"%d" % n)
        heard = {node.id: [] for node in others}
        for _ in range(200 * len(others)):
            event = await hub.next(Delivered)
            heard[event.peer].append(int(event.data))
        assert all(each == list(range(200)) for each in heard.values())
        for node in others:
            assert await node.messages(200) == [b"%d" % n for n in range(200)]


async def test_a_port_in_use_is_said_with_what_to_do(world):
    async with world:
        first = await world.open()
        with pytest.raises(UsageError) as told:
            await world.open(port=first.transport.port)
        assert str(told.value) == (
            f"port {first.transport.port} on 127.0.0.1 is in use:"
            " stop what uses it, or choose another port (0 takes any free one)"
        )
        await world.join(await world.open(), first)


async def test_a_credential_too_long_is_our_own_fault_and_ends_the_transport(world):
    class Boastful:
        def credential_for(self, _peer):
            return bytes(5000)

        def judge(self, _peer, _credential):
            return Standing.MEMBER

    with pytest.raises(BaseExceptionGroup) as told:
        await dial_with(world, Boastful())
    assert told.group_contains(UsageError, match="at most 4096 bytes, this one has 5000")


async def dial_with(world, admission):
    async with world:
        node, other = await world.open(admission=admission), await world.open()
        node.transport.dial(other.id, *await world.way(node, other))
        await anyio.sleep(5)


@pytest.mark.parametrize("label", ["x" * 65, "two\nlines", "\x1b[31m"])
async def test_a_label_that_cannot_be_shown_is_refused(world, label):
    async with world:
        with pytest.raises(UsageError, match="64 printable characters"):
            await world.open(label=label)
