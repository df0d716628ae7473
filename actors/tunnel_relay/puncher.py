"""Tries to get a TCP connection through NAT to a peer that a session over relays leads to: both ends of an attempt.

    initiator  asks relays what they see of a port --> PunchRequest --> PunchAgreed --> knocks
    responder  PunchRequest --> asks relays, too   --> PunchAgreed, and knocks at once

The words travel sealed in the session. What is known of a peer is what it says; `candidates.py` has what is not dialled
whatever it says, `punching.py` who is let in. Attempts are few: one with a peer at a time, and not soon again.
"""

import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from socket import socket

import anyio
import msgspec

from atoll.actors.tunnel_relay.candidates import NatMapping, Policy, View
from atoll.actors.tunnel_relay.knocking import knock
from atoll.actors.tunnel_relay.messages import PunchAgreed, PunchCandidate, PunchRequest
from atoll.actors.tunnel_relay.punching import TICKET_BYTES, Punch, Role
from atoll.transport.errors import Congested, MalformedFrame, PeerError, Refused, Unreachable, WorldError
from atoll.transport.identity import NodeId
from atoll.transport.simultaneous_open import PunchPort, resolved
from atoll.transport.tcp_address import TcpAddress

log = logging.getLogger("atoll.tunnel_relay")

ASKED_RELAYS = 2
"""Relays that are asked what they see: two answers tell whether a NAT gives each destination another port."""
KNOWN_RELAYS_MAX = 8
UNDER_WAY_MAX = 8
"""Attempts at once, of both roles; each has a port of its own, and dials for three seconds."""
ANSWER_PAUSE_S = 5.0
"""Between two attempts that one peer asks for: what it says is dialled from here."""
ANSWERED_MAX = 256
"""Peers whose last attempt is remembered for that."""


class PunchSettings(msgspec.Struct, frozen=True):
    """What the owner of the node allows."""

    enabled: bool = True
    private: bool = False
    """Addresses of its own network are shown, and dialled where the peer is seen under the same address outside."""


@dataclass(slots=True)
class _Prepared:
    """A port, and what relays see of it."""

    port: PunchPort
    own: View
    policy: Policy

    def punch(self, role: Role, tickets: tuple[bytes, bytes], peer: View, now: float) -> Punch:
        return Punch(role, tickets, self.own, peer, self.policy.admitted(peer, self.own), began_at=now)


