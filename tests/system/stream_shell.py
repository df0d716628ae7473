"""The thinnest shell around `Multipath`: sealed records on real bearers, for tests until the Router has its own."""

from collections import deque

import anyio

from atoll.transport.fragments import frames_of
from atoll.transport.multipath import Multipath, Via
from atoll.transport.path_set import Rank, Switched
from atoll.transport.record_stream import RecordStream, frame_record
from atoll.transport.records import HEADER, OVERHEAD_BYTES, Fault, Opener, Sealer
from atoll.transport.stream_events import StreamClosed, StreamOpened

RECORD_BYTES_MAX = 65_536
LOOK_S = 0.02
QUEUED_MAX = 8
SESSION = b"\0" * 8
KEYS = [bytes(32), bytes(range(32))]


class Bearer:
    """One connection, and what waits to be written to it."""

    def __init__(self, stream, name):
        self.stream, self.name = stream, name
        self.queue, self.wanted = deque(), anyio.Event()

    def send(self, record):
        self.queue.append(frame_record(record))
        self.wanted.set()

    async def write(self):
        while True:
            while self.queue:
                # It leaves the queue when it is written: a full path is told by what stays in it.
                await self.stream.send(self.queue[0])
                self.queue.popleft()
            self.wanted = anyio.Event()
            await self.wanted.wait()


class StreamEnd:
    """One end of a session whose handshake is done."""

    def __init__(self, tasks, *, initiator):
        self.machine = Multipath(initiator=initiator)
        self._tasks, self._bearers = tasks, {}
        self._sealer = Sealer(SESSION, KEYS[not initiator], 0.0)
        self._opener = Opener(KEYS[initiator], 0.0)
        self._changed = anyio.Event()
        self.events, self.moves = [], []
        tasks.start_soon(self._keep_time)

    def add(self, stream, name):
        """Open a path over a connection to the other end."""
        bearer = Bearer(stream, name)
        number = self.machine.paths.add(Rank.BEARER, name, anyio.current_time())
        self._bearers[number] = bearer
        self.take(bearer)

    def take(self, bearer):
        """Read and write a connection, whoever opens a path over it."""
        self._tasks.start_soon(self._hold, bearer)

    async def write_all(self, stream, data):
        view = memoryview(data)
        while view:
            taken = self.machine.streams.write(stream, bytes(view[:100_000]))
            view = view[taken:]
            self.pump()
            if not taken:
                await self._change()
        self.machine.streams.finish(stream)
        self.pump()

    async def read_some(self, stream):
        """Give what comes next; empty at the end."""
        streams = self.machine.streams
        while True:
            if stream not in streams.numbers():
                return b""
            if piece := streams.read(stream, 65_536):
                self.pump()
                return bytes(piece)
            if streams.at_end(stream):
                self.take_events(streams.settle(stream))
                return b""
            await self._change()

    async def opened(self):
        while not (found := [each for each in self.events if isinstance(each, StreamOpened)]):
            await self._change()
        return found[0]

    def take_events(self, events):
        self.events += [each for each in events if isinstance(each, StreamOpened | StreamClosed)]
        self.moves += [each for each in events if isinstance(each, Switched)]
        if events:
            self._changed.set()

    def pump(self):
        """Seal and send what there is, as far as the path in use takes it."""
        now, machine = anyio.current_time(), self.machine
        self.take_events(machine.tick(now))
        while True:
            bearer = self._bearers.get(machine.paths.current)
            free = bearer is not None and len(bearer.queue) < QUEUED_MAX
            records = machine.outgoing(RECORD_BYTES_MAX - OVERHEAD_BYTES, now, 4 if free else 0)
            for path, parts in records:
                if path in self._bearers:
                    self._bearers[path].send(self._sealer.seal(b"".join(parts), path, now))
            if not records or not free:
                return

    async def _change(self):
        self._changed = anyio.Event()
        await self._changed.wait()

    async def _keep_time(self):
        while True:
            self.pump()
            await anyio.sleep(LOOK_S)

    async def _hold(self, bearer):
        records, reason = RecordStream(RECORD_BYTES_MAX), "it ended"
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bearer.write)
                while True:
                    for record in records.feed(await bearer.stream.receive(262_144)):
                        self._receive(record, bearer)
                    self.pump()
        except* (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            reason = repr(error.exceptions[0])
        finally:
            await anyio.aclose_forcefully(bearer.stream)
        for number in [number for number, each in self._bearers.items() if each is bearer]:
            del self._bearers[number]
            self.take_events(self.machine.path_lost(number, reason, anyio.current_time()))

    def _receive(self, record, bearer):
        now, (_, _, path, _) = anyio.current_time(), HEADER.unpack_from(record)
        plain = self._opener.open(record, now)
        assert not isinstance(plain, Fault), plain
        self._bearers.setdefault(path, bearer)
        for frame in frames_of(plain):
            self.take_events(self.machine.receive(frame, path, Via(Rank.BEARER, bearer.name), now))
