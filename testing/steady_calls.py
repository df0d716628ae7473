"""Calls one service again and again while something is broken on purpose, and says what the caller saw of it.

The next call begins when the last one is over, so that a call that hangs counts as silence. What it gives is how long
nobody was answered, how many calls failed, and over which route it goes on.
"""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from atoll.testing.api_client import Answer
from atoll.testing.errors import NoAnswer

PAUSE_S = 0.02
STEADY_CALLS = 5
"""So many good answers one after the other, and all is well."""


@dataclass(slots=True)
class SteadyCalls:
    """One caller; `call` makes one call, `status` is what a good answer has."""

    call: Callable[[], Awaitable[Answer]]
    status: int
    pause_s: float = PAUSE_S
    answered: int = 0
    failed: int = 0
    last: Answer | None = None
    failure: str = ""
    """What the last failed call said."""
    silence_s: float = 0.0
    """The longest time from one good answer to the next, since `mark`."""
    _ending: bool = False
    _in_a_row: int = 0
    _good_at: float = math.nan
    _changed: anyio.Event = field(default_factory=anyio.Event)

    async def run(self) -> None:
        """Call until `end`."""
        while not self._ending:
            try:
                answer = await self.call()
            except NoAnswer as error:
                self._count(None, error.what)
            else:
                said = f"status {answer.status}: {answer.body[:200].decode('utf-8', 'replace')}"
                self._count(answer if answer.status == self.status else None, said)
            await anyio.sleep(self.pause_s)

    async def steady(self) -> None:
        """Wait for `STEADY_CALLS` good answers in a row from now on."""
        self._in_a_row = 0
        while self._in_a_row < STEADY_CALLS:
            await self._changed.wait()

    def end(self) -> None:
        """Make no more calls; the one on its way is waited for, as leaving it to itself would burden its node's end."""
        self._ending = True

    def mark(self) -> None:
        """Begin to count anew."""
        self.answered = self.failed = 0
        self.silence_s, self.failure = 0.0, ""
        self._good_at = anyio.current_time()

    def _count(self, answer: Answer | None, said: str) -> None:
        now = anyio.current_time()
        if answer is None:
            self.failed += 1
            self.failure = said
            self._in_a_row = 0
        else:
            self.answered += 1
            self._in_a_row += 1
            self.last = answer
            if not math.isnan(self._good_at):
                self.silence_s = max(self.silence_s, now - self._good_at)
            self._good_at = now
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
