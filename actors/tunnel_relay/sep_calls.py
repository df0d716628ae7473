"""Paths to nodes of other sites over signaling: looked up, dialled, read, renewed.

wanted --the directory gives routes--> dialled, all at once --let in--> up --lost, closed--> over
up --its ticket nears its end--> another one for the same key is shown, and it goes on
--its relay is drained--> the Router is told, and has another path before this one ends
"""

import logging
from collections.abc import Callable

import anyio
import msgspec

from atoll.actors.cloud.messages import DIRECTORY, Found, LookUp, SepRoute
from atoll.actors.router.lifetimes import RENEW_BEFORE_PART, RENEW_BEFORE_S
from atoll.actors.router.paths import OpenSep, PathFound, PathRenewed, RecordsArrived, SepPaths
from atoll.actors.runtime.actor import ReplyTo
from atoll.actors.runtime.errors import AskDeclined, AskFailed
from atoll.actors.tunnel_relay.dialling_means import DiallingMeans
from atoll.actors.tunnel_relay.frames import Going, Returned, Undelivered
from atoll.actors.tunnel_relay.reasons import Reason, sentence_of
from atoll.actors.tunnel_relay.sep_client import FreshKey, SepClient
from atoll.actors.tunnel_relay.sep_dial import SepAddress, open_sep
from atoll.actors.tunnel_relay.sep_paths import LabelPath
from atoll.actors.uplink.ask import ask_cloud
from atoll.transport.errors import PeerError, TransportError, WorldError
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.tunnel_relay")

ROUTES = 2
"""A caller holds a path over each relay of a site."""
ROUTES_PAUSES_S = (0.1,) * 10 + (0.25,) * 16
"""Between questions for a site's routes: a new supernode has its site at a relay within about a second."""
SECOND_PATH_S = 0.25
"""How long the first path waits for the second, before calls begin without it."""
CALLS_MAX = 256
"""Paths to other sites that are open at once."""
RENEW_AGAIN_S = 1.0
"""Between two attempts to have a new ticket."""


