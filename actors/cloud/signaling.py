"""Which relay carries what: places sites' signaling end-points and tunnels, and signs the tickets.

Relays report where they listen and how loaded they are; the least loaded living ones are chosen, different ones for
the parts of one answer. A ticket names neither account nor node, so what is decided here stays unknown to the relays.

A site has one registration at each relay. Its id follows from the cloud's key: to a relay it is random, two relays
cannot tell that theirs are of one site, and whoever places a site or sends a caller there comes to the same.
"""

import hashlib
import hmac
import os
from collections.abc import Callable

from atoll.actors.cloud.messages import (
    Placement,
    PlaceSep,
    RelayKnown,
    RelayReport,
    SepPlaced,
    SepRoute,
    TunnelPair,
    TunnelRequest,
    TunnelsGranted,
)
from atoll.actors.cloud.store import CloudStore, Enrolled, LiveRelay
from atoll.actors.tunnel_relay.relay_address import is_host
from atoll.actors.tunnel_relay.tickets import HOLDER_BYTES, PURSE_BYTES, SUBJECT_BYTES, Role, issue
from atoll.transport.errors import Refused, Unreachable
from atoll.transport.keys import NodeKey

RELAY_LEASE_S = 6.0
"""Three missed reports of 2 s; a dead relay is placed on for at most this long."""
REGISTRATION_LIFE_S = 4 * 3600
TICKET_LIFE_S = 600
"""Of a tunnel's ticket, and a caller's; both are renewed before."""
RELAYS_PER_SITE_MAX = 2
TUNNELS_PER_REQUEST_MAX = 2
TUNNEL_QUOTA_BYTES = 64 * 2**30
SEP_QUOTA_BYTES = 4 * 2**30
TUNNELS_PER_NODE_MAX = 256
"""Tunnels that one node may have open at one relay, so that no node fills it; as many as a node takes bearers."""
PURSE_LIFE_S = 3600
"""How long a relay may tell that tunnels are of one asker, which is what it counts them by."""


