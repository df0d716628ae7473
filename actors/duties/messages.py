"""What the Duties of a site's nodes say to each other, and the facts they announce at home."""

from dataclasses import dataclass

from atoll.actors.cloud.messages import NodeRecord, OfferedService
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

PATH = "duties"
REGISTRAR, PROXY = "registrar", "proxy"
DUTIES = (REGISTRAR, PROXY)


class MemberHere(Message, frozen=True, tag="duties.member_here"):
    """A member tells the supernode about itself; repeated before its record ends there."""

    record: NodeRecord


class SiteRoll(Message, frozen=True, tag="duties.site_roll"):
    """The supernode tells every member who belongs to the site now, and which duties it holds."""

    records: tuple[NodeRecord, ...]
    held: tuple[str, ...] = ()


MESSAGES: tuple[type[Message], ...] = (MemberHere, SiteRoll)


@dataclass(frozen=True, slots=True)
class SiteKnown:
    """Fact: the members of this site as this node knows them, itself among them."""

    records: tuple[NodeRecord, ...]
    holder: NodeId | None
    """Who holds the soft duties; None while nobody does."""
    held: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelsChanged:
    """Fact, at the proxy's node: under which label each member is reached, and at which relays."""

    labels: tuple[tuple[NodeId, bytes], ...]
    relays: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class OwnRecordChanged:
    """Fact: what this node offers has changed."""

    services: tuple[OfferedService, ...]
    actors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DescribeSite:
    """Ask the Duties for `SiteDescribed`."""


@dataclass(frozen=True, slots=True)
class SiteDescribed:
    """What `status` shows of the site and its duties."""

    records: tuple[NodeRecord, ...]
    holder: NodeId | None
    held: tuple[str, ...]
