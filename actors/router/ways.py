"""Opens ways to other nodes for the Router: links nearby, a link to the cloud, sessions over relays or directly.

    wanted --a link to a member comes, the cloud is dialled, a session over SEP stands--> answered with the route
           --none of that within `REACH_S`--> declined, with the reason
    a stream is wanted --a session stands, or a direct connection to a peer nearby, or SEP--> the session

Each way is opened once, however many ask for it. What a lost way owed waits here while the next one is looked for.
"""

import logging
from collections.abc import Callable
from typing import Any

import anyio
import msgspec

from atoll.actors.discoverer.messages import PATH as DISCOVERER
from atoll.actors.discoverer.messages import LinkComing, LinkWanted
from atoll.actors.router.cloud_address import LINK_WAIT_S, CloudAddress
from atoll.actors.router.conversation import Conversation
from atoll.actors.router.conversations import Conversations
from atoll.actors.router.messages import PATH, LinkSeen, Reach
from atoll.actors.router.paths import OpenDirect, OpenSep, Path, SepPaths
from atoll.actors.router.routes import Route, RouteTable, Way
from atoll.actors.runtime.actor import ReplyTo
from atoll.actors.runtime.errors import AskDeclined, AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.actors.tunnel_relay.messages import PATH as TUNNEL_RELAY
from atoll.actors.uplink.messages import PATH as UPLINK
from atoll.actors.uplink.messages import GrantWanted
from atoll.transport.errors import Congested, PeerError, Unreachable, WorldError
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.router")

REACH_S = 15.0
"""Directory, relay and handshake take three round trips; a relay that does not answer takes ten seconds."""
REACHES_MAX = 256
"""Ways that are being opened at once."""
NEAR_S = 1.5
"""For a link on the local network; a dial of an address that is there takes a tenth of it."""
RELAYS = 2
"""Of a site: a session should have a path over each."""
WIDEN_PAUSES_S = (2.0, 5.0, 15.0, 60.0)
"""Before another look for a second relay: a site that has just begun is at both within a second."""
WIDEN_AT_ONCE_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""The same while nothing comes back through any path there is."""
RESUME_S = 3.0
"""For the peer's answer over a new path of a session that had none."""
RESTORE_PAUSE_S = 0.25
"""Between two attempts to find such a path."""
AGAIN_PAUSE_S = 0.25
"""From the beginning of a session that was lost to that of the next one: a peer may lose each as soon as it stands."""
OPEN_AGAIN_S = (0.1, 0.3, 1.0)
"""Before a session whose paths were all lost at once is begun over others: the peer's site, or a relay, has just
changed, and the directory did not know it."""


class _PathsLost(Unreachable):
    """A session did not come to be because no path led to the peer."""


class Means(msgspec.Struct, frozen=True):
    """What the Router lends: its links, its sessions, and who does things for it."""

    links: dict[NodeId, LinkSeen]
    conversations: Conversations
    routes: RouteTable
    dial: Callable[[NodeId, str, int], None]
    start_soon: Callable[..., Any]
    begun: Callable[[Conversation], None]
    """Called when a session may have something to wait for."""
    is_fresh: Callable[[Conversation, Path], bool] = lambda _conversation, _path: True
    """Tells whether a path is one to stay with."""


