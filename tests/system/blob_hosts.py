"""Nodes with nothing but their Blobs, whose streams are socket pairs that a test can cut."""

import contextlib
import socket
from functools import partial
from random import Random

import anyio
from anyio.abc import SocketStream

from atoll.actors.blobs import incoming, manifest, outgoing, receiving
from atoll.actors.blobs.blobs import Blobs
from atoll.actors.blobs.folder import BlobFolder
from atoll.actors.blobs.messages import MESSAGES, PATH, SERVICE
from atoll.actors.blobs.orders import AwaitBlobs, DescribeBlobs, EndHeard, SendBlob
from atoll.actors.container_manager.container_manager import order
from atoll.actors.router.messages import StreamArrived
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import ActorSystem
from atoll.actors.runtime.machine import Address
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey

CHUNK = 4096
CODEC = Codec([*RUNTIME_MESSAGES, *MESSAGES])


def small_and_quick(monkeypatch):
    """Make chunks small and patience short."""
    monkeypatch.setattr(manifest, "CHUNK_BYTES_MIN", CHUNK)
    monkeypatch.setattr(receiving, "WINDOW_BYTES", 4 * CHUNK)
    monkeypatch.setattr(outgoing, "RETRY_S", 0.01)
    monkeypatch.setattr(outgoing, "RETRY_S_MAX", 0.05)
    monkeypatch.setattr(outgoing, "WITHDRAW_S", 1.0)
    monkeypatch.setattr(incoming, "LAST_WORD_S", 1.0)


async def stream_pair():
    """Give both ends of a connection."""
    # To the end, though the host that opens the stream is killed: half of a pair would never be closed.
    with anyio.CancelScope(shield=True):
        return [await SocketStream.from_socket(each) for each in socket.socketpair()]


class Host:
    """One node; `start` it again after `kill`."""

    def __init__(self, world, number, folder, **settings):
        self.world = world
        self.id = NodeKey(bytes([number]) * 32).node_id
        self.folder = folder
        self.alive = False
        self.settings = {"quota_bytes": 2**30, "accept": (), "standing": Standing.MEMBER} | settings

    async def start(self):
        await self.world.tasks.start(self._live)
        return self

    async def _live(self, *, task_status):
        self.ending, self.ended = anyio.Event(), anyio.Event()
        # In a task of its own: hosts end in any order.
        try:
            async with ActorSystem(self.id, CODEC) as self.system:
                self.made = []
                await self.system.spawn(self._blobs, PATH)
                self.alive = True
                task_status.started()
                await self.ending.wait()
        finally:
            self.ended.set()

    def _blobs(self):
        opened = partial(BlobFolder, self.folder, quota_bytes=self.settings["quota_bytes"])
        self.made.append(Blobs(opened, self.open_stream, accept=self.settings["accept"]))
        return self.made[-1]

    async def kill(self):
        """End it; what it had in memory is gone, and nobody was told."""
        if self.alive:
            self.alive = False
            self.ending.set()
            await self.ended.wait()

    @property
    def counts(self):
        return self.made[-1].counts

    async def open_stream(self, peer):
        return await self.world.open(self, peer)

    async def ask(self, message):
        return await order(self.system.ref(Address(self.id, PATH)), message, timeout_s=20)

    async def send(self, path, peer, name=None, wait_s=0.2, order=b""):
        return await self.ask(SendBlob(str(path), peer.id, path.name if name is None else name, wait_s, order))

    async def sent(self, path, peer, name=None, order=b""):
        """Send, or follow that order, until that has ended, and say how."""
        with anyio.fail_after(30):
            while not (state := await self.send(path, peer, name, 1.0, order)).ended:
                order = state.order
        await self.ask(EndHeard(state.order))
        return state

    async def wait(self, *, accept=True, source=None, wait_s=0.05):
        return await self.ask(AwaitBlobs("test", accept, source, wait_s))

    async def described(self):
        return await self.ask(DescribeBlobs())


class World:
    """All hosts of a test, and the streams between them."""

    def __init__(self, tmp_path, tasks):
        self.tmp_path = tmp_path
        self.tasks = tasks
        self.hosts = {}
        self.streams = []
        self.cut_after = None
        """Bytes that a stream carries before it is cut."""

    async def host(self, number, **settings):
        host = Host(self, number, self.tmp_path / f"node-{number}", **settings)
        self.hosts[host.id] = host
        return await host.start()

    async def open(self, source, peer):
        target = self.hosts.get(peer)
        if target is None or not target.alive:
            raise Unreachable("no way there")
        ours, theirs = await stream_pair()
        if self.cut_after is not None:
            ours = Short(ours, self.cut_after)
        self.streams.append((ours, theirs))
        target.system.tell(Address(peer, PATH), StreamArrived(theirs, source.id, source.settings["standing"], SERVICE))
        return ours

    async def cut(self):
        for pair in self.streams:
            for end in pair:
                await anyio.aclose_forcefully(end)
        self.streams.clear()

    async def close(self):
        for host in self.hosts.values():
            await host.kill()
        await self.cut()

    def file(self, name="file.bin", size=20 * CHUNK + 7, seed=1):
        path = self.tmp_path / name
        path.write_bytes(Random(seed).randbytes(size))
        return path


class Short:
    """A stream that breaks after so many bytes."""

    def __init__(self, stream, left):
        self.stream = stream
        self.left = left

    async def send(self, data):
        self.left -= len(data)
        if self.left < 0:
            await self.aclose()
            raise anyio.BrokenResourceError
        await self.stream.send(data)

    async def receive(self, max_bytes=65_536):
        return await self.stream.receive(max_bytes)

    async def send_eof(self):
        await self.stream.send_eof()

    async def aclose(self):
        await anyio.aclose_forcefully(self.stream)


@contextlib.asynccontextmanager
async def living_world(tmp_path):
    async with anyio.create_task_group() as tasks:
        world = World(tmp_path, tasks)
        yield world
        await world.close()
