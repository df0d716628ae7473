"""Decides how a node is reached, and says why.

    here     it is this node
    direct   a link to it is up
    punched  a connection through the NATs of both ends is open, and its session uses it
    bep      a bearer through a relay is open, and its session uses it
    sep      its site's proxy is registered on a relay that we hold a route for, or it called us over one
    none     nothing of that; the reason says what is missing

The order is the preference: a link or punched connection has nobody in between, a bearer one relay, signaling a relay
and two proxies.
A bearer that failed is forgotten at once, so the next message goes by SEP and asks for another. Which path a session
uses is not decided here but by the session; the table is told, with the reason. The table never grows
beyond `PEERS_MAX`: whoever was used least recently and has no link or bearer is forgotten first.
"""

import enum
from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec

from atoll.transport.base import Standing
from atoll.transport.identity import NodeId

PEERS_MAX = 4096
"""Peers whose routes are remembered; a site of 1024 nodes calling three others fits."""
BEARER_RETRY_S = 5.0
"""After a bearer came to nothing, calls go on over SEP this long before another is asked for."""


class Way(enum.Enum):
    """The kinds of route, best first."""

    HERE = "here"
    DIRECT = "direct"
    PUNCHED = "punched"
    BEP = "bep"
    SEP = "sep"
    NONE = "none"


class Route(msgspec.Struct, frozen=True):
    """One decision: the way, and the sentence that `status` and a call's answer show."""

    way: Way
    reason: str


@dataclass(slots=True)
class _Peer:
    standing: Standing | None = None
    link_lost: str = ""
    bearer_relay: str = ""
    bearer_lost: str = ""
    bearer_not_before: float = 0.0
    bearer_pending: bool = False
    signaling: list[tuple[str, float]] = field(default_factory=list)
    """(relay, expires at) of the SEP routes in hand."""
    bearer_for: str = ""
    """What makes a bearer worth having; empty while nothing does."""
    answered_relay: str = ""
    """Through which relay it called us; our answers go back there."""
    used: tuple[Way, str, str] | None = None
    """The path that the session with it uses: kind, relay, and why."""
    met: bool = False
    """A session led to it, through relays or NAT."""

    @property
    def idle(self) -> bool:
        return self.standing is None and not self.bearer_relay and not self.answered_relay