class Ways:
    """The ways that are being opened."""

    def __init__(self, system: ActorSystem, cloud: CloudAddress | None, means: Means) -> None:
        self._system = system
        self._cloud = cloud
        self._links, self._conversations, self._routes = means.links, means.conversations, means.routes
        self._dial, self._start_soon, self._begun = means.dial, means.start_soon, means.begun
        self._is_fresh = means.is_fresh
        self._reaching: dict[NodeId, list[ReplyTo]] = {}
        self._interrupted: dict[NodeId, str] = {}
        """Peers to which a way is looked for because the last one was lost, and why; what they owe us waits for it."""
        self._waiting: dict[object, list[anyio.Event]] = {}
        self._opening: set[NodeId] = set()
        """Peers to which a direct connection is being opened."""
        self._widening: set[tuple[NodeId, bool]] = set()
        """Peers that a path over another relay is looked for."""
        self._cloud_failure = ""
        """Why the cloud could not be dialled last."""

    def dial_failed(self, peer: NodeId, reason: str) -> None:
        """Hear that a link did not come to be."""
        if self._cloud is not None and peer == self._cloud.node:
            self._cloud_failure = reason
        self.wake(peer)

    def interrupted(self, peer: NodeId, reason: str) -> None:
        """Keep why what is on its way to a peer has stopped, until `resume`."""
        self._interrupted[peer] = reason

    def reopen(self, peer: NodeId) -> bool:
        """Look for a way for an ask that found none, to a peer that was met before; True if `resume` tells what came.

        Who holds a reference may use it as long as the peer lives, whatever became of the session it was found over.
        """
        if peer not in self._interrupted:
            if not self._routes.met(peer):
                return False
            self.interrupted(peer, "")
            self.begin(peer)
        return True

    def resume_all(self) -> None:
        """Resume everything: no more ways are opened."""
        for peer in tuple(self._interrupted):
            self.resume(peer)

    def begin(self, peer: NodeId, *waiting: ReplyTo) -> None:
        route = self._standing_route(peer)
        if route is None and peer not in self._reaching and len(self._reaching) < REACHES_MAX:
            self._reaching[peer] = []
            self._start_soon(self._reach, peer)
        if route is None and peer in self._reaching:
            self._reaching[peer] += waiting
            return
        failure = "" if route else f"{REACHES_MAX} ways are being opened already; try again in a moment"
        for reply_to in waiting:
            if route is not None:
                reply_to.answer(route)
            else:
                reply_to.fail(AskDeclined(failure))
        self.resume(peer, failure)

    def begin_again(self, peer: NodeId, lost: Conversation) -> None:
        """Begin a way in place of a session that was lost; where that had just begun itself, after a pause."""
        pause_s = lost.opened_at + AGAIN_PAUSE_S - self._system.clock()
        if pause_s > 0:
            self._start_soon(self._begin_after, peer, pause_s)
        else:
            self.begin(peer)

    async def _begin_after(self, peer: NodeId, pause_s: float) -> None:
        await anyio.sleep(pause_s)
        if peer in self._interrupted:
            self.begin(peer)

    def _standing_route(self, peer: NodeId) -> Route | None:
        """Give the route to a peer if something that stands already carries it."""
        route = self._routes.route(peer, self._system.clock())
        if route.way in (Way.HERE, Way.DIRECT):
            return route
        return route if route.way is not Way.NONE and self.talks_with(peer) else None

    async def _reach(self, peer: NodeId) -> None:
        answer: Route | AskFailed
        try:
            with anyio.fail_after(REACH_S):
                if self._cloud is not None and peer == self._cloud.node:
                    await self._dial_cloud(self._cloud)
                elif not await self._linked_nearby(peer):
                    await self._open_sep(peer)
            answer = self._routes.route(peer, self._system.clock())
        except TimeoutError:
            answer = AskDeclined(f"{peer.short} could not be reached within {REACH_S:g} s")
        except (AskFailed, WorldError, PeerError) as error:
            answer = AskDeclined(str(error))
        finally:
            waiting = self._reaching.pop(peer, [])
        self.resume(peer, "" if isinstance(answer, Route) else str(answer))
        for reply_to in waiting:
            if isinstance(answer, Route):
                reply_to.answer(answer)
            else:
                reply_to.fail(answer)

    async def _linked_nearby(self, peer: NodeId) -> bool:
        """Have a link made to a member that a large site gave us none to; tell whether it is there."""
        try:
            asked: LinkComing = await self._ask_here(DISCOVERER, LinkWanted(peer), NEAR_S)
        except AskFailed:
            return False  # There is no Discoverer, or it begins anew.
        if asked.coming and peer not in self._links:
            await self._wait(peer, NEAR_S)
        return peer in self._links

    async def _dial_cloud(self, cloud: CloudAddress) -> None:
        if not cloud.host:
            raise Unreachable("the config names no address of the cloud: set cloud.host")
        self._cloud_failure = f"no link within {LINK_WAIT_S:g} s"
        self._dial(cloud.node, cloud.host, cloud.port)
        await self._wait(cloud.node, LINK_WAIT_S)
        if cloud.node not in self._links:
            raise Unreachable(f"the cloud at {cloud.host}:{cloud.port} cannot be reached: {self._cloud_failure}")

    async def _open_sep(self, peer: NodeId) -> None:
        """Open a session with `peer` over the relays that its site is registered on."""
        pauses_s = iter(OPEN_AGAIN_S)
        while True:
            opened: SepPaths = await self._ask_here(TUNNEL_RELAY, OpenSep(peer), REACH_S)
            for path in opened.paths:
                self._routes.signaling_found(peer, path.relay, opened.expires_at)
            try:
                await self.use_paths(peer, opened.paths)
                break
            except _PathsLost as error:
                pause_s = next(pauses_s, None)
                if pause_s is None:
                    raise
                log.info("another try: %s", error)
                await anyio.sleep(pause_s)
        if len(opened.paths) < RELAYS:
            self.widen(peer)

    def widen(self, peer: NodeId, *, at_once: bool = False) -> None:
        """See to it that a session over relays has a path over another one as well."""
        if (peer, at_once) not in self._widening:
            self._widening.add((peer, at_once))
            self._start_soon(self._widen, peer, at_once)

    async def _widen(self, peer: NodeId, at_once: bool) -> None:  # noqa: FBT001 - a task takes no keywords
        """Look for a path over another relay: with one alone a session dies with it."""
        try:
            for pause_s in WIDEN_AT_ONCE_PAUSES_S if at_once else WIDEN_PAUSES_S:
                await anyio.sleep(pause_s)
                conversation = self._conversations.with_peer(peer)
                if conversation is None or not conversation.established:
                    return
                over = [path for path in conversation.paths if path.way is Way.SEP]
                known = frozenset(path.relay for path in over)
                living = {path.relay for path in over if self._is_fresh(conversation, path)}
                if (living and not conversation.stalled) if at_once else len(living) >= RELAYS:
                    return
                try:
                    opened: SepPaths = await self._ask_here(TUNNEL_RELAY, OpenSep(peer, known), REACH_S)
                except AskFailed as error:
                    log.debug("no other path to %s: %s", peer.short, error)
                    continue
                for path in opened.paths:
                    self._routes.signaling_found(peer, path.relay, opened.expires_at)
                await self.use_paths(peer, opened.paths)
        except (AskFailed, WorldError, PeerError) as error:
            log.info("no other path to %s: %s", peer.short, error)
        finally:
            self._widening.discard((peer, at_once))

    async def use_paths(self, peer: NodeId, paths: tuple[Path, ...]) -> None:
        """Add paths that are ours now to the session that stands, or open one over them; raises as `_converse`."""
        orphan = self._conversations.orphan_of(peer)
        conversation = self._conversations.with_peer(peer) if orphan is None else orphan
        if conversation is None or not conversation.established:
            await self._converse(peer, paths)
            return
        added = 0
        for path in paths:
            try:
                self._conversations.add(conversation, path, self._system.clock())
                added += 1
            except Congested:
                path.close()
        self._begun(conversation)
        if not added:
            raise Congested(f"the session with {peer.short} has as many paths as it may have")
        if orphan is not None:
            await self._resumed(orphan)

    async def _resumed(self, orphan: Conversation) -> None:
        """Wait until a session that had no path has one that leads to the peer.

        Raises:
            Unreachable: The peer knows the session no more.
        """
        deadline = self._system.clock() + RESUME_S
        while orphan.in_use is None and not orphan.ended and (left_s := deadline - self._system.clock()) > 0:
            await self._wait(orphan, left_s)
        if orphan.in_use is None:
            reason = "the peer does not go on with the session over another path"
            self._conversations.end(orphan, reason, self._system.clock())
            raise Unreachable(reason)

    def restore(self, peer: NodeId) -> None:
        """Find another path for a session that has lost its last one, as long as it waits for it."""
        self._start_soon(self._restore, peer)

    async def _restore(self, peer: NodeId) -> None:
        while (orphan := self._conversations.orphan_of(peer)) is not None and orphan.dialled:
            try:
                await self.session_with(peer)
            except (AskFailed, WorldError, PeerError) as error:
                log.info("no path yet for the session with %s: %s", peer.short, error)
            await anyio.sleep(RESTORE_PAUSE_S)

    async def _converse(self, peer: NodeId, paths: tuple[Path, ...]) -> Conversation:
        """Dial a session over paths that are ours now, and wait until it is established.

        Raises:
            AskFailed: There is no grant to show, and no link that would do instead.
            Unreachable: It came to nothing; the text says why.
        """
        try:
            grant: bytes = await self._ask_here(UPLINK, GrantWanted(), REACH_S)
        except AskFailed:
            if any(path.way is not Way.DIRECT for path in paths):
                for path in paths:
                    path.close()
                raise
            # The link to the peer says who we are: a site needs no cloud for that.
            grant = b""
        except BaseException:
            for path in paths:
                path.close()
            raise
        conversation = self._conversations.dial(peer, paths, grant, self._system.clock())
        self._begun(conversation)
        if not conversation.established and not conversation.ended:
            await self._wait(conversation, REACH_S)
        if not conversation.established:
            error = _PathsLost if conversation.lost else Unreachable
            raise error(f"no session with {peer.short}: {conversation.ended or 'it gave no answer'}")
        return conversation

    async def _ask_here(self, path: str, message: Any, timeout_s: float) -> Any:
        return await self._system.ask(Address(self._system.node_id, path), message, timeout_s=timeout_s)

    async def _wait(self, subject: object, timeout_s: float) -> None:
        """Wait until `wake` is called for the subject, or the time is over."""
        # Each has an event of its own: who gives up, or has been woken, takes nothing from the others.
        event = anyio.Event()
        self._waiting.setdefault(subject, []).append(event)
        try:
            with anyio.move_on_after(timeout_s):
                await event.wait()
        finally:
            others = self._waiting.get(subject, [])
            if event in others:
                others.remove(event)
                if not others:
                    del self._waiting[subject]

    def wake(self, subject: object) -> None:
        for event in self._waiting.pop(subject, ()):
            event.set()

    async def session_with(self, peer: NodeId) -> Conversation:
        """Give a session that stands, and open one where there is none: to a peer nearby over a direct connection.

        Raises:
            AskFailed, WorldError, PeerError: There is no way; the text says why.
        """
        conversation = self._conversations.with_peer(peer)
        if conversation is not None and conversation.established:
            return conversation
        if peer not in self._links:
            await self._system.ask(Address(self._system.node_id, PATH), Reach(peer), timeout_s=REACH_S)
        link = self._links.get(peer)
        if link is not None:
            await self._opening_direct(peer, link)
        conversation = self._conversations.with_peer(peer)
        if conversation is None or not conversation.established:
            raise Unreachable(f"no session with {peer.short} came to be")
        return conversation

    async def _opening_direct(self, peer: NodeId, link: LinkSeen) -> None:
        """Open a direct connection, or wait until somebody else here has; fall back on relays."""
        opening = ("direct", peer)
        if peer in self._opening:
            await self._wait(opening, REACH_S)
            return
        self._opening.add(peer)
        try:
            path: Path = await self._ask_here(TUNNEL_RELAY, OpenDirect(peer, link.host), REACH_S)
            await self.use_paths(peer, (path,))
        except (AskFailed, WorldError, PeerError) as error:
            log.info("no direct connection to %s: %s", peer.short, error)
            if self._cloud is None:
                raise
            try:
                await self._open_sep(peer)
            except (AskFailed, WorldError, PeerError) as other:
                raise Unreachable(f"{error}; and over relays: {other}") from other
        finally:
            self._opening.discard(peer)
            self.wake(opening)

    def resume(self, peer: NodeId, failure: str = "") -> None:
        """Send what was interrupted again, or fail it where no way was found, with the reason of that."""
        reason = self._interrupted.pop(peer, None)
        if reason is not None:
            self._system.way_lost(peer, "; ".join(filter(None, (reason, failure))))

    def talks_with(self, peer: NodeId) -> bool:
        conversation = self._conversations.with_peer(peer)
        return conversation is not None and conversation.established
