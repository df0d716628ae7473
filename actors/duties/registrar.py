"""The duty `registrar`: the site's records in the cloud's Directory.

    a change, or ANNOUNCE_S over --AnnounceSite--> kept for a lease
                                  --no answer--> tried again; the rest of the site does not wait for it

The whole site is one message of one node: its cost to the cloud does not grow with its members.
"""

import logging
from random import Random
from typing import Any, ClassVar

import anyio

from atoll.actors.cloud.messages import DIRECTORY, AnnounceSite, NodeRecord, SepLabel, SiteAnnounced
from atoll.actors.duties.duty import Duty
from atoll.actors.duties.messages import REGISTRAR, LabelsChanged, SiteKnown
from atoll.actors.runtime.actor import LATER, Delivery
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.uplink.ask import ask_cloud
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId
from atoll.transport.naps import nap_s

log = logging.getLogger("atoll.duties")

ANNOUNCE_S = 5.0
"""The Directory's lease is three of these."""
GATHER_S = 0.05
"""Changes come in groups when a supernode begins; one announcement carries them all."""


class Registrar(Duty):
    """Announces the site; it has nothing to hand over, since every member knows the roll."""

    name = REGISTRAR
    open_to: ClassVar[frozenset[Standing]] = frozenset()

    def __init__(self, site: str, rng: Random | None = None) -> None:
        self._site = site
        self._rng = rng or Random()
        self._records: tuple[NodeRecord, ...] = ()
        self._labels: dict[NodeId, bytes] = {}
        self._relays: tuple[NodeId, ...] = ()
        self._changed = anyio.Event()
        self._problem = ""

    async def started(self) -> None:
        """Follow the roll and the labels."""
        self.system.subscribe(SiteKnown, self.ref)
        self.system.subscribe(LabelsChanged, self.ref)
        self.tasks.start_soon(self._announce)
        self.ready()

    async def receive(self, delivery: Delivery) -> Any:
        """Note what changed."""
        match delivery.message:
            case SiteKnown(records=records):
                changed, self._records = records != self._records, records
            case LabelsChanged(labels=labels, relays=relays):
                changed = dict(labels) != self._labels or relays != self._relays
                self._labels, self._relays = dict(labels), relays
            case _:
                return await super().receive(delivery)
        if changed:
            self._changed.set()
        return LATER

    async def _announce(self) -> None:
        while True:
            with anyio.move_on_after(nap_s(ANNOUNCE_S * self._rng.uniform(0.8, 1.0))):
                await self._changed.wait()
            await anyio.sleep(GATHER_S)
            self._changed = anyio.Event()
            if self._records:
                await self._say()

    async def _say(self) -> None:
        present = {record.node for record in self._records}
        labels = tuple(
            SepLabel(node, relay, label)
            for node, label in sorted(self._labels.items())
            for relay in self._relays
            if node in present
        )
        message = AnnounceSite(self._site, self._records, labels)
        try:
            announced = await ask_cloud(self.system, DIRECTORY, message, SiteAnnounced)
        except AskFailed as error:
            self._note(f"the site could not be announced to the cloud: {error}")
        else:
            self._note("; ".join(announced.left_out) and f"left out by the cloud: {'; '.join(announced.left_out)}")

    def _note(self, problem: str) -> None:
        """Log what is wrong once, not with every announcement."""
        if problem and problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem
