"""A cloud in one process: the port where it takes links, and the actors that answer nodes and relays.

a key comes --enrolled, or shows an unspent secret--> granted: directory, signaling, enrolment answer it
--shows nothing--------------------------> neighbour: nothing answers it
--shows what is spent or unknown---------> refused, with what to do
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from atoll.actors.cloud.directory import Directory
from atoll.actors.cloud.doors import DirectoryDoor, EnrolmentDoor, SignalingDoor
from atoll.actors.cloud.messages import DIRECTORY, ENROLMENT, SIGNALING
from atoll.actors.cloud.signaling import TICKET_LIFE_S, Signaling
from atoll.actors.cloud.store import CloudStore
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.router import Router
from atoll.actors.runtime import ActorSystem, ChildSpec, SupervisorSpec
from atoll.transport.admission import CloudAdmission
from atoll.transport.base import Admission, Standing
from atoll.transport.codec import Codec
from atoll.transport.errors import Refused
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey
from atoll.transport.zeromq import ZeroMqTransport


class Cloud(msgspec.Struct, frozen=True):
    """A running cloud."""

    id: NodeId
    port: int
    """Where it takes links."""


@asynccontextmanager
async def run_cloud(
    key: NodeKey,
    store: CloudStore,
    codec: Codec,
    *,
    label: str,
    host: str,
    port: int,
    ticket_s: float = TICKET_LIFE_S,
) -> AsyncIterator[Cloud]:
    """Run the cloud's actors on an open store; port 0 takes any free one.

    Raises:
        StartFailed: The port is taken; the cause says what to do.
    """
    signaling = Signaling(store, key, time.time, ticket_s=ticket_s)
    directory = Directory(store, signaling, time.time)
    admission: Admission = CloudAdmission(lambda peer, shown: admit(store, peer, shown))
    links: list[ZeroMqTransport] = []

    def transport() -> ZeroMqTransport:
        # Once it has taken a free port, it keeps it: others have been told.
        links[:] = [ZeroMqTransport(key, admission, label=label, host=host, port=links[-1].port if links else port)]
        return links[-1]

    async with ActorSystem(key.node_id, codec) as system:
        await system.supervise(
            SupervisorSpec(
                name="cloud",
                children=(
                    ChildSpec(name=ROUTER, factory=lambda: Router(key, transport)),
                    ChildSpec(name=DIRECTORY, factory=lambda: DirectoryDoor(store, directory)),
                    ChildSpec(name=SIGNALING, factory=lambda: SignalingDoor(store, signaling)),
                    ChildSpec(name=ENROLMENT, factory=lambda: EnrolmentDoor(store, key)),
                ),
            )
        )
        yield Cloud(key.node_id, links[-1].port)


def admit(store: CloudStore, peer: NodeId, shown: bytes) -> Standing:
    """Judge a key that comes to the cloud's links; enrol it if it shows an unspent secret.

    Raises:
        Refused: What it shows is no secret of this cloud, or another key's (the peer's fault).
    """
    if store.enrolled(peer) is not None:
        return Standing.GRANTED
    if not shown:
        return Standing.NEIGHBOUR
    if store.enrol(peer, shown):
        return Standing.GRANTED
    raise Refused("this enrolment secret is not known to the cloud, or another key has spent it; ask for a new one")
