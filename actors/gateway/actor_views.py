"""The JSON of migratable actors."""

from typing import Annotated, Literal

import msgspec

from atoll.actors.gateway.views import NodeRef, Reply, View

WITHIN_S = msgspec.Meta(ge=0.1, le=300)


class ActorView(View, frozen=True, kw_only=True):
    """One migratable actor of the site, as this node knows it."""

    name: str
    class_name: str
    """Empty where nobody could tell."""
    kind: Literal["durable", "soft"]
    host: NodeRef
    generation: int
    """Rises with each move."""
    founded: int = 0
    """In which generation it was founded: another one of that name, later, has another. 0 where that is not known."""
    stores: list[NodeRef]
    """Who keeps its log; none for a soft one."""
    behind: list[NodeRef] = []
    """Those of `stores` that do not have all that was acknowledged, or have not said so yet: for a moment while calls
    come in, and for as long as they are away or are brought it again. Empty, too, where the host gives no answer."""
    state: Literal["running", "frozen", "moving", "waiting", "unhosted", "unknown"]
    """Frozen: it takes no calls for a moment. Unhosted: the node that should does not run it. Unknown: that node gives
    no answer."""
    why: str
    """Why it does not run; empty where it does."""
    paused_ms: float | None = None
    """How long it took no calls when it moved last; null where its host does not know."""


class ActorReply(Reply, frozen=True, kw_only=True):
    """One actor."""

    actor: ActorView
    why: str = ""
    """Why its place is only what this node heard last; empty when it is certain."""


class ActorsReply(Reply, frozen=True, kw_only=True):
    """All migratable actors of the site."""

    actors: list[ActorView]
    why: str = ""
    """Why their places are only what this node heard last; empty when they are certain."""


class MoveActorBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that moves an actor."""

    to: str
    """A member of the site: its name or id."""
    within_s: Annotated[float, WITHIN_S] = 10.0


class ActorMovedReply(Reply, frozen=True, kw_only=True):
    """An actor that is where it should be."""

    name: str
    host: NodeRef
    paused_ms: float
    """How long it took no calls; 0 where it was there already."""


class ActorRemovedReply(Reply, frozen=True, kw_only=True):
    """An actor that is no more."""

    name: str
    founded_since: int | None = None
    """In which generation another one of that name was founded, which stays; null where there is none."""
