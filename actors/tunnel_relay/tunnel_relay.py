"""The dialling end of tunnels on a node: everything it has at relays.

    OpenSep      looks a node up, dials the relays of its site, gives a path each
    ServeSite    (proxy duty) keeps this site registered; what comes in goes to the Router of the node it is for
    OpenBearer   dials the calling half of a tunnel; BearerRequest, from a caller, the offering half
    OpenDirect   dials a peer that a link leads to, where its answer to DirectRequest says
    OpenPunched  tries a connection through NAT to a peer, which hears PunchRequest (`punched_paths.py`)

It reads paths and hands records to Routers; it never opens one. What it holds is bounded, and ends with it.
"""

import logging
from collections import Counter
from random import Random
from typing import Any, ClassVar

import anyio
import anyio.abc

from atoll.actors.cloud.messages import (
    SIGNALING,
    PlaceSep,
    SepPlaced,
)
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import SepAnswer, SepDelivery
from atoll.actors.router.paths import (
    OpenBearer,
    OpenDirect,
    OpenPunched,
    OpenSep,
    RecordsArrived,
)
from atoll.actors.runtime.actor import LATER, Actor, ActorRef, Delivery
from atoll.actors.runtime.machine import Address
from atoll.actors.tunnel_relay.bearer_ends import BearerEnds
from atoll.actors.tunnel_relay.dialling_means import DiallingMeans
from atoll.actors.tunnel_relay.doors import Doors
from atoll.actors.tunnel_relay.frames import Inbound
from atoll.actors.tunnel_relay.messages import (
    BearerRequest,
    BearerSeen,
    DescribeTunnels,
    DirectRequest,
    PunchRequest,
    ServeSite,
    SiteServed,
    SpareWanted,
    StopServing,
    TunnelsDescribed,
)
from atoll.actors.tunnel_relay.punched_paths import PunchedPaths
from atoll.actors.tunnel_relay.puncher import Puncher, PunchSettings
from atoll.actors.tunnel_relay.registrations import Registration, Registrations
from atoll.actors.tunnel_relay.sep_calls import SepCalls
from atoll.actors.tunnel_relay.sep_paths import CircuitPath
from atoll.actors.uplink.ask import ask_cloud
from atoll.transport.base import Standing
from atoll.transport.errors import Congested, Unreachable
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.tunnel_relay")

CIRCUITS_MAX = 4096


