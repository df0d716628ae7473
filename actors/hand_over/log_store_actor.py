"""The log store of a node: the shell of the log store machine. Members only."""

import logging
from pathlib import Path
from random import Random
from typing import ClassVar

from atoll.actors.hand_over.log_store import LogStore
from atoll.actors.hand_over.messages import LOG_STORE, STORE_RECORDS, LogLost
from atoll.actors.hand_over.shell import SiteShell
from atoll.actors.runtime import KeyedJournal
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId

__all__ = ["LOG_STORE", "LogStoreActor"]

log = logging.getLogger("atoll.hosting")


class LogStoreActor(SiteShell):
    """Keeps the operation logs that other nodes, and this one, replicate here: a file for each in `journal`.

    A damaged log is set aside under another name, and begun again without a voice: it counts for nothing until its
    owner has filled it.
    """

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})
    writes_aside: ClassVar[bool] = True

    def __init__(self, own: NodeId | None = None, *, journal: Path, rng: Random | None = None) -> None:
        """`own`: this node, which then asks the placement what it need not keep."""
        self.store = LogStore(rng=rng or Random(), own=own)
        self._logs = KeyedJournal(journal, STORE_RECORDS, loss=LogLost)
        super().__init__(self.store, self._logs)

    async def started(self) -> None:
        """Read all logs; say which are lost."""
        await super().started()
        for actor, damage in self._logs.damage.items():
            log.warning(
                "the operation log of %s is damaged (%s): it counts for nothing", actor or "some actors", damage
            )

    def statistics(self) -> dict[str, int]:
        """Count what is kept, and what was refused."""
        store = self.store
        return {
            "bytes": store.size_bytes,
            "dropped": store.dropped,
            "fenced": store.fenced,
            "ignored": store.ignored,
            "logs": len(store.logs),
            "without_voice": sum(not kept.voice for kept in store.logs.values()),
        }
