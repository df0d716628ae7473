"""Pairing: decides which two connections become a tunnel, and which must go.

    (nobody) --one half arrives-->            waiting
    waiting  --the other half arrives-->      paired
    waiting  --nobody comes in time-->        refused: NO_PARTNER
    waiting  --the same role again-->         the newer one waits, the older is refused: REPLACED
    paired   --either role again-->           the tunnel ends, the newer one waits
    paired   --tickets expire, bytes used-->  the tunnel ends
    any      --the relay is drained-->        who waits is refused: DRAINING; pairs go on, nobody comes any more

Bytes are counted per tunnel id, and the count outlives the pair until the tickets are dead: dialling again buys no new
quota, nor a new burst of its rate. Tunnels whose tickets have a purse in common are counted together while somebody is
at them, so nobody fills a relay with the tickets of one asker. Pure: connections are opaque numbers, time comes in,
effects go out; it never touches a socket.
"""

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from atoll.actors.runtime.machine import insist
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.tickets import NO_PURSE, NO_RATE, UNLIMITED, Role, Ticket

TUNNELS_MAX = 9_000
"""Two descriptors each: 18,000 of the 20,000 that a host commonly allows."""
WAITING_MAX = 512
WAITING_S = 30.0
"""How long one half waits; dialling takes well under a second each, agreeing over a SEP a few."""
REMEMBERED_MAX = 65_536
"""Tunnel ids whose byte count is kept; about 200 bytes each, and each needs a ticket that is still alive."""

ConnectionId: TypeAlias = int
TunnelId: TypeAlias = bytes


class Refuse(msgspec.Struct, frozen=True):
    """Tell the connection no and close it."""

    connection: ConnectionId
    reason: Reason


class Pair(msgspec.Struct, frozen=True):
    """Tell both OK and join them; at most `quota_bytes` may pass, both directions counted."""

    tunnel: TunnelId
    offer: ConnectionId
    call: ConnectionId
    quota_bytes: int
    rate_bytes_s: int = NO_RATE
    """And no more in a second, `NO_RATE` for no limit."""
    again: bool = False
    """It was joined before, and has had the burst that its rate allows."""


class End(msgspec.Struct, frozen=True):
    """Close both connections of a live tunnel at once, and report its bytes with `ended`."""

    tunnel: TunnelId
    reason: Reason


Effect: TypeAlias = Refuse | Pair | End


@dataclass(slots=True)
class _Half:
    connection: ConnectionId
    role: Role
    quota_bytes: int
    rate_bytes_s: int
    waits_until: float


@dataclass(slots=True)
class _Tunnel:
    """What is known of one tunnel id for as long as one of its tickets lives."""

    purse: bytes
    expires_at: float = 0.0
    spent_bytes: int = 0
    waiting: _Half | None = None
    live: bool = False
    joined: bool = False
    """It was live at least once."""

    @property
    def occupied(self) -> bool:
        """Somebody is at it."""
        return self.live or self.waiting is not None


