"""Tells the cloud where this relay is and how loaded, again and again, so that it is placed on while it lives."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

import anyio

from atoll.actors.cloud import messages as cloud_messages
from atoll.actors.cloud.messages import SIGNALING, RelayKnown, RelayReport
from atoll.actors.router import messages as router_messages
from atoll.actors.router.cloud_address import CloudAddress
from atoll.actors.router.link_router import LinkRouter
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem, AskFailed, ChildSpec, Strategy, SupervisorSpec
from atoll.actors.tunnel_relay.relay import Relay
from atoll.actors.uplink.ask import ask_cloud
from atoll.actors.uplink.messages import PATH as UPLINK
from atoll.actors.uplink.uplink import Uplink
from atoll.cluster_specs.config import CloudRef
from atoll.transport.admission import SiteAdmission
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.zeromq import ZeroMqTransport

log = logging.getLogger("atoll.relay")

REPORT_S = 2.0
"""The cloud's lease on a relay is three of these."""


class Reporter(Actor):
    """Reports what `report` gives, now and then, and at once when `changed` is set."""

    open_to: ClassVar[frozenset[Standing]] = frozenset()

    def __init__(self, report: Callable[[], RelayReport], changed: anyio.Event) -> None:
        self._report = report
        self._changed = changed
        self._problem: str | None = None
        """What was wrong with the last report; None before the first."""

    async def started(self) -> None:
        """Begin."""
        self.tasks.start_soon(self._keep_reporting)

    async def _keep_reporting(self) -> None:
        while True:
            try:
                await ask_cloud(self.system, SIGNALING, self._report(), RelayKnown)
            except AskFailed as error:
                self._note(str(error))
            else:
                self._note("")
            with anyio.move_on_after(REPORT_S):
                await (anyio.sleep(REPORT_S) if self._changed.is_set() else self._changed.wait())

    def _note(self, problem: str) -> None:
        """Log what changes, not every report."""
        if problem == self._problem:
            return
        self._problem = problem
        if problem:
            log.warning("the cloud does not know of this relay: %s", problem)
        else:
            log.info("the cloud knows this relay")


def reporting_to(
    cloud: CloudRef, relay: Relay, key: NodeKey, label: str, host: str
) -> AbstractAsyncContextManager[None]:
    """Report to the cloud of a relay's config; see `reporting`."""
    codec = Codec([*RUNTIME_MESSAGES, *router_messages.MESSAGES, *cloud_messages.MESSAGES])
    address = CloudAddress(cloud.id, cloud.host, cloud.port)
    return reporting(relay, key, codec, cloud=address, enrolment=cloud.shown, label=label, host=host)


@asynccontextmanager
async def reporting(
    relay: Relay, key: NodeKey, codec: Codec, *, cloud: CloudAddress, enrolment: bytes, label: str, host: str
) -> AsyncIterator[None]:
    """Report a relay to its cloud for the time of the block; `host` is where others find it.

    Raises:
        StartFailed: An actor did not start; the cause is what it raised.
    """
    # A relay belongs to no site: nobody holds this secret.
    admission = SiteAdmission(
        keys=SiteKeys.generate(), own=key.node_id, clouds=frozenset({cloud.node}), enrolment=enrolment
    )

    def transport() -> ZeroMqTransport:
        # Nobody dials a relay's node; only its two ports are known.
        return ZeroMqTransport(key, admission, label=label, host="127.0.0.1")

    def report() -> RelayReport:
        return RelayReport(host, relay.sep_port, relay.bearer_port, relay.load, draining=relay.draining, web=relay.web)

    async with ActorSystem(key.node_id, codec) as system:
        await system.supervise(
            SupervisorSpec(
                name="reporting",
                strategy=Strategy.REST_FOR_ONE,
                children=(
                    ChildSpec(name=ROUTER, factory=lambda: LinkRouter(transport, cloud)),
                    ChildSpec(name=UPLINK, factory=lambda: Uplink(key.node_id, cloud.node, None)),
                    ChildSpec(name="reporter", factory=lambda: Reporter(report, relay.told_to_drain)),
                ),
            )
        )
        yield
