"""What REST says about the site: who is a member, who votes, who is supernode, who does which duty."""

from typing import Annotated

import msgspec

from atoll.actors.gateway.views import NodeRef, Reply, View


class SiteRef(View, frozen=True, kw_only=True):
    """The site this node belongs to."""

    id: str
    name: str = ""
    """What its nodes call it; not unique."""
    mode: str
    """`quorum`, or `provisional` while no majority of voters is there."""
    members: int


class SupernodeView(View, frozen=True, kw_only=True):
    """Who is supernode, and why."""

    node: str
    name: str
    epoch: int
    confirmed: bool
    """A majority has confirmed it in this epoch."""
    why: str


class RosterView(View, frozen=True, kw_only=True):
    """The voters of the site."""

    version: int
    voters: list[NodeRef]
    incarnation: int = 1
    """How often the site was begun: 1, and one more with each reform."""
    reason: str = ""
    """Why this version differs from the one before."""
    change: str = ""
    """What is being done to it, or what is wrong with one that came."""


class PlaceView(View, frozen=True, kw_only=True):
    """Where an exclusive actor is."""

    actor: str
    generation: int
    host: NodeRef
    stores: list[NodeRef] = []
    """Who keeps its operation log."""


class PlacementView(View, frozen=True, kw_only=True):
    """Who runs which exclusive actor, as this node knows it."""

    certain: bool
    """This node is supernode, and answers for the site."""
    why: str
    """Why this node's word is not certain; empty when it is."""
    epoch: int
    version: int
    voters: int
    """On how many voters a certain table is."""
    places: list[PlaceView] = []


class DutyView(View, frozen=True, kw_only=True):
    """A duty of the site and who holds it."""

    duty: str
    node: str
    name: str
    why: str
    generation: int | None = None


class SiteMemberView(View, frozen=True, kw_only=True):
    """A member of the site, as this node sees it."""

    id: str
    short: str
    name: str
    voter: bool
    supernode: bool
    self: bool
    route: str
    """How it is reached: `here`, `direct`, `punched`, `sep`, `bep` or `none`."""


class SiteView(View, frozen=True, kw_only=True):
    """The site of the node: who is a member, who votes, and how its election stands."""

    id: str
    name: str
    mode: str
    """`quorum`, or `provisional` while no majority of voters is there."""
    why: str
    """Why there is this supernode, or none."""
    roster: RosterView
    voters_in_reach: int
    members: list[SiteMemberView]
    supernode: SupernodeView | None = None


class DutiesReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/duties`."""

    duties: list[DutyView]


class ReformSite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that begins a site anew with this node as its only voter."""

    reason: Annotated[str, msgspec.Meta(max_length=200)] = "a person says so"
    """Kept with the roster, and shown."""
    force: bool = False
    """Do it although a majority of the voters is in reach."""


class LeaveSite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that takes this node out of the voters."""

    reason: Annotated[str, msgspec.Meta(max_length=200)] = "a person says so"
