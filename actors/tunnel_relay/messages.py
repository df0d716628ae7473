"""What TunnelRelays say to each other, and what the actors of a node ask of theirs."""

from collections.abc import Mapping
from typing import Annotated, TypeAlias

import msgspec

from atoll.actors.tunnel_relay.candidates import CANDIDATES_MAX, NatMapping
from atoll.actors.tunnel_relay.punching import TICKET_BYTES
from atoll.actors.tunnel_relay.relay_address import Host, Port, RelayTicket, WebDoor
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

PATH = "tunnel_relay"
AVOIDED_MAX = 4
RelayName: TypeAlias = Annotated[str, msgspec.Meta(max_length=64)]


class BearerRequest(Message, frozen=True, tag="tunnel_relay.bearer_request"):
    """A caller asks the callee for a bearer; answered with the half that is the caller's."""

    avoid: Annotated[tuple[RelayName, ...], msgspec.Meta(max_length=AVOIDED_MAX)] = ()
    """Relays that carry a bearer already: the new one shall not die with them."""


class SpareWanted(Message, frozen=True, tag="tunnel_relay.spare_wanted"):
    """A caller that has streams open wants its spare bearer beside the first one; the callee dials its half now."""


class BearerHalf(msgspec.Struct, frozen=True, array_like=True):
    """The calling half of a tunnel."""

    relay: NodeId
    name: str
    host: Host
    port: Port
    ticket: RelayTicket
    web: WebDoor | None = None
    """The relay's other door."""


class BearerOffered(Message, frozen=True, tag="tunnel_relay.bearer_offered"):
    """The calling half of a tunnel whose other half is being dialled already."""

    relay: NodeId
    name: str
    host: Host
    port: Port
    ticket: RelayTicket
    expires_at: int
    spare: BearerHalf | None = None
    """Of a tunnel over another relay, whose other half is dialled as soon as the first bearer is lost."""
    now: float = 0.0
    """The cloud's clock, by which `expires_at` is to be read: the caller's may be off. 0: not known."""
    web: WebDoor | None = None
    """The other door of the first one's relay."""


class DirectRequest(Message, frozen=True, tag="tunnel_relay.direct_request"):
    """A peer that a link leads to asks for a direct connection; answered with where it may dial, once."""

    host: Host
    """The callee's address, as the caller sees it."""


class DirectOffered(Message, frozen=True, tag="tunnel_relay.direct_offered"):
    """A port that waits for the caller, for a moment."""

    port: Port
    ticket: RelayTicket


class PunchCandidate(msgspec.Struct, frozen=True, array_like=True):
    """Where an end may be found: an address of 4 or 16 bytes."""

    address: Annotated[bytes, msgspec.Meta(min_length=4, max_length=16)]
    port: Port


PunchTicket: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=TICKET_BYTES, max_length=TICKET_BYTES)]
PunchMapping: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=max(NatMapping).value)]
PunchCandidates: TypeAlias = Annotated[tuple[PunchCandidate, ...], msgspec.Meta(max_length=CANDIDATES_MAX)]


class PunchRequest(Message, frozen=True, tag="tunnel_relay.punch_request"):
    """A caller wants to try a connection through the NATs of both; answered with `PunchAgreed`."""

    ticket: PunchTicket
    mapping: PunchMapping
    """What its NAT does, as a number of `NatMapping`."""
    candidates: PunchCandidates
    """How relays see the port that it dials from, and perhaps its own address."""


class PunchAgreed(Message, frozen=True, tag="tunnel_relay.punch_agreed"):
    """The callee knocks at the caller's addresses now; these are its own."""

    ticket: PunchTicket
    mapping: PunchMapping
    candidates: PunchCandidates


MESSAGES: tuple[type[Message], ...] = (
    BearerRequest,
    SpareWanted,
    BearerOffered,
    DirectRequest,
    DirectOffered,
    PunchRequest,
    PunchAgreed,
)


class ServeSite(msgspec.Struct, frozen=True):
    """Told by the proxy duty: keep the site reachable at relays under these labels; replaces what was told before."""

    site: str
    labels: Mapping[NodeId, bytes]


class StopServing(msgspec.Struct, frozen=True):
    """Told when the proxy duty ends here."""


class SiteServed(msgspec.Struct, frozen=True):
    """Fact: at which relays the site is registered now."""

    relays: tuple[NodeId, ...]


class DescribeTunnels(msgspec.Struct, frozen=True):
    """Ask what is open; answered with `TunnelsDescribed`."""


class RegistrationSeen(msgspec.Struct, frozen=True):
    """A registration of this site, or the attempt at one."""

    relay: str
    address: str
    up: bool
    since: float
    """Seconds of the system's clock."""
    why: str


class BearerSeen(msgspec.Struct, frozen=True):
    """A bearer that ends here."""

    peer: NodeId | None
    relay: str
    since: float
    sent_bytes: int
    received_bytes: int


class TunnelsDescribed(msgspec.Struct, frozen=True):
    """What `status` shows of the TunnelRelay."""

    registrations: tuple[RegistrationSeen, ...]
    bearers: tuple[BearerSeen, ...]
    counters: dict[str, int]
    problem: str
    """Why this site is at fewer relays than it should be; empty when nothing is wrong."""
