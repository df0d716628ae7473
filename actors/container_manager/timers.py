"""The named timers of all containers, kept by one task.

    not set --set--> set --due--> rings once --> not set
                         --drop--> not set

Setting one again moves it. Bells are quick and never raise.
"""

import heapq
from collections.abc import Callable, Hashable

import anyio


class Timers:
    """Rings bells at times of `anyio.current_time`."""

    def __init__(self) -> None:
        self._set: dict[Hashable, tuple[float, Callable[[], None]]] = {}
        # Entries that were moved or dropped stay until their time has come.
        self._order: list[tuple[float, int, Hashable]] = []
        self._count = 0
        self._until = float("inf")
        self._wake = anyio.Event()

    def set(self, name: Hashable, after_s: float, bell: Callable[[], None]) -> None:
        """Ring the bell so many seconds from now."""
        at = anyio.current_time() + after_s
        self._set[name] = (at, bell)
        self._count += 1
        heapq.heappush(self._order, (at, self._count, name))
        if at < self._until:
            self._wake.set()

    def drop(self, name: Hashable) -> None:
        """Do not ring it; harmless when it is not set."""
        self._set.pop(name, None)

    async def run(self) -> None:
        """Ring for ever."""
        while True:
            self._ring_due()
            self._wake = anyio.Event()
            self._until = self._order[0][0] if self._order else float("inf")
            with anyio.move_on_after(self._until - anyio.current_time()):
                await self._wake.wait()

    def _ring_due(self) -> None:
        now = anyio.current_time()
        while self._order and self._order[0][0] <= now:
            at, _, name = heapq.heappop(self._order)
            current = self._set.get(name)
            if current is not None and current[0] == at:
                del self._set[name]
                current[1]()
