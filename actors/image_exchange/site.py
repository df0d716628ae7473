"""Whom of its site a node asks for images, as its Duties and its Router know it."""

import contextlib

import msgspec

from atoll.actors.duties.messages import PATH as DUTIES
from atoll.actors.duties.messages import DescribeSite, SiteDescribed
from atoll.actors.image_exchange.messages import CACHE
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import DescribeRoutes, RoutesDescribed
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId

LOOK_S = 2.0


class Neighbourhood(msgspec.Struct, frozen=True):
    """The other members of the site, and who holds its cache."""

    members: tuple[NodeId, ...] = ()
    cache: NodeId | None = None
    linked: frozenset[NodeId] = frozenset()
    """Of the members, those with a link."""


async def find_site(system: ActorSystem) -> Neighbourhood:
    """Ask the Duties of this node, and the Router: while there is no supernode, members are those with a link."""
    members: set[NodeId] = set()
    linked: frozenset[NodeId] = frozenset()
    cache = None
    with contextlib.suppress(AskFailed):
        site: SiteDescribed = await system.ask(Address(system.node_id, DUTIES), DescribeSite(), timeout_s=LOOK_S)
        members |= {record.node for record in site.records}
        cache = cache_of(site)
    with contextlib.suppress(AskFailed):
        known: RoutesDescribed = await system.ask(Address(system.node_id, ROUTER), DescribeRoutes(), timeout_s=LOOK_S)
        linked = frozenset(link.peer for link in known.links if link.standing is Standing.MEMBER)
    return Neighbourhood(tuple(sorted((members | linked) - {system.node_id})), cache, linked)


def cache_of(site: SiteDescribed) -> NodeId | None:
    """Say who holds the site's cache."""
    place = next((each for each in site.places if each.duty == CACHE), None)
    # While it moves, the holder before goes on.
    return None if place is None else place.source or place.holder