class RouteTable:
    """The routes of one node to all others. Times are seconds of one clock that the caller brings."""

    def __init__(self, own: NodeId, *, bearer_retry_s: float = BEARER_RETRY_S) -> None:
        self._own = own
        self._bearer_retry_s = bearer_retry_s
        self._peers: OrderedDict[NodeId, _Peer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def peers(self) -> list[NodeId]:
        """Everybody the table knows something about, in a stable order."""
        return sorted(self._peers)

    def link_up(self, peer: NodeId, standing: Standing) -> None:
        """Note that an authenticated link is there."""
        entry = self._entry(peer)
        entry.standing, entry.link_lost = standing, ""

    def link_down(self, peer: NodeId, reason: str) -> None:
        """Note that it is gone, and why."""
        if (entry := self._peers.get(peer)) is not None:
            entry.standing, entry.link_lost = None, reason

    def standing(self, peer: NodeId) -> Standing | None:
        """Give what the peer at the other end of a live link has proved."""
        entry = self._peers.get(peer)
        return None if entry is None else entry.standing

    def uses(self, peer: NodeId, way: Way, relay: str, reason: str) -> None:
        """Note which path the session with a peer uses, and why."""
        entry = self._entry(peer)
        entry.used, entry.met = (way, relay, reason), entry.met or way is not Way.DIRECT

    def met(self, peer: NodeId) -> bool:
        """Tell whether a session has led to a peer through relays or NAT: such a way can be opened again."""
        entry = self._peers.get(peer)
        return entry is not None and entry.met

    def session_over(self, peer: NodeId) -> None:
        """Note that there is no session with a peer any more."""
        if (entry := self._peers.get(peer)) is not None:
            entry.used = None

    def signaling_found(self, peer: NodeId, relay: str, expires_at: float) -> None:
        """Note a SEP route over `relay`; a newer one over the same relay replaces it."""
        entry = self._entry(peer)
        entry.signaling = [each for each in entry.signaling if each[0] != relay] + [(relay, expires_at)]

    def signaling_over(self, peer: NodeId) -> None:
        """Forget all SEP routes: the session over them is over."""
        if (entry := self._peers.get(peer)) is not None:
            entry.signaling = []

    def bearer_asked(self, peer: NodeId) -> None:
        """Note that a bearer is under way, so that it is asked for once."""
        self._entry(peer).bearer_pending = True

    def bearer_open(self, peer: NodeId, relay: str) -> None:
        """Note that a bearer is open and its session established."""
        entry = self._entry(peer)
        entry.bearer_relay, entry.bearer_lost, entry.bearer_pending = relay, "", False

    def bearer_lost(self, peer: NodeId, reason: str, now: float) -> None:
        """Note that the bearer, or the attempt at one, came to nothing."""
        if (entry := self._peers.get(peer)) is not None:
            entry.bearer_relay, entry.bearer_lost, entry.bearer_pending = "", reason, False
            entry.bearer_not_before = now + self._bearer_retry_s

    def called_us(self, peer: NodeId, relay: str) -> None:
        """Note that a session which the peer opened over SEP leads back to it."""
        self._entry(peer).answered_relay = relay

    def caller_gone(self, peer: NodeId) -> None:
        """Note that this session is over."""
        if (entry := self._peers.get(peer)) is not None:
            entry.answered_relay = ""

    def bearer_for(self, peer: NodeId, why: str) -> None:
        """Note what makes a bearer worth having."""
        self._entry(peer).bearer_for = why

    def bearer_wanted(self, peer: NodeId, now: float) -> bool:
        """Tell whether it is time to ask the peer for a bearer."""
        entry = self._peers.get(peer)
        return (
            entry is not None
            and entry.standing is None
            and not entry.bearer_relay
            and not entry.bearer_pending
            and now >= entry.bearer_not_before
            and bool(entry.bearer_for)
        )

    def route(self, peer: NodeId, now: float) -> Route:  # noqa: PLR0911 - one return a way
        """Choose the way to `peer` and give the reason in words."""
        if peer == self._own:
            return Route(Way.HERE, "it is this node")
        entry = self._peers.get(peer)
        if entry is None:
            return Route(Way.NONE, "never heard of: neither a link nor a directory record")
        self._peers.move_to_end(peer)
        if entry.standing is not None:
            return Route(Way.DIRECT, f"an authenticated link is up ({entry.standing.value})")
        entry.signaling = [each for each in entry.signaling if each[1] > now]
        why_not_direct = f"no link ({entry.link_lost})" if entry.link_lost else "no link: another network"
        used, used_relay, why = entry.used or (Way.NONE, "", "")
        because = f" ({why})" if why else ""
        if used is Way.PUNCHED:
            return Route(Way.PUNCHED, f"{why_not_direct}; a connection punched through NAT is open{because}")
        if entry.bearer_relay and used is not Way.SEP:
            relay = used_relay or entry.bearer_relay
            what_for = f", for {entry.bearer_for}" if entry.bearer_for else ""
            return Route(Way.BEP, f"{why_not_direct}; a bearer through {relay} is open{what_for}{because}")
        if entry.signaling:
            relay = used_relay if used is Way.SEP else entry.signaling[0][0]
            why_not_bearer = f"no bearer ({entry.bearer_lost})" if entry.bearer_lost else "no bearer yet"
            return Route(Way.SEP, f"{why_not_direct}; {why_not_bearer}; its proxy answers at {relay}{because}")
        if entry.answered_relay:
            relay = used_relay if used is Way.SEP else entry.answered_relay
            return Route(Way.SEP, f"{why_not_direct}; it called us through {relay}{because}")
        return Route(Way.NONE, f"{why_not_direct}; no bearer; no living route over a relay")

    def _entry(self, peer: NodeId) -> _Peer:
        entry = self._peers.get(peer)
        if entry is None:
            self._make_room()
            entry = self._peers[peer] = _Peer()
        self._peers.move_to_end(peer)
        return entry

    def _make_room(self) -> None:
        if len(self._peers) < PEERS_MAX:
            return
        # Links and bearers are bounded where they are made, so an idle entry exists unless the table is mis-sized.
        stale = next((peer for peer, entry in self._peers.items() if entry.idle), next(iter(self._peers)))
        del self._peers[stale]