class Signaling:
    """Chooses relays and issues tickets under the cloud's key; without I/O but for its store."""

    def __init__(
        self, store: CloudStore, key: NodeKey, clock: Callable[[], float], *, ticket_s: float = TICKET_LIFE_S
    ) -> None:
        """`ticket_s`: the life of tickets for tunnels and for callers."""
        self._store = store
        self._key = key
        self._clock = clock
        self._ticket_s = ticket_s

    def report(self, sender: Enrolled, message: RelayReport) -> RelayKnown:
        """Keep a relay's report.

        Raises:
            Refused: The sender is not enrolled as a relay, or its report makes no sense (its fault).
        """
        if sender.kind != "relay":
            raise Refused(f"{sender.name} is enrolled as a {sender.kind}, not as a relay")
        ports_valid = 0 < message.sep_port < 2**16 and 0 < message.bearer_port < 2**16
        if not ports_valid or not is_host(message.host) or not 0.0 <= message.load <= 1.0:
            raise Refused(
                "a relay reports a host (a name in ASCII, or an address), two ports between 1 and 65535, and a load "
                "between 0 and 1"
            )
        self._store.heard(self._clock())
        self._store.keep_relay(sender.node, message, self._clock() + RELAY_LEASE_S)
        return RelayKnown(RELAY_LEASE_S)

    def place(self, sender: Enrolled, message: PlaceSep) -> SepPlaced:
        """Place a site's signaling end-points, one per fresh key, on different relays.

        Raises:
            Refused: The sender is not a node of that site, or a key is none (its fault).
            Unreachable: No relay is alive.
        """
        if sender.kind != "node" or sender.site != message.site:
            raise Refused(f"{sender.name} is no node of site {message.site!r} and cannot register it")
        relays = self._relays()[:RELAYS_PER_SITE_MAX]
        expires_at = int(self._clock()) + REGISTRATION_LIFE_S
        return SepPlaced(
            tuple(
                self._placement(message.site, relay, _fresh(holder), expires_at)
                for relay, holder in zip(relays, message.holders, strict=False)
            )
        )

    def _registration(self, site: str, relay: LiveRelay) -> bytes:
        said = b"registration\x00" + relay.node + site.encode()
        return hmac.digest(self._key.seed, said, hashlib.sha256)[:SUBJECT_BYTES]

    def _placement(self, site: str, relay: LiveRelay, holder: bytes, expires_at: int) -> Placement:
        registration = self._registration(site, relay)
        ticket = issue(
            self._key,
            role=Role.REGISTER,
            subject=registration,
            relay=relay.node,
            expires_at=expires_at,
            quota_bytes=SEP_QUOTA_BYTES,
            holder=holder,
        )
        return Placement(
            relay.node, relay.host, relay.sep_port, registration, holder, ticket, expires_at, relay.name, relay.web
        )

    def reach(self, site: str, relay: LiveRelay, label: bytes, holder: bytes) -> SepRoute:
        """Give a caller's complete route to a site's `label` at `relay`, bound to its fresh key."""
        expires_at = int(self._clock() + self._ticket_s)
        ticket = issue(
            self._key,
            role=Role.REACH,
            subject=self._registration(site, relay),
            relay=relay.node,
            expires_at=expires_at,
            quota_bytes=SEP_QUOTA_BYTES,
            holder=_fresh(holder),
        )
        return SepRoute(relay.node, relay.host, relay.sep_port, label, ticket, expires_at, relay.name, relay.web)

    def tunnels(self, sender: Enrolled, message: TunnelRequest) -> TunnelsGranted:
        """Issue ticket pairs for bearers, on different relays.

        Raises:
            Refused: The sender is not a node.
            Unreachable: No relay is alive.
        """
        if sender.kind != "node":
            raise Refused(f"{sender.name} is enrolled as a {sender.kind}; only nodes ask for tunnels")
        count = max(1, min(message.count, TUNNELS_PER_REQUEST_MAX))
        pairs = tuple(self._pair(relay, sender) for relay in self._relays()[:count])
        return TunnelsGranted(pairs, self._clock())

    def _purse(self, sender: Enrolled, relay: LiveRelay) -> bytes:
        """Give what a node's tunnels at one relay have in common for a while; to the relay it is random."""
        said = b"purse\x00" + relay.node + sender.node + int(self._clock() / PURSE_LIFE_S).to_bytes(8, "big")
        return hmac.digest(self._key.seed, said, hashlib.sha256)[:PURSE_BYTES]

    def _pair(self, relay: LiveRelay, sender: Enrolled) -> TunnelPair:
        purse = self._purse(sender, relay)
        tunnel = os.urandom(SUBJECT_BYTES)
        expires_at = int(self._clock() + self._ticket_s)
        offer, call = (
            issue(
                self._key,
                role=role,
                subject=tunnel,
                relay=relay.node,
                expires_at=expires_at,
                quota_bytes=TUNNEL_QUOTA_BYTES,
                purse=purse,
                tunnels_max=TUNNELS_PER_NODE_MAX,
            )
            for role in (Role.OFFER, Role.CALL)
        )
        return TunnelPair(
            relay.node, relay.host, relay.bearer_port, tunnel, offer, call, expires_at, relay.name, relay.web
        )

    def _relays(self) -> tuple[LiveRelay, ...]:
        self._store.heard(self._clock())
        relays = self._store.relays(self._clock())
        if not relays:
            raise Unreachable("no relay has reported within its lease: start one with `atoll relay run`")
        return relays


def _fresh(holder: bytes) -> bytes:
    if len(holder) != HOLDER_BYTES or not any(holder):
        raise Refused(f"a SEP ticket is bound to a fresh CURVE key of {HOLDER_BYTES} bytes")
    return holder
