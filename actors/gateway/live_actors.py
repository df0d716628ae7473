"""Migratable actors, as the gateway sees them: their places, and how each is, by asking their hosts."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import anyio

from atoll.actors.gateway.actor_views import ActorMovedReply, ActorRemovedReply, ActorReply, ActorsReply, ActorView
from atoll.actors.gateway.node_views import NodeView
from atoll.actors.gateway.ports import Conflict, Unacceptable, UnknownName
from atoll.actors.gateway.views import NodeRef
from atoll.actors.hand_over.site_actors import SiteActors
from atoll.actors.hand_over.site_messages import DescribeHosting, HostedActor, HostingDescribed
from atoll.actors.placement.messages import ActorPlace, PlacesListed
from atoll.actors.runtime.errors import AskFailed
from atoll.transport.errors import Refused, Unreachable, UsageError
from atoll.transport.identity import NodeId

HOST_S = 1.0
"""For a host to say how its actors are; without an answer their places are shown all the same."""
HOSTS_AT_ONCE = 16
REMOVE_S = 10.0
_ASK_BY_FORCE = (
    "ask again, with `?founded=` and that generation, so that no later actor of that name is ended; if its host is "
    "gone for good, with `?force=true`, too"
)
_LOOK_AT_SITE = "ask again when a majority of the voters is in reach: see `atoll site show`"
_LIST_ACTORS = "list them with `atoll actor list`"
_LOOK_AT_IT = "see how it is with `atoll actor show NAME`; a program there has to host it, too: node.host(Class, NAME)"
_TAKE_A_MEMBER = "take one of `atoll site show`"


@dataclass(slots=True)
class LiveActors:
    """Implements the gateway's `ActorPort`."""

    actors: SiteActors
    names: Callable[[], Awaitable[dict[NodeId, str]]]
    find: Callable[[str], Awaitable[NodeView]]
    """Gives the node that a name means."""

    async def list(self) -> ActorsReply:
        """List all, and ask their hosts."""
        listed = await self.actors.places()
        return ActorsReply(actors=[*await self._views(listed.places)], why=listed.why)

    async def show(self, name: str) -> ActorReply:
        """Show one."""
        place, listed = await self._place(name)
        (view,) = await self._views((place,))
        return ActorReply(actor=view, why=listed.why)

    async def _place(self, name: str) -> tuple[ActorPlace, PlacesListed]:
        listed = await self.actors.places()
        for place in listed.places:
            if place.actor == name:
                return place, listed
        # Who has heard of no place may have heard of nothing: that is said, too.
        unsure = f", as far as this node knows: {listed.why}" if listed.why else ""
        raise UnknownName(f"no actor of this site that moves is called {name[:100]}{unsure}", _LIST_ACTORS)

    async def move(self, name: str, to: str, within_s: float) -> ActorMovedReply:
        """Move one to a member."""
        await self._place(name)
        target = await self.find(to)
        if target.standing != "member":
            raise Unacceptable(f"{target.name} is no member of this site: actors move within it", _TAKE_A_MEMBER)
        try:
            ended = await self.actors.move(name, NodeId.parse(target.id), within_s)
        except Refused as error:
            raise Conflict(str(error), _LOOK_AT_IT) from error
        except UsageError as error:
            raise UnknownName(str(error), _LIST_ACTORS) from error
        host = NodeRef(id=target.id, short=target.short, name=target.name)
        return ActorMovedReply(name=name, host=host, paused_ms=round(ended.paused_ms, 1))

    async def remove(self, name: str, *, force: bool, founded: int) -> ActorRemovedReply:
        """End one for good."""
        if not founded:
            await self._place(name)
        try:
            since = await self.actors.remove(name, REMOVE_S, force=force, founded=founded)
        except Unreachable as error:
            raise Conflict(str(error), _LOOK_AT_SITE if force else _ASK_BY_FORCE) from error
        except UsageError as error:
            # It was listed by a node that had not heard yet that somebody else removed it.
            raise UnknownName(str(error), _LIST_ACTORS) from error
        return ActorRemovedReply(name=name, founded_since=since or None)

    async def _views(self, places: tuple[ActorPlace, ...]) -> tuple[ActorView, ...]:
        names = await self.names()
        told: dict[NodeId, dict[str, HostedActor] | str] = {}
        room = anyio.Semaphore(HOSTS_AT_ONCE)

        async def ask(host: NodeId) -> None:
            async with room:
                told[host] = await self._described(host)

        async with anyio.create_task_group() as tasks:
            for host in {each.placed.host for each in places}:
                tasks.start_soon(ask, host)
        return tuple(_view(each, told[each.placed.host], names) for each in places)

    async def _described(self, host: NodeId) -> dict[str, HostedActor] | str:
        """Give what a host has, or why it does not say so."""
        try:
            with anyio.fail_after(HOST_S):
                described = await self.actors.ask_host(host, DescribeHosting(), HostingDescribed, HOST_S)
        except AskFailed as error:
            return str(error)
        except TimeoutError:
            return f"no answer within {HOST_S:g} s"
        return {each.actor: each for each in described.actors}


def _view(place: ActorPlace, told: dict[str, HostedActor] | str, names: dict[NodeId, str]) -> ActorView:
    def ref(node: NodeId) -> NodeRef:
        return NodeRef(id=str(node), short=node.short, name=names.get(node, node.short))

    host = ref(place.placed.host)
    if isinstance(told, str):
        return _bare(place, host, ref, "unknown", f"{host.name} does not say how it is: {told}")
    hosted = told.get(place.actor)
    if hosted is None:
        return _bare(place, host, ref, "unhosted", f"it is placed on {host.name}, which does not run it")
    # It has not heard yet that its next generation is committed: it is about to.
    behind = hosted.placed.generation < place.placed.generation and hosted.state == "running"
    return ActorView(
        name=place.actor,
        class_name=hosted.kind,
        kind="durable" if hosted.placed.stores else "soft",
        host=host,
        generation=hosted.placed.generation,
        founded=place.founded,
        stores=list(map(ref, hosted.placed.stores)),
        behind=list(map(ref, hosted.behind)),
        state="frozen" if behind else hosted.state,
        why=hosted.why,
        paused_ms=None if hosted.paused_ms is None else round(hosted.paused_ms, 1),
    )


def _bare(
    place: ActorPlace,
    host: NodeRef,
    ref: Callable[[NodeId], NodeRef],
    state: Literal["unhosted", "unknown"],
    why: str,
) -> ActorView:
    """Say what the placement knows, where the host says nothing of the actor."""
    return ActorView(
        name=place.actor,
        class_name="",
        kind="durable" if place.placed.stores else "soft",
        host=host,
        generation=place.placed.generation,
        founded=place.founded,
        stores=list(map(ref, place.placed.stores)),
        state=state,
        why=why,
    )
