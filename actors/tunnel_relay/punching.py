"""One attempt at a TCP connection through the NATs of both ends, after each knows how the other is seen. Pure.

    knocking --a connection--> our proof said --the peer's proof--> proved
             --the time is over, all refused--> failed, with the reason
    proved   --initiator: says OK on the first one; responder: hears it--> punched, and all others are dropped
    any connection --another proof, garbage, an echo of ours--> dropped, and counted: a stranger

Both ends dial from the port that relays have seen, at the same time, and listen there: the SYN that leaves opens the
NAT for the one that comes (RFC 5128, section 3.4; Guha and Francis 2005; Ford, Srisuresh and Kegel 2005). Whoever is
refused dials again, for the time of the attempt.

Who has dialled says a proof first: HMAC-SHA256(both tickets, its role), in the preamble of a bearer; to who has come it
is said when the other's has been heard. The tickets are random and were sealed on their way, so whoever answers at such
an address by chance is recognised; the roles differ, so an echo is, too. Who comes without being asked hears nothing.
Somebody on the way can still pass the bytes on, as every router does: what goes over the connection is sealed.
"""

import enum
import hashlib
import hmac
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from atoll.actors.tunnel_relay.candidates import NatMapping, View
from atoll.transport.bearer import OK, decode_preamble, encode_preamble, preamble_bytes_missing
from atoll.transport.errors import MalformedFrame
from atoll.transport.tcp_address import TcpAddress

TICKET_BYTES = 16
PROOF_BYTES = 32
WINDOW_S = 3.0
"""How long both knock: TCP sends a lost SYN again after one second."""
SHORT_WINDOW_S = 1.0
"""The same where the NAT of one end gives each destination another port: only a lenient NAT at the other end helps."""
HEAD_START_S = 1.5
"""How much longer the responder knocks: its answer may take as long to the initiator."""
RETRY_S = 0.05
"""Between two dials of an address that refused: the other end's SYN has not left yet, and its NAT says so. The reset
closes our own hole, too: where both NATs send them, two SYNs have to meet on their way; many tries make that likely."""
RESPONDER_RETRY_S = 0.07
"""The same at the other end: with one pause at both they could miss each other in step for ever."""
DIALS_MAX = 48
"""Of one address in one attempt."""
COMERS_MAX = 4
"""Connections at once that others have begun, and of which it is not known who is there; more are dropped."""
STRANGERS_MAX = 32
"""Connections that turned out to be somebody else's; then none are taken any more but those that we have dialled."""


class Role(enum.Enum):
    """Which end it is; the value is what its proof is about."""

    INITIATOR = b"initiator"
    """Asked for the attempt, and chooses the connection."""
    RESPONDER = b"responder"

    @property
    def other(self) -> "Role":
        """The role of the other end."""
        return Role.RESPONDER if self is Role.INITIATOR else Role.INITIATOR


class Dial(msgspec.Struct, frozen=True):
    """Connect to this address, from the port that relays have seen."""

    address: TcpAddress


class Say(msgspec.Struct, frozen=True):
    """Send these bytes."""

    connection: int
    data: bytes


class Drop(msgspec.Struct, frozen=True):
    """Close a connection."""

    connection: int


class Use(msgspec.Struct, frozen=True):
    """This connection is the one; all others are dropped. What comes over it now is the session's."""

    connection: int


class Fail(msgspec.Struct, frozen=True):
    """The attempt is over, for this reason; everything is dropped."""

    reason: str


PunchEffect: TypeAlias = Dial | Say | Drop | Use | Fail


def proof_of(role: Role, tickets: tuple[bytes, bytes]) -> bytes:
    """Give what the end in that role says of itself; the initiator's ticket is the first."""
    return hmac.digest(b"".join(tickets), b"atoll punch " + role.value, hashlib.sha256)


def obstacle(own: View, peer: View) -> str:
    """Say what stands in the way, from what the NATs do; empty: nothing is known to."""
    dependent = [who for who, view in (("this node", own), ("the peer", peer)) if view.mapping is NatMapping.DEPENDENT]
    if len(dependent) > 1:
        return "the NATs of both ends give each destination another port"
    return f"the NAT of {dependent[0]} gives each destination another port" if dependent else ""


def window_s(own: View, peer: View) -> float:
    """Tell how long knocking has sense; 0: not at all."""
    if own.mapping is peer.mapping is NatMapping.DEPENDENT:
        return 0.0
    return SHORT_WINDOW_S if obstacle(own, peer) else WINDOW_S


@dataclass(slots=True)
class _Connection:
    dialled: bool
    data: bytes = b""
    proved: bool = False


