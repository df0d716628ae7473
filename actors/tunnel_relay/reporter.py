"""Tells the cloud where this relay is and how loaded, again and again, so that it is placed on while it lives."""

import logging
from collections.abc import Callable
from typing import Any, ClassVar

import anyio

from atoll.actors.cloud.messages import RelayReport
from atoll.actors.runtime.actor import Actor
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.uplink.messages import PATH as UPLINK
from atoll.actors.uplink.messages import AskCloud
from atoll.transport.base import Standing

log = logging.getLogger("atoll.relay")

REPORT_S = 2.0
"""The cloud's lease on a relay is three of these."""


class Reporter(Actor):
    """Reports; what `report` gives is what it says."""

    open_to: ClassVar[frozenset[Standing]] = frozenset()

    def __init__(self, report: Callable[[], RelayReport], on_known: Callable[[], None] = lambda: None) -> None:
        self._report = report
        self._on_known = on_known
        self._heard: str | None = None

    async def started(self) -> None:
        """Begin."""
        self.tasks.start_soon(self._keep_reporting)

    async def _keep_reporting(self) -> None:
        here = self.ref.address.node
        while True:
            message: Any = AskCloud("signaling", self._report())
            try:
                await self.system.ask(Address(here, UPLINK), message, timeout_s=15.0)
            except AskFailed as error:
                self._note(str(error))
            else:
                self._note("")
                self._on_known()
            await anyio.sleep(REPORT_S)

    def _note(self, problem: str) -> None:
        if problem == self._heard:
            return
        self._heard = problem
        if problem:
            log.warning("the cloud does not know of this relay: %s", problem)
        else:
            log.info("the cloud knows this relay")