class SepCalls:
    """The paths of one node to labels at relays."""

    def __init__(self, means: DiallingMeans) -> None:
        self._means = means
        self.count = 0
        """Connections that are open, or being opened."""

    async def _look_up(self, peer: NodeId, keys: tuple[bytes, ...]) -> Found:
        """Ask for the routes to a peer; wait a little for a site that is just changing its supernode.

        Raises:
            AskDeclined: The peer is not known, or its site stays at no relay.
        """
        pauses_s = iter(ROUTES_PAUSES_S)
        while True:
            found = await ask_cloud(self._means.system, DIRECTORY, LookUp(str(peer), keys), Found)
            if found.routes:
                return found
            pause_s = next(pauses_s, None)
            if pause_s is None:
                raise AskDeclined(f"{found.record.site}/{found.record.name} is known, but its site is at no relay now")
            await anyio.sleep(pause_s)

    async def open(self, order: OpenSep, reply_to: ReplyTo, deadline: float | None) -> None:
        keys = [FreshKey.generate() for _ in range(ROUTES)]
        try:
            found = await self._look_up(order.peer, tuple(key.public for key in keys))
            if self.count + len(found.routes) > CALLS_MAX:
                raise AskDeclined(f"{CALLS_MAX} paths to other sites are open already")
            # Each route's ticket is bound to the key of its place.
            begun_at = self._means.system.clock()
            dials = [
                _Dial(order.peer, route, key, begun_at + route.expires_at - found.now)
                for route, key in zip(found.routes, keys, strict=False)
                if _name(route) not in order.besides
            ]
            if not dials:
                raise AskDeclined("its site is at no other relay now")
            paths = await self._dial_all(dials)
        except AskFailed as error:
            reply_to.fail(error)
            return
        if self._means.late(deadline):
            for path in paths:
                path.close()
            return
        lasts_s = min(route.expires_at for route in found.routes) - found.now
        reply_to.answer(SepPaths(tuple(paths), self._means.system.clock() + lasts_s))

    async def _dial_all(self, dials: "list[_Dial]") -> list[LabelPath]:
        """Dial the relays at once; give what stands shortly after the first does.

        Raises:
            AskDeclined: None of them let us in.
        """
        up: list[LabelPath] = []
        failed: list[str] = []
        answered = False
        changed = anyio.Event()

        def settle(result: LabelPath | str) -> None:
            nonlocal changed
            if isinstance(result, str):
                failed.append(result)
            elif answered:
                # In time for the next loss of a path, if not for the first record.
                self._means.router.tell(PathFound(up[0], result))
            else:
                up.append(result)
            changed.set()
            changed = anyio.Event()

        for dial in dials:
            self.count += 1
            self._means.start_soon(self._hold, dial, settle)
        while not up and len(failed) < len(dials):
            await changed.wait()
        with anyio.move_on_after(SECOND_PATH_S):
            while len(up) + len(failed) < len(dials):
                await changed.wait()
        if not up:
            raise AskDeclined("no relay of its site let us in: " + "; ".join(failed))
        answered = True
        return up

    async def _hold(self, dial: "_Dial", settle: Callable[[LabelPath | str], None]) -> None:
        """Live one connection to a relay that we call a label at."""
        route = dial.route
        relay = _name(route)
        path: LabelPath | None = None
        reason = "this end closed it"
        try:
            async with anyio.create_task_group() as tasks:
                at = SepAddress(route.host, route.sep_port, route.relay, route.ticket, route.web)
                async with open_sep(at, dial.key, self._means.doors) as (client, through):
                    path = LabelPath(relay, route.label, client, tasks.cancel_scope.cancel, through=through)
                    await self._means.router.wait_room()
                    settle(path)
                    tasks.start_soon(self._renew, dial, path)
                    reason = await self._read(path, client)
                tasks.cancel_scope.cancel()
        except* (PeerError, WorldError) as errors:
            reason = f"{relay}: {errors.exceptions[0]}"
        finally:
            self.count -= 1
        if path is None:
            settle(reason)
        else:
            await self._means.tell_lost(path, reason)

    async def _read(self, path: LabelPath, client: SepClient) -> str:
        while True:
            match await client.receive():
                case Returned(label, record) if label == path.label:
                    await self._means.router.wait_room()
                    self._means.router.tell(RecordsArrived(path, (record,)))
                case Undelivered(reason, _) if reason == Reason.CONGESTED:
                    self._means.counts["congested_at_relay"] += 1
                case Undelivered(reason, _):
                    return f"{path.relay} did not deliver: {sentence_of(reason)}"
                case Going():
                    path.going = True
                    self._means.tell_going(path.relay)

    async def _renew(self, dial: "_Dial", path: LabelPath) -> None:
        """Show the relay a new ticket before the one that it has ends; the connection goes on."""
        clock, ends_at = self._means.system.clock, dial.ends_at
        while True:
            left_s = ends_at - clock()
            await anyio.sleep(max(RENEW_AGAIN_S, left_s - min(RENEW_BEFORE_S, left_s * RENEW_BEFORE_PART)))
            if path.going:
                # It would take no ticket any more, and the path has a successor.
                return
            try:
                wanted = LookUp(str(dial.peer), (dial.key.public,) * ROUTES)
                found = await ask_cloud(self._means.system, DIRECTORY, wanted, Found)
                (route,) = [each for each in found.routes if (each.relay, each.label) == (dial.route.relay, path.label)]
                path.client.show(route.ticket)
            except (AskFailed, TransportError, ValueError) as error:
                log.info("the path to %s over %s has no new ticket yet: %s", dial.peer.short, path.relay, error)
                continue
            ends_at = clock() + route.expires_at - found.now
            await self._means.router.wait_room()
            self._means.router.tell(PathRenewed(path, ends_at))


class _Dial(msgspec.Struct, frozen=True):
    """One connection that is wanted."""

    peer: NodeId
    route: SepRoute
    key: FreshKey
    ends_at: float
    """When its ticket does, by the system's clock."""


def _name(route: SepRoute) -> str:
    """Give what people call the relay of a route."""
    return route.name or route.relay.short