class Puncher:
    """The attempts of one node."""

    def __init__(self, settings: PunchSettings, clock: Callable[[], float], counts: Counter[str]) -> None:
        self._settings = settings
        self._clock = clock
        self._relays: OrderedDict[tuple[str, int], None] = OrderedDict()
        """Bearer ports of relays, those heard of last behind."""
        self._under_way: set[NodeId] = set()
        self._answered: OrderedDict[NodeId, float] = OrderedDict()
        self._counts = counts

    @property
    def relays_known(self) -> int:
        """Of how many relays the bearer ports are known."""
        return len(self._relays)

    def note_relay(self, host: str, port: int) -> None:
        """Remember where a relay takes bearers: it is outside, and says what it sees."""
        self._relays[host, port] = None
        self._relays.move_to_end((host, port))
        if len(self._relays) > KNOWN_RELAYS_MAX:
            self._relays.popitem(last=False)

    async def initiate(self, peer: NodeId, ask: Callable[[PunchRequest], Awaitable[PunchAgreed]]) -> socket:
        """Ask a peer for an attempt, and make it; gives the connection, which is the session's from its next byte on.

        Raises:
            Refused, Unreachable: It came to nothing; the text is the reason.
            Congested: Too many are under way.
            AskFailed: The peer says no, or nothing.
        """
        self._admit(peer)
        self._under_way.add(peer)
        try:
            prepared = await self._prepare()
            try:
                own = os.urandom(TICKET_BYTES)
                agreed = await ask(PunchRequest(own, prepared.own.mapping.value, _told(prepared.own.candidates)))
                punch = prepared.punch(
                    Role.INITIATOR, (own, agreed.ticket), _heard(agreed.mapping, agreed.candidates), self._clock()
                )
                return await self._knock(prepared, punch, peer)
            finally:
                prepared.port.close()
        finally:
            self._under_way.discard(peer)

    async def respond(self, peer: NodeId, request: PunchRequest, answer: Callable[[PunchAgreed], None]) -> socket:
        """Take part in an attempt that a peer asks for; gives the connection, and raises, as `initiate`."""
        self._admit(peer)
        last = self._answered.get(peer)
        if last is not None and self._clock() < last + ANSWER_PAUSE_S:
            raise Congested("the last attempt was a moment ago; try again later")
        self._under_way.add(peer)
        self._answered[peer] = self._clock()
        self._answered.move_to_end(peer)
        if len(self._answered) > ANSWERED_MAX:
            self._answered.popitem(last=False)
        self._counts["punches_answered"] += 1
        try:
            theirs = _heard(request.mapping, request.candidates)
            prepared = await self._prepare()
            try:
                own = os.urandom(TICKET_BYTES)
                answer(PunchAgreed(own, prepared.own.mapping.value, _told(prepared.own.candidates)))
                punch = prepared.punch(Role.RESPONDER, (request.ticket, own), theirs, self._clock())
                return await self._knock(prepared, punch, peer)
            finally:
                prepared.port.close()
        finally:
            self._under_way.discard(peer)

    def _admit(self, peer: NodeId) -> None:
        if not self._settings.enabled:
            raise Refused("punching is switched off there (punching.enabled)")
        if peer in self._under_way or len(self._under_way) >= UNDER_WAY_MAX:
            raise Congested("an attempt is under way already, or too many are")

    async def _knock(self, prepared: _Prepared, punch: Punch, peer: NodeId) -> socket:
        refused = len(punch.peer.candidates) - len(punch.targets)
        self._counts["punch_addresses_refused"] += max(0, refused)
        try:
            found = await knock(prepared.port, punch, self._clock)
        except Unreachable as error:
            self._counts["punches_failed"] += 1
            log.info("nothing punched to %s: %s", peer.short, error)
            raise
        finally:
            self._counts["punch_strangers"] += punch.counts["strangers"]
        self._counts["punched"] += 1
        return found

    async def _prepare(self) -> _Prepared:
        """Take a port and have relays say what they see of it.

        Raises:
            Unreachable: None of them does.
        """
        relays, why = await self._relay_addresses()
        if not relays:
            raise Unreachable(why or "no relay is known that could say how this node is seen")
        port = PunchPort.open(relays[0].ip.version)
        try:
            return await self._looked_at(port, relays)
        except BaseException:
            port.close()
            raise

    async def _looked_at(self, port: PunchPort, relays: list[TcpAddress]) -> _Prepared:
        seen: dict[TcpAddress, TcpAddress] = {}
        failed: list[str] = []

        async def ask(relay: TcpAddress) -> None:
            try:
                seen[relay] = await port.ask(relay)
            except (WorldError, PeerError) as error:
                failed.append(str(error))

        async with anyio.create_task_group() as tasks:
            for relay in relays:
                tasks.start_soon(ask, relay)
        own = port.local
        if own is None or not seen:
            raise Unreachable("no relay says how this node is seen: " + "; ".join(failed))
        told = [seen[relay] for relay in relays if relay in seen]
        view = View.of(own, told, show_private=self._settings.private)
        return _Prepared(port, view, Policy(frozenset({own, *told}), frozenset(relays), self._settings.private))

    async def _relay_addresses(self) -> tuple[list[TcpAddress], str]:
        """Give the addresses of the relays heard of last, of one version of IP; and why there are none."""
        found: list[TcpAddress] = []
        why = ""
        for host, port in reversed(self._relays):
            try:
                addresses = [each for each in await resolved(host, port) if not found or _alike(each, found[0])]
            except WorldError as error:
                why = str(error)
                continue
            # Another port of a host that is asked already would tell less than another host does.
            found += [each for each in addresses if each.host not in {known.host for known in found}][:1]
            if len(found) == ASKED_RELAYS:
                break
        return found, why


def _alike(one: TcpAddress, other: TcpAddress) -> bool:
    return one.ip.version == other.ip.version


def _told(addresses: Iterable[TcpAddress]) -> tuple[PunchCandidate, ...]:
    return tuple(PunchCandidate(each.packed, each.port) for each in addresses)


def _heard(mapping: int, candidates: Iterable[PunchCandidate]) -> View:
    """Read what a peer says of itself; addresses that are none are left out."""
    addresses = []
    for each in candidates:
        try:
            addresses.append(TcpAddress.unpacked(each.address, each.port))
        except MalformedFrame:
            continue
    return View(NatMapping(mapping), tuple(addresses))
