"""Pairing: decides which two connections become a tunnel, and which must go.

    (nobody) --one half arrives-->            waiting
    waiting  --the other half arrives-->      paired
    waiting  --nobody comes in time-->        refused: NO_PARTNER
    waiting  --the same role again-->         the newer one waits, the older is refused: REPLACED
    paired   --either role again-->           the tunnel ends, the newer one waits
    paired   --tickets expire, bytes used-->  the tunnel ends

Bytes are counted per tunnel id, and the count outlives the pair until the tickets are dead: dialling again buys no new
quota. Pure: connections are opaque numbers, time comes in, effects go out; it never touches a socket.
"""

import heapq
from dataclasses import dataclass, field
from typing import TypeAlias

from atoll.actors.runtime.machine import insist
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.tickets import Role, Ticket

TUNNELS_MAX = 9_000
"""Two descriptors each: 18,000 of the 20,000 that a host commonly allows."""
WAITING_MAX = 512
WAITING_S = 30.0
"""How long one half waits; dialling takes well under a second each, agreeing over a SEP a few."""
REMEMBERED_MAX = 65_536
"""Tunnel ids whose byte count is kept; about 200 bytes each, and each needs a ticket that is still alive."""

ConnectionId: TypeAlias = int
TunnelId: TypeAlias = bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the connection no and close it."""

    connection: ConnectionId
    reason: Reason


@dataclass(frozen=True, slots=True)
class Pair:
    """Tell both OK and join them; at most `quota_bytes` may pass, both directions counted."""

    tunnel: TunnelId
    offer: ConnectionId
    call: ConnectionId
    quota_bytes: int


@dataclass(frozen=True, slots=True)
class End:
    """Close both connections of a live tunnel at once, and report its bytes with `ended`."""

    tunnel: TunnelId
    reason: Reason


Effect: TypeAlias = Refuse | Pair | End


@dataclass(slots=True)
class _Half:
    connection: ConnectionId
    role: Role
    quota_bytes: int
    waits_until: float


@dataclass(slots=True)
class _Tunnel:
    """What is known of one tunnel id for as long as one of its tickets lives."""

    expires_at: float = 0.0
    spent_bytes: int = 0
    waiting: _Half | None = None
    live: bool = False


@dataclass(slots=True, kw_only=True)
class Pairing:
    """Knows who waits for whom; see the module for the states.

    `now` is wall time in Unix seconds, because tickets are; a jump of the clock costs at most a wait or a tunnel.
    """

    tunnels_max: int = TUNNELS_MAX
    waiting_max: int = WAITING_MAX
    waiting_s: float = WAITING_S
    remembered_max: int = REMEMBERED_MAX
    draining: bool = False
    live: int = 0
    _tunnels: dict[TunnelId, _Tunnel] = field(default_factory=dict)
    _waiting: dict[ConnectionId, TunnelId] = field(default_factory=dict)
    """In the order of arrival, which is the order in which patience runs out."""
    _expiries: list[tuple[float, TunnelId]] = field(default_factory=list)
    """A heap; an entry is stale when a later ticket of the same tunnel has come since."""

    def arrive(self, connection: ConnectionId, ticket: Ticket, now: float) -> list[Effect]:
        """Take a connection whose ticket is good."""
        effects = self.expire(now)
        tunnel = self._tunnels.get(ticket.subject)
        refusal = self._refusal(tunnel, ticket)
        if refusal is not None:
            return [*effects, Refuse(connection, refusal)]
        if tunnel is None:
            tunnel = self._tunnels[ticket.subject] = _Tunnel()
        if ticket.expires_at > tunnel.expires_at:
            tunnel.expires_at = ticket.expires_at
            heapq.heappush(self._expiries, (tunnel.expires_at, ticket.subject))
        if tunnel.live:
            tunnel.live = False
            self.live -= 1
            effects.append(End(ticket.subject, Reason.REPLACED))
        partner = tunnel.waiting
        if partner is None or partner.role is ticket.role:
            if partner is not None:
                del self._waiting[partner.connection]
                effects.append(Refuse(partner.connection, Reason.REPLACED))
            tunnel.waiting = _Half(connection, ticket.role, ticket.quota_bytes, now + self.waiting_s)
            self._waiting[connection] = ticket.subject
            return effects
        tunnel.waiting = None
        del self._waiting[partner.connection]
        tunnel.live = True
        self.live += 1
        offer, call = partner.connection, connection
        if ticket.role is Role.OFFER:
            offer, call = call, offer
        # The halves of one tunnel should agree; where they do not, neither end may spend more than its own.
        quota_bytes = min(ticket.quota_bytes, partner.quota_bytes) - tunnel.spent_bytes
        return [*effects, Pair(ticket.subject, offer, call, quota_bytes)]

    def _refusal(self, tunnel: _Tunnel | None, ticket: Ticket) -> Reason | None:
        if self.draining:
            return Reason.DRAINING
        if ticket.quota_bytes <= (0 if tunnel is None else tunnel.spent_bytes):
            return Reason.OVER_QUOTA
        if tunnel is None and len(self._tunnels) >= self.remembered_max:
            return Reason.FULL
        if self.live >= self.tunnels_max and (tunnel is None or not tunnel.live):
            return Reason.FULL
        if len(self._waiting) >= self.waiting_max and (tunnel is None or tunnel.waiting is None):
            return Reason.FULL
        return None

    def leave(self, connection: ConnectionId) -> None:
        """Note that a waiting connection has gone by itself."""
        tunnel_id = self._waiting.pop(connection, None)
        if tunnel_id is not None:
            self._tunnels[tunnel_id].waiting = None

    def ended(self, tunnel_id: TunnelId, forwarded_bytes: int, *, by_itself: bool) -> None:
        """Note what a tunnel has carried; `by_itself` when no `End` asked for it."""
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel is None:
            return
        tunnel.spent_bytes += forwarded_bytes
        if by_itself and tunnel.live:
            tunnel.live = False
            self.live -= 1

    def expire(self, now: float) -> list[Effect]:
        """Let go of whoever waited too long and of every tunnel whose tickets are dead."""
        effects: list[Effect] = []
        while self._waiting:
            connection, tunnel_id = next(iter(self._waiting.items()))
            half = self._tunnels[tunnel_id].waiting
            if half is None or half.waits_until > now:
                break
            self.leave(connection)
            effects.append(Refuse(connection, Reason.NO_PARTNER))
        while self._expiries and self._expiries[0][0] <= now:
            _, tunnel_id = heapq.heappop(self._expiries)
            tunnel = self._tunnels.get(tunnel_id)
            if tunnel is None or tunnel.expires_at > now:
                continue
            if tunnel.waiting is not None:
                del self._waiting[tunnel.waiting.connection]
                effects.append(Refuse(tunnel.waiting.connection, Reason.EXPIRED))
            if tunnel.live:
                self.live -= 1
                effects.append(End(tunnel_id, Reason.EXPIRED))
            del self._tunnels[tunnel_id]
        return effects

    def deadline(self) -> float | None:
        """Give the time at which `expire` is due, None for never."""
        times = [self._expiries[0][0]] if self._expiries else []
        for tunnel_id in self._waiting.values():
            half = self._tunnels[tunnel_id].waiting
            times += [half.waits_until] if half else []
            break
        return min(times, default=None)

    def close(self, reason: Reason) -> list[Effect]:
        """Let everybody go."""
        effects: list[Effect] = [Refuse(connection, reason) for connection in self._waiting]
        effects += [End(tunnel_id, reason) for tunnel_id, tunnel in self._tunnels.items() if tunnel.live]
        self._waiting.clear()
        self._tunnels.clear()
        self._expiries.clear()
        self.live = 0
        return effects

    @property
    def waiting(self) -> int:
        """How many connections wait for their partner."""
        return len(self._waiting)

    def check(self) -> None:
        """Assert the invariants; run after every input in tests."""
        tunnels = self._tunnels
        halves = {tunnel.waiting.connection: name for name, tunnel in tunnels.items() if tunnel.waiting}
        for holds, claim in (
            (halves == self._waiting, "every waiting half is listed, and nothing else"),
            (self.live == sum(tunnel.live for tunnel in tunnels.values()), "live tunnels are counted"),
            (not any(tunnel.live and tunnel.waiting for tunnel in tunnels.values()), "nobody waits at a live tunnel"),
            (len(tunnels) <= self.remembered_max, "the memory of tunnels is bounded"),
            (len(self._waiting) <= self.waiting_max, "the waiting room is bounded"),
            (self.live <= self.tunnels_max, "live tunnels are bounded"),
            (len(self._expiries) >= len(tunnels), "every tunnel ends one day"),
        ):
            insist(holds, claim)
