"""Keeps a visit up: a stream to the gate, another one when that is lost, sooner or later.

run --a stream opens--> both directions at once, until it is lost --pause, twice as long each time--> run
    --refused for good, or `stop`--> over
"""

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import anyio
from anyio.abc import ByteStream

from atoll.actors.topics.both_ways import both_ways
from atoll.actors.topics.messages import FRAME_BYTES_MAX, MESSAGES, Lost
from atoll.actors.topics.visit import Arrived, TurnedAway, Visit, VisitEvent, Welcomed
from atoll.transport.codec import Codec
from atoll.transport.errors import MalformedFrame, TransportError
from atoll.transport.talk import StreamLost, Talk

RETRY_S = 0.1
RETRY_S_MAX = 15.0
WELCOME_S = 20.0
"""For a gate to answer."""
LAST_WORD_S = 2.0
"""For a gate to hear that the visit has ended; else it keeps it a while."""
CODEC = Codec(MESSAGES)


class Visiting:
    """Runs one visit; `on_event` hears what comes of it, `on_lost` why there is no way now."""

    def __init__(
        self,
        visit: Visit,
        open_stream: Callable[[], Awaitable[ByteStream]],
        *,
        on_event: Callable[[VisitEvent], None],
        on_lost: Callable[[str], None],
        counts: Counter[str],
        rng: Random,
    ) -> None:
        self.visit = visit
        self.over = anyio.Event()
        """Set when it is over, and why is in `why`."""
        self.why = "not reached yet"
        self.refused = ""
        self._open_stream = open_stream
        self._on_event = on_event
        self._on_lost = on_lost
        self._counts = counts
        self._rng = rng
        self._stopping = anyio.Event()
        self._wake = anyio.Event()
        self._pause_s = RETRY_S

    @property
    def is_stopping(self) -> bool:
        """Tell whether it is about to end."""
        return self._stopping.is_set()

    def wake(self) -> None:
        """Hear that there is something to say."""
        self._wake.set()

    def stop(self) -> None:
        """End it in good order, soon."""
        self._stopping.set()

    async def run(self) -> None:
        """Keep it up until it is refused or stopped."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._stopped, tasks.cancel_scope)
                while not self.refused:
                    await self._once()
                    if not self.refused:
                        # Not all at once when a gate comes back.
                        await anyio.sleep(self._pause_s * self._rng.uniform(0.5, 1.0))
                        self._pause_s = min(RETRY_S_MAX, 2 * self._pause_s)
                tasks.cancel_scope.cancel()
        finally:
            self.visit.there = False
            self.over.set()

    async def _stopped(self, scope: anyio.CancelScope) -> None:
        await self._stopping.wait()
        scope.cancel()

    async def _once(self) -> None:
        try:
            with anyio.fail_after(WELCOME_S):
                stream = await self._open_stream()
            async with Talk(stream, self._counts, codec=CODEC, bytes_max=FRAME_BYTES_MAX) as talk:
                try:
                    await self._talk(talk)
                finally:
                    if self._stopping.is_set():
                        with anyio.CancelScope(shield=True):
                            await talk.finish(LAST_WORD_S)
        except TimeoutError:
            self._lost("it gives no answer")
        except MalformedFrame as error:
            self._counts["broken_rules"] += 1
            self._lost(f"it breaks the rules: {error}")
        except TransportError as error:
            self._lost(str(error))

    def _lost(self, why: str) -> None:
        self.visit.there = False
        self.why = why
        if not self.refused:
            self._on_lost(why)

    async def _talk(self, talk: Talk) -> None:
        await talk.say(self.visit.begin())
        await both_ways(lambda: self._read(talk), lambda: self._write(talk))

    async def _write(self, talk: Talk) -> None:
        while True:
            while (message := self.visit.outgoing()) is not None:
                await talk.say(message)
            await self._wake.wait()
            self._wake = anyio.Event()

    async def _read(self, talk: Talk) -> None:
        while not self.refused:
            for event in self.visit.hear(await talk.hear(math.inf if self.visit.there else WELCOME_S)):
                match event:
                    case Welcomed():
                        self.why, self._pause_s = "", RETRY_S
                    case TurnedAway(reason, again):
                        self._counts["turned_away"] += 1
                        if not again:
                            self.refused = reason
                        raise StreamLost(reason)
                    case Arrived(item):
                        self._counts["missed_at_gates" if isinstance(item, Lost) else "came_from_gates"] += item.weight
                self._on_event(event)
            self.wake()
