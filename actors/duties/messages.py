"""What the Duties of a site's nodes say to each other, and the facts they announce at home."""

from typing import Annotated, TypeAlias

import msgspec

from atoll.actors.cloud.messages import NodeRecord, OfferedService
from atoll.actors.elector.messages import Epoch
from atoll.actors.elector.score import Score
from atoll.actors.tunnel_relay.frames import LABEL_BYTES, LABELS_PER_REGISTRATION_MAX
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

PATH = "duties"
REGISTRAR, PROXY = "registrar", "proxy"
DUTIES_MAX = 16
"""Different duties of a site that a message may name."""
STATE_BYTES_MAX = 512 * 1024
"""A duty's state fits into one message of a link; a proxy's 1,024 labels are 50 KiB."""
WHY_CHARACTERS_MAX = 300

RELAYS_MAX = 8
"""At which a site is registered at once; it wants two, and has up to four while they change."""

DutyName: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
Label: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=LABEL_BYTES, max_length=LABEL_BYTES)]
Turn: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class DutyPlace(msgspec.Struct, frozen=True, array_like=True):
    """Where a duty is, as the supernode decided."""

    duty: DutyName
    holder: NodeId
    epoch: Epoch
    """Of the supernode that decided so."""
    turn: Turn
    """Rises with each decision about this duty."""
    source: NodeId | None
    """Who holds it until `holder` has taken it over, with its state; None once it is settled."""
    why: Annotated[str, msgspec.Meta(max_length=WHY_CHARACTERS_MAX)]


class HeldDuty(msgspec.Struct, frozen=True, array_like=True):
    """A duty that a member holds and does, since the decision of that epoch and turn."""

    duty: DutyName
    epoch: Epoch
    turn: Turn


class MemberHere(Message, frozen=True, tag="duties.member_here"):
    """A member tells the supernode about itself; repeated before its record ends there."""

    record: NodeRecord
    score: Score = Score()
    able: Annotated[tuple[DutyName, ...], msgspec.Meta(max_length=DUTIES_MAX)] = ()
    """Duties that it could hold."""
    held: Annotated[tuple[HeldDuty, ...], msgspec.Meta(max_length=DUTIES_MAX)] = ()
    draining: bool = False
    """It wants to hold none."""


class SiteRoll(Message, frozen=True, tag="duties.site_roll"):
    """The supernode tells every member who belongs to the site now, and who holds which duty."""

    records: tuple[NodeRecord, ...]
    places: Annotated[tuple[DutyPlace, ...], msgspec.Meta(max_length=DUTIES_MAX)] = ()


class StateWanted(Message, frozen=True, tag="duties.state_wanted"):
    """The next holder of a duty asks the one before for what it knows."""

    duty: DutyName


class StateGiven(Message, frozen=True, tag="duties.state_given"):
    """The answer; empty where that duty has nothing to tell."""

    state: Annotated[bytes, msgspec.Meta(max_length=STATE_BYTES_MAX)]


class SiteLabels(Message, frozen=True, tag="duties.site_labels"):
    """The proxy's node tells the registrar's under which label each member is reached, and at which relays."""

    labels: Annotated[tuple[tuple[NodeId, Label], ...], msgspec.Meta(max_length=LABELS_PER_REGISTRATION_MAX)]
    relays: Annotated[tuple[NodeId, ...], msgspec.Meta(max_length=RELAYS_MAX)]


MESSAGES: tuple[type[Message], ...] = (MemberHere, SiteRoll, StateWanted, StateGiven, SiteLabels)


class SiteKnown(msgspec.Struct, frozen=True):
    """Fact: the members of this site as this node knows them, itself among them."""

    records: tuple[NodeRecord, ...]
    supernode: NodeId | None
    """Who keeps the roll; None while nobody does."""
    places: tuple[DutyPlace, ...]


class LabelsChanged(msgspec.Struct, frozen=True):
    """Fact, at the proxy's node and at the registrar's: `SiteLabels`."""

    labels: tuple[tuple[NodeId, bytes], ...]
    relays: tuple[NodeId, ...]


class OwnRecordChanged(msgspec.Struct, frozen=True):
    """Fact: what this node offers has changed."""

    services: tuple[OfferedService, ...]
    actors: tuple[str, ...]


class HoldDuty(msgspec.Struct, frozen=True):
    """Fact for the shell: begin with this duty, with the state of `source` if there is one."""

    duty: str
    source: NodeId | None


class DropDuty(msgspec.Struct, frozen=True):
    """Fact for the shell: end this duty here."""

    duty: str


class DutyReady(msgspec.Struct, frozen=True):
    """Fact: a duty does its work here from now on; whoever held it before may stop."""

    duty: str


class DutyFailed(msgspec.Struct, frozen=True):
    """Fact: a duty could not be begun here."""

    duty: str


class Drain(msgspec.Struct, frozen=True):
    """Ask this node's Duties to give everything away and to take nothing more; answered with `Drained`."""

    draining: bool = True
    """False: it may hold duties again, and preside."""
    within_s: float = 10.0


class Moved(msgspec.Struct, frozen=True):
    """What a drained node gave away."""

    what: str
    to: NodeId
    took_s: float
    pause_s: float
    """How long nobody did it, as this node saw it; 0 where the next holder had begun before this one ended."""


class Stayed(msgspec.Struct, frozen=True):
    """What a drained node could not give away."""

    what: str
    why: str


class Drained(msgspec.Struct, frozen=True):
    """The answer to `Drain`."""

    draining: bool
    moved: tuple[Moved, ...] = ()
    stayed: tuple[Stayed, ...] = ()


class DescribeSite(msgspec.Struct, frozen=True):
    """Ask the Duties for `SiteDescribed`."""


class SiteDescribed(msgspec.Struct, frozen=True):
    """What `status` shows of the site and its duties."""

    records: tuple[NodeRecord, ...]
    supernode: NodeId | None
    places: tuple[DutyPlace, ...]
    held: tuple[str, ...]
    """What this node holds, ready or not."""
    draining: bool
