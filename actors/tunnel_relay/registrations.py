"""Keeps a site reachable at relays: two registrations, each on a relay of its own, made anew when they end.

    none     --placed by Signaling-->               dialling
    dialling --admitted, labels accepted in time--> up
    dialling --refused, silent, labels not accepted--> none
    up       --lost, ticket used up or expired-->   none
    up       --drained-->                           going
    going    --two others up, or it ends-->         none

While one is down the other carries; attempts are spaced, and spread by chance, so that sites do not come back to a
relay that was away all in the same moment. A relay that is drained is left when others have taken over, or it ends.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random

import anyio
import anyio.abc

from atoll.actors.cloud.messages import Placement, PlaceSep, SepPlaced
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.tunnel_relay import frames
from atoll.actors.tunnel_relay.doors import Doors
from atoll.actors.tunnel_relay.frames import Accepted, Going, Inbound, RelayEvent
from atoll.actors.tunnel_relay.messages import RegistrationSeen
from atoll.actors.tunnel_relay.sep_client import FreshKey, SepClient
from atoll.actors.tunnel_relay.sep_dial import SepAddress, open_sep
from atoll.transport.errors import Expired, PeerError, WorldError
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.tunnel_relay")

REGISTRATIONS_PER_SITE = 2
RETRY_S_MIN = 0.5
RETRY_S_MAX = 10.0
NOWHERE_RETRY_S_MAX = 2.0
"""While the site is at no relay at all nobody elsewhere can call it; that is worth asking more often."""
LABELS_S = 5.0
"""How long a relay may take to accept labels."""


@dataclass(slots=True, eq=False)
class Registration:
    """One registration: wanted, being dialled, up."""

    placement: Placement
    since: float
    client: SepClient | None = field(default=None, repr=False)
    up: bool = False
    going: bool = False
    """The relay is being drained: it goes on for now, and does not count."""
    why: str = "dialling"
    through: str = ""
    """Why it goes by the relay's other door; empty where it does not."""
    labels: dict[bytes, NodeId] = field(default_factory=dict, repr=False)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope, repr=False)

    @property
    def relay(self) -> str:
        """How people call the relay."""
        return self.placement.name or self.placement.relay.short

    def seen(self) -> RegistrationSeen:
        """Say it for `status`."""
        address = f"{self.placement.host}:{self.placement.sep_port}"
        return RegistrationSeen(self.relay, address, self.up, self.since, self.why)


class Registrations:
    """The registrations of the site that this node is proxy of; `run` is its life, cancelling it hangs up."""

    def __init__(
        self,
        site: str,
        *,
        place: Callable[[PlaceSep], Awaitable[SepPlaced]],
        on_inbound: Callable[[Registration, NodeId, Inbound], None],
        on_change: Callable[[], None],
        on_going: Callable[[str], None] = lambda _: None,
        doors: Doors,
        clock: Callable[[], float],
        rng: Random,
    ) -> None:
        self._site, self._doors = site, doors
        self._place = place
        self._on_inbound = on_inbound
        self._on_change, self._on_going = on_change, on_going
        self._clock = clock
        self._rng = rng
        self._labels: Mapping[NodeId, bytes] = {}
        self._held: dict[NodeId, Registration] = {}
        self._wanted = anyio.Event()
        self._failures = 0
        """Attempts in a row that came to nothing."""
        self._not_placed = ""
        self._not_held: dict[NodeId, str] = {}

    @property
    def problem(self) -> str:
        """Why fewer than two are up, and what to do; empty when nothing is wrong."""
        if sum(each.up for each in self._counting()) >= REGISTRATIONS_PER_SITE:
            return ""
        return "; ".join(filter(None, (self._not_placed, *sorted(self._not_held.values()))))

    def _counting(self) -> list[Registration]:
        return [each for each in self._held.values() if not each.going]

    def all(self) -> list[Registration]:
        """Give those that are there, up or not."""
        return list(self._held.values())

    def at(self, relay: NodeId) -> SepClient | None:
        """Give the connection to a relay where the site is registered."""
        held = self._held.get(relay)
        return None if held is None else held.client

    def set_labels(self, labels: Mapping[NodeId, bytes]) -> None:
        """Be reachable under these labels, everywhere."""
        self._labels = dict(labels)
        for registration in self._held.values():
            if registration.client is not None:
                try:
                    self._tell_labels(registration, registration.client)
                except (PeerError, WorldError) as error:
                    log.info("labels did not reach %s: %s", registration.relay, error)

    async def run(self) -> None:
        """Keep two registrations up, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._wanted = anyio.Event()
                await self._fill(tasks)
                if len(self._counting()) >= REGISTRATIONS_PER_SITE:
                    await self._wanted.wait()
                # The first time at once, because the site is half as well reachable meanwhile.
                longest_s = RETRY_S_MAX if self._held else NOWHERE_RETRY_S_MAX
                delay_s = min(longest_s, RETRY_S_MIN * 2 ** min(self._failures, 8))
                await anyio.sleep(delay_s * self._rng.uniform(0.5, 1.0))

    async def _fill(self, tasks: anyio.abc.TaskGroup) -> None:
        """Ask for relays and begin to register where we are not yet."""
        keys = {key.public: key for key in (FreshKey.generate() for _ in range(REGISTRATIONS_PER_SITE))}
        try:
            placed = await self._place(PlaceSep(self._site, tuple(keys)))
        except AskFailed as error:
            self._not_placed = f"no relay was found for this site: {error}"
            self._failures += 1
            return
        for placement in placed.placements:
            key = keys.pop(placement.holder, None)
            wanted = placement.relay not in self._held and len(self._counting()) < REGISTRATIONS_PER_SITE
            if key is not None and wanted:
                registration = self._held[placement.relay] = Registration(placement, self._clock())
                tasks.start_soon(self._hold, registration, key)
        missing = REGISTRATIONS_PER_SITE - len(self._counting())
        self._not_placed = ""
        if missing:
            self._failures += 1
            self._not_placed = (
                f"this site is at {REGISTRATIONS_PER_SITE - missing} relay and wants {REGISTRATIONS_PER_SITE}: "
                "start another one with `atoll relay run`"
            )

    async def _hold(self, registration: Registration, key: FreshKey) -> None:
        """Live one registration, from the dial to its end."""
        placement = registration.placement
        try:
            with registration.scope:
                at = SepAddress(placement.host, placement.sep_port, placement.relay, placement.ticket, placement.web)
                async with open_sep(at, key, self._doors) as (client, through):
                    registration.client, registration.through = client, through
                    self._tell_labels(registration, client)
                    await self._wait_accepted(registration, client)
                    while True:
                        self._take(registration, await client.receive())
        except (PeerError, WorldError) as error:
            log.info("the registration at %s ended: %s", registration.relay, error)
            self._not_held[placement.relay] = f"{registration.relay}: {error}"
            while len(self._not_held) > REGISTRATIONS_PER_SITE:
                del self._not_held[next(iter(self._not_held))]
            self._failures += not registration.up
        finally:
            registration.client, registration.up = None, False
            del self._held[placement.relay]
            self._on_change()
            self._wanted.set()

    def _tell_labels(self, registration: Registration, client: SepClient) -> None:
        registration.labels = {label: node for node, label in self._labels.items()}
        client.set_labels(tuple(registration.labels))

    async def _wait_accepted(self, registration: Registration, client: SepClient) -> None:
        """Take what comes until the labels are accepted.

        Raises:
            Expired: They are not, within `LABELS_S`: the site may be registered elsewhere instead.
        """
        with anyio.move_on_after(LABELS_S):
            while not registration.up:
                self._take(registration, await client.receive())
        if not registration.up:
            raise Expired(f"it did not accept the site's labels within {LABELS_S:g} s")

    def _take(self, registration: Registration, event: RelayEvent) -> None:
        match event:
            case Inbound() as inbound:
                node = registration.labels.get(inbound.label)
                if node is not None:
                    self._on_inbound(registration, node, inbound)
            case Accepted(frames.LABELS) if not registration.up:
                registration.up, registration.since = True, self._clock()
                registration.why = f"registered ({registration.through})" if registration.through else "registered"
                self._not_held.pop(registration.placement.relay, None)
                self._settled()
                self._on_change()
            case Going(seconds):
                log.info("%s ends in %d s; the site registers elsewhere", registration.relay, seconds)
                registration.going, registration.why = True, "the relay is being drained"
                self._on_going(registration.relay)
                self._wanted.set()
            case _:
                # Answers that no longer find their circuit, late pongs: nobody waits for them here.
                pass

    def _settled(self) -> None:
        """Leave relays that are being drained, once there are enough others."""
        if sum(each.up for each in self._counting()) >= REGISTRATIONS_PER_SITE:
            self._failures = 0
            for registration in self._held.values():
                if registration.going:
                    registration.scope.cancel()