@dataclass(slots=True)
class Punch:
    """The attempt of one end; call `tick` at `deadline`, and do what comes back in order."""

    role: Role
    tickets: tuple[bytes, bytes]
    own: View
    peer: View
    targets: Sequence[TcpAddress]
    """What is dialled: those of the peer's addresses that this node's policy admits."""
    began_at: float
    counts: Counter[str] = field(default_factory=Counter)
    over: bool = False
    _connections: dict[int, _Connection] = field(default_factory=dict)
    _dials: Counter[TcpAddress] = field(default_factory=Counter)
    _again: dict[TcpAddress, float] = field(default_factory=dict)
    """When those that refused are dialled again."""

    @property
    def ends_at(self) -> float:
        """When it fails, at the latest."""
        head_start_s = HEAD_START_S if self.role is Role.RESPONDER else 0.0
        return self.began_at + window_s(self.own, self.peer) + head_start_s

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called; None when it is over."""
        return None if self.over else min([self.ends_at, *self._again.values()])

    def start(self) -> list[PunchEffect]:
        """Begin to knock."""
        if not window_s(self.own, self.peer):
            return self._fail(obstacle(self.own, self.peer))
        if not self.targets:
            return self._fail("the peer shows no address that this node dials")
        return [self._dial(each) for each in self.targets]

    def refused(self, address: TcpAddress, now: float) -> list[PunchEffect]:
        """Note that a dial came to nothing."""
        if not self.over and self._dials[address] < DIALS_MAX:
            self._again[address] = now + (RETRY_S if self.role is Role.INITIATOR else RESPONDER_RETRY_S)
        return []

    def connected(self, connection: int, *, dialled: bool) -> list[PunchEffect]:
        """Take a connection: one that we dialled, or one that has come; the caller numbers them."""
        comers = sum(not each.dialled for each in self._connections.values())
        if self.over or (not dialled and (comers >= COMERS_MAX or self.counts["strangers"] >= STRANGERS_MAX)):
            self.counts["dropped"] += 1
            return [Drop(connection)]
        self._connections[connection] = _Connection(dialled)
        return [self._proof(connection)] if dialled else []

    def bytes_wanted(self, connection: int) -> int:
        """Tell how many bytes may be read of a connection: what follows is the session's. 0: none."""
        each = self._connections.get(connection)
        if self.over or each is None:
            return 0
        return len(OK) - len(each.data) if each.proved else preamble_bytes_missing(each.data)

    def heard(self, connection: int, data: bytes) -> list[PunchEffect]:
        """Take what came over a connection, at most what was wanted; nothing: it has ended."""
        each = self._connections.get(connection)
        if self.over or each is None:
            return []
        each.data += data
        if not data or not self._makes_sense(each):
            return self._stranger(connection, each)
        if self.bytes_wanted(connection):
            return []
        if each.proved:
            return self._use(connection)
        each.proved, each.data = True, b""
        said: list[PunchEffect] = [] if each.dialled else [self._proof(connection)]
        return said if self.role is Role.RESPONDER else [*said, Say(connection, OK), *self._use(connection)]

    def tick(self, now: float) -> list[PunchEffect]:
        """Do what time asks for."""
        if self.over:
            return []
        if now >= self.ends_at:
            return self._fail(obstacle(self.own, self.peer) or self._nobody())
        due = [address for address, at in self._again.items() if now >= at]
        for address in due:
            del self._again[address]
        return [self._dial(address) for address in due]

    def check(self) -> None:
        """Assert what must hold between any two calls."""
        assert sum(not each.dialled for each in self._connections.values()) <= COMERS_MAX  # noqa: S101
        assert all(count <= DIALS_MAX for count in self._dials.values())  # noqa: S101
        assert set(self._dials) <= set(self.targets)  # noqa: S101

    def _makes_sense(self, each: _Connection) -> bool:
        """Tell whether what has come over a connection so far can be the peer's."""
        if each.proved:
            return OK.startswith(each.data)
        try:
            if preamble_bytes_missing(each.data):
                return True
            shown = decode_preamble(each.data)
        except MalformedFrame:
            return False
        return hmac.compare_digest(shown, proof_of(self.role.other, self.tickets))

    def _proof(self, connection: int) -> Say:
        return Say(connection, encode_preamble(proof_of(self.role, self.tickets)))

    def _stranger(self, connection: int, each: _Connection) -> list[PunchEffect]:
        """Let go of a connection that ended, or was not the peer's."""
        del self._connections[connection]
        self.counts["ended" if each.proved else "strangers"] += 1
        return [Drop(connection)]

    def _dial(self, address: TcpAddress) -> Dial:
        self._dials[address] += 1
        return Dial(address)

    def _use(self, connection: int) -> list[PunchEffect]:
        self.over = True
        self._connections.clear()
        return [Use(connection)]

    def _fail(self, reason: str) -> list[PunchEffect]:
        self.over = True
        self._connections.clear()
        return [Fail(reason)]

    def _nobody(self) -> str:
        if strangers := self.counts["strangers"]:
            return f"somebody else answers where the peer is seen ({strangers} times), and the peer does not"
        return f"nothing came through within {window_s(self.own, self.peer):g} s: what is in between lets nobody in"
