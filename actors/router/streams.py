"""The byte streams of a node's Router: who has which open, and which actor serves what.

    OpenStream --a session with the peer--> SessionStream --used within `TAKE_S`--> its user's
    the peer's OPEN --its service is served, to its standing--> StreamArrived --used within `TAKE_S`--> the actor's
                    --anything else--> reset, with the reason

Nobody is let in who is not wanted: a service that nobody serves, or that the peer may not use, is refused in words.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.actors.router.conversation import Conversation, StreamTurn
from atoll.actors.router.conversations import Conversations
from atoll.actors.router.messages import PATH, OpenStream, StreamArrived
from atoll.actors.router.session_stream import SessionStream
from atoll.actors.runtime.errors import AskCongested, AskDeclined, AskFailed, AskNotUnderstood
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.transport.errors import Congested, Unreachable, UsageError
from atoll.transport.fragments import frames_of
from atoll.transport.identity import NodeId
from atoll.transport.naps import beat
from atoll.transport.stream_events import StreamClosed, StreamEvent, StreamOpened
from atoll.transport.streams import StreamSet

OPEN_S = 20.0
"""For `open_stream`: longer than it takes to find that there is no way."""
TAKE_S = 10.0
"""A stream that nobody has begun to use by then is reset."""
PER_PEER_MAX = 64
"""Streams that one peer may have open here."""
SERVICES_MAX = 1024
_ROOM = 65_536
"""Of a record between two ends of this very node."""


async def open_stream(system: ActorSystem, peer: NodeId, service: str, *, timeout_s: float = OPEN_S) -> SessionStream:
    """Open a byte stream to a service of a node: of this one, of one nearby, of one behind relays.

    Raises:
        Unreachable: There is no way to it; the text is the reason.
        Congested: Too many streams are open to it already.
        UsageError: The service's name is empty or too long.
    """
    try:
        stream = await system.ask(Address(system.node_id, PATH), OpenStream(peer, service), timeout_s=timeout_s)
    except AskNotUnderstood as error:
        raise UsageError(str(error)) from error
    except AskCongested as error:
        raise Congested(str(error)) from error
    except AskFailed as error:
        raise Unreachable(str(error)) from error
    assert isinstance(stream, SessionStream)  # noqa: S101 - for mypy: the Router answers with nothing else
    stream.taken = True
    return stream


@dataclass(slots=True, eq=False)
class SessionDoor:
    """The session of a conversation, as its streams see it."""

    conversations: Conversations
    conversation: Conversation
    clock: Callable[[], float]
    flushed: Callable[[Conversation], None]
    """Called after each flush: there may be something to wait for now."""

    @property
    def streams(self) -> StreamSet:
        """Where the bytes are."""
        return self.conversation.session.streams

    def flush(self) -> None:
        """Send what is to be sent."""
        self.conversations.flush(self.conversation, self.clock())
        self.flushed(self.conversation)


@dataclass(slots=True, eq=False)
class LocalDoor:
    """One end of a session of this node with itself: nothing is sealed, nothing is lost."""

    streams: StreamSet
    on_event: Callable[["LocalDoor", StreamEvent], None]
    other: "LocalDoor" = field(init=False)
    busy: bool = False

    def flush(self) -> None:
        """Carry frames to and fro until nobody has any."""
        if self.busy or self.other.busy:
            # What is carried makes somebody say more: it goes behind what is on its way.
            return
        self.busy = True
        while self.carry() | self.other.carry():
            pass
        self.busy = False

    def carry(self) -> bool:
        """Hand what there is to say to the other end; False when there was nothing."""
        # The time that answers are put off for is over at once: there is no path to be spared.
        self.streams.tick(math.inf)
        frames = [*self.streams.answers(_ROOM), *self.streams.outgoing(_ROOM)]
        for _, verb, number, _, piece in frames_of(b"".join(frames)):
            for event in self.other.streams.receive(verb, number, piece, 0.0):
                self.other.on_event(self.other, event)
        return bool(frames)


class Services:
    """Which local actor serves streams to what; a Router that crashes leaves it to the next one."""

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}

    def serve(self, system: ActorSystem, service: str, path: str) -> None:
        """Let a local actor have the streams to a service.

        Raises:
            AskDeclined: Another one has them, or it does not live here.
        """
        if system.find(path) is None:
            raise AskDeclined(f"no actor {path} lives here, so it cannot serve {service}")
        holder = self._paths.get(service, path)
        if holder != path and system.find(holder) is not None:
            raise AskDeclined(f"{holder} serves streams called {service} already")
        if service not in self._paths and len(self._paths) >= SERVICES_MAX:
            raise AskDeclined(f"{SERVICES_MAX} services have streams here already")
        self._paths[service] = path

    def server_of(self, service: str) -> str | None:
        """Give the actor of the longest name that fits: `blobs` has `blobs/x`, too."""
        while service:
            if (path := self._paths.get(service)) is not None:
                return path
            service = service.rpartition("/")[0]
        return None


class Streams:
    """All streams of one node; see the module."""

    def __init__(
        self,
        system: ActorSystem,
        conversations: Conversations,
        services: Services,
        flushed: Callable[[Conversation], None],
    ) -> None:
        self._system = system
        self._conversations = conversations
        self._services = services
        self._flushed = flushed
        self._open: dict[Conversation | LocalDoor, dict[int, SessionStream]] = {}
        self._untaken: dict[SessionStream, float] = {}
        """Streams that nobody has used yet, and until when somebody must, soonest first."""
        self._here: LocalDoor | None = None
        self.refused = 0

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def of(self, conversation: Conversation) -> int:
        """Count the streams of a conversation."""
        return len(self._open.get(conversation, ()))

    def open(self, conversation: Conversation, service: str) -> SessionStream:
        """Open a stream over a session that stands; raises what `StreamSet.open` does."""
        number = conversation.session.streams.open(service)
        door = SessionDoor(self._conversations, conversation, self._system.clock, self._flushed)
        stream = self._enter(door, number, service)
        door.flush()
        return stream

    def open_here(self, service: str) -> SessionStream:
        """Open a stream to a service of this very node; raises what `StreamSet.open` does."""
        if self._here is None:
            self._here, other = (LocalDoor(StreamSet(initiator), self._take_local) for initiator in (True, False))
            self._here.other, other.other = other, self._here
        here = self._here
        stream = self._enter(here, here.streams.open(service), service)
        here.flush()
        return stream

    def take(self, turn: StreamTurn) -> None:
        """Take what happened to a stream of a conversation."""
        conversation = turn.conversation
        if isinstance(turn.event, StreamOpened):
            door = SessionDoor(self._conversations, conversation, self._system.clock, self._flushed)
            self._arrived(self._enter(door, turn.event.stream, turn.event.service, arrived=True))
            return
        self._tell(conversation, turn.event)

    def ended(self, conversation: Conversation, reason: str) -> None:
        """Break what a session held that is over."""
        for stream in tuple(self._open.pop(conversation, {}).values()):
            stream.broke(reason)

    def end_all(self, reason: str) -> None:
        """Break everything: the Router ends."""
        for holder in tuple(self._open):
            for stream in tuple(self._open.pop(holder).values()):
                stream.broke(reason)

    def _take_local(self, door: LocalDoor, event: StreamEvent) -> None:
        if isinstance(event, StreamOpened):
            self._arrived(self._enter(door, event.stream, event.service, arrived=True))
            return
        self._tell(door, event)

    def _tell(self, holder: Conversation | LocalDoor, event: StreamEvent) -> None:
        stream = self._open.get(holder, {}).get(event.stream)
        if stream is None:
            return
        if isinstance(event, StreamClosed):
            stream.over(event.reason)
        else:
            stream.changed()

    def _enter(
        self, door: SessionDoor | LocalDoor, number: int, service: str, *, arrived: bool = False
    ) -> SessionStream:
        """Make the stream that users hold."""
        holder: Conversation | LocalDoor = door.conversation if isinstance(door, SessionDoor) else door
        peer, standing = self._system.node_id, None
        if isinstance(holder, Conversation) and holder.peer is not None:
            peer, standing = holder.peer, holder.standing

        def over(stream: SessionStream) -> None:
            self._untaken.pop(stream, None)
            held = self._open.get(holder, {})
            if held.pop(stream.number, None) is not None and not held:
                del self._open[holder]

        stream = SessionStream(
            door, number, peer=peer, service=service, standing=standing, arrived=arrived, on_over=over
        )
        self._untaken[stream] = self._system.clock() + TAKE_S
        self._open.setdefault(holder, {})[number] = stream
        return stream

    def _arrived(self, stream: SessionStream) -> None:
        """Tell the actor that serves of a stream, or refuse it."""
        refusal = self._refusal(stream)
        if refusal:
            self.refused += 1
            stream.reset(refusal)
            return
        path = self._services.server_of(stream.service)
        assert path is not None  # noqa: S101 - for mypy: else it was refused
        arrived = StreamArrived(stream, stream.peer, stream.standing, stream.service)
        try:
            self._system.tell(Address(self._system.node_id, path), arrived)
        except Congested:
            self.refused += 1
            stream.reset(f"whoever serves {stream.service} is too busy; try again")

    def _refusal(self, stream: SessionStream) -> str:
        """Say why a stream is not let in; empty when it is."""
        path = self._services.server_of(stream.service)
        cell = None if path is None else self._system.cell(path)
        if cell is None:
            return f"nobody serves streams called {stream.service} here"
        if stream.standing is not None and stream.standing not in cell.open_to:
            return f"streams called {stream.service} are not open to a {stream.standing.value}"
        peers = sum(
            each.peer == stream.peer and each.arrived
            for holder, held in self._open.items()
            if isinstance(holder, Conversation)
            for each in held.values()
        )
        if stream.standing is not None and peers > PER_PEER_MAX:
            return f"{PER_PEER_MAX} streams of this peer are open already"
        return ""

    async def reset_untaken(self) -> None:
        """Reset what nobody wants to use in the end; runs as long as the Router."""
        while True:
            await beat(TAKE_S / 10)
            now = self._system.clock()
            while self._untaken and now >= (first := next(iter(self._untaken.items())))[1]:
                stream = first[0]
                del self._untaken[stream]
                if not stream.taken:
                    stream.reset(f"nobody has used it within {TAKE_S:g} s")
