"""Signs of life on links: who has said nothing for too long, and to whom we owe a word.

    heard --nothing for `silence_s`--> lost            said --nothing for a third of the peer's silence--> ALIVE

Frames carry no time: receiving and sending set a flag, and a beat several times a second reads it. So a message costs
nothing here, and time that this process itself was held up is not held against its peers.
"""

import time
from collections.abc import Callable, Iterable

from atoll.transport.connection import Connection
from atoll.transport.naps import beat

BEATS_PER_SILENCE = 12
"""How often links are looked at in the time that one may be silent."""
SIGNS_PER_SILENCE = 3
"""Signs of life in that time: one lost or late one, or two, end no link."""


def _beat_s(silence_s: float) -> float:
    return silence_s / BEATS_PER_SILENCE


class Pulse:
    """Watches links; `say` sends a sign of life, `lost` ends a link."""

    def __init__(
        self, silence_s: float, *, say: Callable[[Connection], None], lost: Callable[[Connection], None]
    ) -> None:
        self._silence_s, self._say, self._lost = silence_s, say, lost

    async def run(self, links: Callable[[], Iterable[Connection]]) -> None:
        """Look after whatever `links` gives, until cancelled."""
        while True:
            # As often as the most impatient peer needs.
            beat_s = _beat_s(min([self._silence_s, *(each.silence_s for each in links())]))
            began = time.monotonic()
            await beat(beat_s)
            passed_s = min(time.monotonic() - began, 2 * beat_s)
            for link in list(links()):
                self._look(link, passed_s, beat_s)

    def _look(self, link: Connection, passed_s: float, beat_s: float) -> None:
        link.quiet_s = 0.0 if link.heard else link.quiet_s + passed_s
        link.idle_s = 0.0 if link.said else link.idle_s + passed_s
        link.heard = link.said = False
        # One beat early in both cases: what happened just after a beat is counted from the next one on.
        if link.quiet_s + beat_s > self._silence_s:
            self._lost(link)
        elif link.idle_s + beat_s > link.silence_s / SIGNS_PER_SILENCE:
            self._say(link)
