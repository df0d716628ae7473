"""Takes the streams of visitors, and carries each visit between its stream and `Gates`.

a peer's stream --VisitBegins, allowed--> welcome --both directions--> ended by the visitor: forgotten
                --not allowed--> refused                          --> lost: kept for a while
"""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
from anyio.abc import ByteStream

from atoll.actors.topics.both_ways import both_ways
from atoll.actors.topics.errors import NotLetIn, TooMany
from atoll.actors.topics.exchange import ExchangeEffect
from atoll.actors.topics.gates import Gates, Guest
from atoll.actors.topics.messages import (
    FRAME_BYTES_MAX,
    REASON_CHARACTERS_MAX,
    VisitBegins,
    VisitPublish,
    VisitRefused,
)
from atoll.actors.topics.visiting import CODEC
from atoll.actors.tunnel_relay.bucket import Bucket
from atoll.transport.base import Standing
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId
from atoll.transport.talk import StreamEnded, Talk
from atoll.transport.talks_heard import TalksHeard

STREAMS_PER_PEER_MAX = 16
BEGIN_S = 10.0
"""For a visitor to say what it wants."""
VISITOR_BYTES_S = 16 * 1024 * 1024
"""What one visitor publishes in a second; beyond that its stream is not read, and it waits."""
VISITOR_COST_BYTES = 1024
"""What a message counts beside its payload."""


class Reception:
    """Whom the gates of a node have let in."""

    def __init__(
        self,
        gates: Gates,
        counts: Counter[str],
        *,
        clock: Callable[[], float],
        carry_out: Callable[[Sequence[ExchangeEffect]], None],
        readers: dict[int, Callable[[], None]],
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        self.gates = gates
        self.counts = counts
        self.clock = clock
        self.carry_out = carry_out
        self.readers = readers
        self._settled = settled
        self._talks = TalksHeard(counts, STREAMS_PER_PEER_MAX)

    async def take(self, stream: ByteStream, peer: NodeId, standing: Standing | None) -> None:
        """Take a stream, until it is over."""
        async with Talk(stream, self.counts, codec=CODEC, bytes_max=FRAME_BYTES_MAX) as talk:
            await self._talks.hear(peer, partial(self._let_in, talk, peer, standing))

    async def _let_in(self, talk: Talk, peer: NodeId, standing: Standing | None) -> None:
        begins = await talk.hear(BEGIN_S)
        if not isinstance(begins, VisitBegins):
            raise MalformedFrame(f"{type(begins).__name__} where a visit should begin")
        try:
            guest, welcome, effects = self.gates.begin(peer, standing, begins, self.clock())
        except (NotLetIn, TooMany) as error:
            self.counts["refused"] += 1
            await talk.say(VisitRefused(str(error)[:REASON_CHARACTERS_MAX], again=isinstance(error, TooMany)))
            await talk.finish(BEGIN_S)
            return
        self.carry_out(effects)
        visit = _Stream(self, talk, guest)
        try:
            # The site's other nodes may not know yet what the visitor wants: nothing is promised before they do.
            await self._settled()
            await talk.say(welcome)
            await both_ways(visit.read, visit.write)
        except StreamEnded:
            self.carry_out(self.gates.leave(guest, visit.stream, self.clock()))
        finally:
            visit.close()
            self.gates.away(guest, visit.stream, self.clock())


class _Stream:
    """One stream of a guest."""

    def __init__(self, reception: "Reception", talk: Talk, guest: Guest) -> None:
        self.stream = guest.here
        self._of = reception
        self._talk = talk
        self._guest = guest
        self._changed = anyio.Event()
        self._number = None if guest.subscriber is None else guest.subscriber.number
        if self._number is not None:
            reception.readers[self._number] = self._wake

    def _wake(self) -> None:
        self._changed.set()

    @property
    def _is_current(self) -> bool:
        return self._guest.here == self.stream

    def close(self) -> None:
        """Be woken no more."""
        if self._number is not None and self._of.readers.get(self._number) == self._wake:
            del self._of.readers[self._number]

    async def write(self) -> None:
        """Say what there is to say, as long as this is the guest's stream."""
        while self._is_current:
            self._changed = anyio.Event()
            while self._is_current and (message := self._of.gates.outgoing(self._guest)) is not None:
                await self._talk.say(message)
            await self._changed.wait()

    async def read(self) -> None:
        """Hear what the visitor says, no faster than it may publish."""
        of = self._of
        bucket = Bucket(rate_bytes_s=VISITOR_BYTES_S, now=of.clock())
        while True:
            message = await self._talk.hear(math.inf)
            if not self._is_current:
                return
            if isinstance(message, VisitPublish):
                cost = message.item.size + VISITOR_COST_BYTES
                if (bucket.available(of.clock())) < cost:
                    await anyio.sleep(cost / VISITOR_BYTES_S + bucket.wait_s())
                bucket.take(cost)
                of.counts["published_by_visitors"] += 1
            of.carry_out(of.gates.hear(self._guest, message))
            self._wake()