class TunnelRelay(Actor):
    """Dials relays for the other actors of its node; see the module."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER, Standing.GRANTED})

    def __init__(self, own: NodeId, rng: Random | None = None, punching: PunchSettings | None = None) -> None:
        self._own = own
        self._rng = rng or Random()
        self._punching = punching or PunchSettings()
        self._router: ActorRef
        self._registrations: Registrations | None = None
        self._serving: anyio.CancelScope | None = None
        self._circuits: dict[tuple[NodeId, bytes], CircuitPath] = {}
        self._counts: Counter[str] = Counter()
        self._means: DiallingMeans
        self._calls: SepCalls
        self._bearers: BearerEnds
        self._punched: PunchedPaths

    async def started(self) -> None:
        """Find the way to this node's Router."""
        self._router = self.system.ref(Address(self._own, ROUTER))
        self._means = DiallingMeans(
            self.system, self._router, self.tasks.start_soon, self._counts, Doors(self.system.clock)
        )
        puncher = Puncher(self._punching, self.system.clock, self._counts)
        self._calls, self._bearers = SepCalls(self._means), BearerEnds(self._means, puncher.note_relay)
        self._punched = PunchedPaths(self._means, puncher, self._bearers)

    async def receive(self, delivery: Delivery) -> Any:  # noqa: C901, PLR0912 - one case a message
        """Take orders of this node, answers of the site's nodes, and callers' requests for bearers."""
        message, reply_to, local = delivery.message, delivery.reply_to, delivery.standing is None
        match message:
            case SepAnswer() if local or delivery.standing is Standing.MEMBER:
                self._answer(message)
            case BearerRequest(avoid) if delivery.sender is not None and reply_to is not None:
                self.tasks.start_soon(self._bearers.offer, delivery.sender.address.node, avoid, reply_to)
            case SpareWanted() if delivery.sender is not None:
                self._bearers.spares_wanted(delivery.sender.address.node)
            case OpenSep() if local and reply_to is not None:
                self.tasks.start_soon(self._calls.open, message, reply_to, delivery.deadline)
            case OpenBearer() if local and reply_to is not None:
                self.tasks.start_soon(self._bearers.open, message, reply_to, delivery.deadline)
            case DirectRequest() if delivery.sender is not None and reply_to is not None:
                self.tasks.start_soon(self._bearers.offer_direct, delivery.sender.address.node, message, reply_to)
            case OpenDirect() if local and reply_to is not None:
                self.tasks.start_soon(self._bearers.open_direct, message, reply_to, delivery.deadline)
            case OpenPunched() if local and reply_to is not None:
                self.tasks.start_soon(self._punched.open, message, reply_to, delivery.deadline)
            case PunchRequest() if delivery.sender is not None and reply_to is not None:
                self.tasks.start_soon(self._punched.answer, delivery.sender.address.node, message, reply_to)
            case ServeSite(site, labels) if local:
                self._serve(site)
                if self._registrations is not None:
                    self._registrations.set_labels(labels)
            case StopServing() if local:
                self._stop_serving()
            case DescribeTunnels() if local:
                return self._described()
            case _:
                return await super().receive(delivery)
        return LATER

    # Serving this site

    def _serve(self, site: str) -> None:
        if self._registrations is not None:
            return
        self._registrations = Registrations(
            site,
            place=self._place,
            on_inbound=self._take_inbound,
            on_change=self._registrations_changed,
            on_going=self._means.tell_going,
            doors=self._means.doors,
            clock=self.system.clock,
            rng=self._rng,
        )
        self._serving = anyio.CancelScope()
        self.tasks.start_soon(self._run_registrations, self._registrations, self._serving)

    async def _run_registrations(self, registrations: Registrations, scope: anyio.CancelScope) -> None:
        with scope:
            await registrations.run()

    def _stop_serving(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
        self._serving = self._registrations = None
        self._circuits.clear()
        self.system.announce(SiteServed(()))

    async def _place(self, message: PlaceSep) -> SepPlaced:
        return await ask_cloud(self.system, SIGNALING, message, SepPlaced)

    def _registrations_changed(self) -> None:
        if self._registrations is not None:
            up = tuple(each.placement.relay for each in self._registrations.all() if each.up)
            self.system.announce(SiteServed(up))

    def _take_inbound(self, registration: Registration, node: NodeId, inbound: Inbound) -> None:
        """Hand a record that came in under a node's label to that node."""
        relay = registration.placement.relay
        try:
            if node != self._own:
                delivery = SepDelivery(inbound.circuit, relay, inbound.record, registration.relay)
                self.system.tell(Address(node, ROUTER), delivery, sender=self.ref)
                return
            key = (relay, inbound.circuit)
            path = self._circuits.get(key)
            if path is None or path.client is not registration.client:
                if registration.client is None:
                    return
                if len(self._circuits) >= CIRCUITS_MAX:
                    self._circuits.pop(next(iter(self._circuits)))
                path = self._circuits[key] = CircuitPath(registration.relay, inbound.circuit, registration.client)
            self._router.tell(RecordsArrived(path, (inbound.record,)))
        except Congested:
            # The caller's session resends what matters; a proxy must not grow for a slow node.
            self._counts["inbound_dropped"] += 1

    def _answer(self, message: SepAnswer) -> None:
        """Put a node's answer on the circuit that its caller waits at."""
        client = self._registrations.at(message.relay) if self._registrations is not None else None
        if client is None:
            self._counts["answers_without_registration"] += 1
            return
        try:
            client.answer(message.circuit, message.record)
        except (Congested, Unreachable) as error:
            self._counts["answers_dropped"] += 1
            log.debug("an answer was dropped: %s", error)

    def _described(self) -> TunnelsDescribed:
        registrations = self._registrations.all() if self._registrations is not None else []
        problem = self._registrations.problem if self._registrations is not None else ""
        return TunnelsDescribed(
            tuple(each.seen() for each in registrations),
            tuple(
                BearerSeen(each.peer, each.relay, each.opened_at, each.sent_bytes, each.received_bytes)
                for each in self._bearers.held
            ),
            {
                "calls_open": self._calls.count,
                "bearers_open": len(self._bearers.held),
                "bearers_offered": self._bearers.offered,
                **self._counts,
            },
            problem,
        )