@dataclass(slots=True, kw_only=True)
class Pairing:
    """Knows who waits for whom; see the module for the states.

    `now` is wall time in Unix seconds, because tickets are; a jump of the clock costs at most a wait or a tunnel.
    """

    tunnels_max: int = TUNNELS_MAX
    waiting_max: int = WAITING_MAX
    waiting_s: float = WAITING_S
    remembered_max: int = REMEMBERED_MAX
    quota_bytes_max: int = UNLIMITED
    """What the relay lets a tunnel carry, whatever its tickets say."""
    rate_bytes_s_max: int = NO_RATE
    """And in a second; `NO_RATE` for no limit of the relay's own."""
    draining: bool = False
    live: int = 0
    _tunnels: dict[TunnelId, _Tunnel] = field(default_factory=dict)
    _waiting: dict[ConnectionId, TunnelId] = field(default_factory=dict)
    """In the order of arrival, which is the order in which patience runs out."""
    _purses: Counter[bytes] = field(default_factory=Counter)
    """Tunnels of each purse that have somebody at them, waiting or live."""
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
            tunnel = self._tunnels[ticket.subject] = _Tunnel(ticket.purse)
        if ticket.expires_at > tunnel.expires_at:
            tunnel.expires_at = ticket.expires_at
            heapq.heappush(self._expiries, (tunnel.expires_at, ticket.subject))
        if tunnel.live:
            self._unjoin(tunnel)
            effects.append(End(ticket.subject, Reason.REPLACED))
        partner = tunnel.waiting
        if partner is None or partner.role is ticket.role:
            if partner is not None:
                self._unwait(tunnel, partner)
                effects.append(Refuse(partner.connection, Reason.REPLACED))
            until = now + self.waiting_s
            tunnel.waiting = _Half(connection, ticket.role, ticket.quota_bytes, ticket.rate_bytes_s, until)
            self._waiting[connection] = ticket.subject
            self._count(tunnel, 1)
            return effects
        self._unwait(tunnel, partner)
        again, tunnel.joined = tunnel.joined, True
        tunnel.live = True
        self.live += 1
        self._count(tunnel, 1)
        offer, call = partner.connection, connection
        if ticket.role is Role.OFFER:
            offer, call = call, offer
        # The halves of one tunnel should agree; where they do not, neither end may spend more than its own.
        quota_bytes = min(ticket.quota_bytes, partner.quota_bytes, self.quota_bytes_max) - tunnel.spent_bytes
        rates = (ticket.rate_bytes_s, partner.rate_bytes_s, self.rate_bytes_s_max)
        rate_bytes_s = min((rate for rate in rates if rate != NO_RATE), default=NO_RATE)
        return [*effects, Pair(ticket.subject, offer, call, quota_bytes, rate_bytes_s, again)]

    def _refusal(self, tunnel: _Tunnel | None, ticket: Ticket) -> Reason | None:
        if self.draining:
            return Reason.DRAINING
        if min(ticket.quota_bytes, self.quota_bytes_max) <= (0 if tunnel is None else tunnel.spent_bytes):
            return Reason.OVER_QUOTA
        # Who has a place keeps it: a full relay must not lock its own tunnels out.
        if not (tunnel and tunnel.occupied) and self._purse_empty(tunnel.purse if tunnel else ticket.purse, ticket):
            return Reason.TOO_MANY
        full = (
            (tunnel is None and len(self._tunnels) >= self.remembered_max)
            or (self.live >= self.tunnels_max and not (tunnel and tunnel.live))
            or (len(self._waiting) >= self.waiting_max and not (tunnel and tunnel.waiting))
        )
        return Reason.FULL if full else None

    def _purse_empty(self, purse: bytes, ticket: Ticket) -> bool:
        return bool(ticket.tunnels_max) and purse != NO_PURSE and self._purses[purse] >= ticket.tunnels_max

    def leave(self, connection: ConnectionId) -> None:
        """Note that a waiting connection has gone by itself."""
        tunnel_id = self._waiting.get(connection)
        tunnel = None if tunnel_id is None else self._tunnels[tunnel_id]
        if tunnel is not None and tunnel.waiting is not None:
            self._unwait(tunnel, tunnel.waiting)

    def drain(self) -> list[Effect]:
        """Take nobody any more, and let go of those who wait: their other half would be refused."""
        self.draining = True
        effects: list[Effect] = [Refuse(connection, Reason.DRAINING) for connection in self._waiting]
        for connection in list(self._waiting):
            self.leave(connection)
        return effects

    def _unwait(self, tunnel: _Tunnel, half: _Half) -> None:
        tunnel.waiting = None
        del self._waiting[half.connection]
        self._count(tunnel, -1)

    def _unjoin(self, tunnel: _Tunnel) -> None:
        tunnel.live = False
        self.live -= 1
        self._count(tunnel, -1)

    def _count(self, tunnel: _Tunnel, change: int) -> None:
        """Count a tunnel for its purse, when somebody has come to it or nobody is left."""
        if tunnel.purse == NO_PURSE:
            return
        self._purses[tunnel.purse] += change
        if not self._purses[tunnel.purse]:
            del self._purses[tunnel.purse]

    def ended(self, tunnel_id: TunnelId, forwarded_bytes: int, *, by_itself: bool) -> None:
        """Note what a tunnel has carried; `by_itself` when no `End` asked for it."""
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel is None:
            return
        tunnel.spent_bytes += forwarded_bytes
        if by_itself and tunnel.live:
            self._unjoin(tunnel)

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
                effects.append(Refuse(tunnel.waiting.connection, Reason.EXPIRED))
                self._unwait(tunnel, tunnel.waiting)
            if tunnel.live:
                self._unjoin(tunnel)
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
        self._purses.clear()
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
        purses = Counter(each.purse for each in tunnels.values() if each.occupied and each.purse != NO_PURSE)
        halves = {tunnel.waiting.connection: name for name, tunnel in tunnels.items() if tunnel.waiting}
        for holds, claim in (
            (halves == self._waiting, "every waiting half is listed, and nothing else"),
            (self.live == sum(tunnel.live for tunnel in tunnels.values()), "live tunnels are counted"),
            (not any(tunnel.live and tunnel.waiting for tunnel in tunnels.values()), "nobody waits at a live tunnel"),
            (purses == self._purses, "tunnels are counted for their purses"),
            (len(tunnels) <= self.remembered_max, "the memory of tunnels is bounded"),
            (len(self._waiting) <= self.waiting_max, "the waiting room is bounded"),
            (self.live <= self.tunnels_max, "live tunnels are bounded"),
            (len(self._expiries) >= len(tunnels), "every tunnel ends one day"),
        ):
            insist(holds, claim)
