"""Tickets: admission to one relay, in one role, for a while, checked off line.

Signaling (or a relay's operator) issues; the relay checks. A ticket names no account and no node: only a tunnel or a
registration, so a relay learns nothing from it about who is behind. 164 bytes, big-endian:

    +---------+------+--------+---------+-------+---------+-------------------+--------+-----------+
    | version | role | key id | subject | relay | expiry  | quota             | holder | signature |
    |    1    |  1   |   8    |   16    |  16   | 4 (u32) | 22                |   32   |    64     |
    +---------+------+--------+---------+-------+---------+-------------------+--------+-----------+
                                            quota: bytes (u64) | bytes per second (u32) | purse 8 | tunnels (u16)

`subject` is the random id of the tunnel, or of the site's registration that is made or reached. `holder` is the fresh
CURVE key that a SEP ticket is bound to; a bearer has no key on the relay, so there it is zero and the tunnel id, known
to two ends only, is what is held. Tickets with the same `purse` may together have so many `tunnels` open: it is drawn
by the issuer anew again and again, so that a relay learns from it no more than that some tunnels are of one asker.
Nothing in a ticket may be believed before `judge` has returned it.
"""

import enum
import hashlib
import struct
from collections.abc import Collection

import msgspec

from atoll.actors.tunnel_relay.reasons import Reason
from atoll.transport.errors import Expired, MalformedFrame, Refused, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey, signature_valid

VERSION = 2
SUBJECT_BYTES = 16
HOLDER_BYTES = 32
NO_HOLDER = bytes(HOLDER_BYTES)
TICKET_BYTES_MAX = 255
"""What fits a one-byte length, in this and in later versions; this one has 164."""
UNLIMITED = 2**64 - 1
"""A quota for operators who do not count bytes."""
NO_RATE = 0
"""The ticket sets no rate: as fast as the relay lets anybody."""
PURSE_BYTES = 8
NO_PURSE = bytes(PURSE_BYTES)
"""The ticket shares nothing with others, so its tunnels are not counted together with theirs."""

_FIELDS = struct.Struct(">BB8s16s16sIQI8sH32s")
_SIGNATURE_BYTES = 64
TICKET_BYTES = _FIELDS.size + _SIGNATURE_BYTES
# Signed in front of the fields, so that no signature made for anything else is ever a ticket.
_CONTEXT = b"atoll ticket\x00"


class Role(enum.IntEnum):
    """What the holder may do at the relay."""

    REGISTER = 1
    """SEP: be reachable under labels."""
    REACH = 2
    """SEP: call labels."""
    OFFER = 3
    """BEP: the half of a tunnel that serves."""
    CALL = 4
    """BEP: the half of a tunnel that calls."""


SEP_ROLES = frozenset({Role.REGISTER, Role.REACH})
BEP_ROLES = frozenset({Role.OFFER, Role.CALL})


class Ticket(msgspec.Struct, frozen=True):
    """What a genuine ticket says."""

    role: Role
    subject: bytes
    expires_at: int
    """Unix seconds; from this second on it is worth nothing."""
    quota_bytes: int
    """Bytes in all, both directions, however often it is shown."""
    holder: bytes
    digest: bytes
    """16 bytes that stand for this very ticket in tables."""
    rate_bytes_s: int = NO_RATE
    """Bytes a second, both directions; `NO_RATE` for none."""
    purse: bytes = NO_PURSE
    """What the tickets have in common whose tunnels are counted together; `NO_PURSE` for nothing."""
    tunnels_max: int = 0
    """How many tunnels of the purse may be open at once; 0 for no limit."""


def key_id(issuer: NodeId) -> bytes:
    """The 8 bytes by which a ticket names the key that signed it."""
    return hashlib.sha256(b"atoll issuer\x00" + issuer).digest()[:8]


def relay_mark(relay: NodeId) -> bytes:
    """The 16 bytes by which a ticket names the relay it is good at."""
    return hashlib.sha256(b"atoll relay\x00" + relay).digest()[:16]


def issue(
    key: NodeKey,
    *,
    role: Role,
    subject: bytes,
    relay: NodeId,
    expires_at: int,
    quota_bytes: int = UNLIMITED,
    holder: bytes = NO_HOLDER,
    rate_bytes_s: int = NO_RATE,
    purse: bytes = NO_PURSE,
    tunnels_max: int = 0,
) -> bytes:
    """Write and sign a ticket.

    The caller draws `subject` at random and lets both halves of a tunnel end at the same second with the same quota.

    Raises:
        UsageError: A field has the wrong size, or a SEP ticket has no holder, or a bearer's has one.
    """
    if len(subject) != SUBJECT_BYTES or len(holder) != HOLDER_BYTES:
        raise UsageError(f"a ticket's subject has {SUBJECT_BYTES} bytes and its holder {HOLDER_BYTES}")
    if (holder == NO_HOLDER) == (role in SEP_ROLES):
        raise UsageError("a SEP ticket is bound to the key that will show it; a bearer's is bound to none")
    if len(purse) != PURSE_BYTES or (tunnels_max and purse == NO_PURSE):
        raise UsageError(f"a purse has {PURSE_BYTES} bytes, not all zero, and only its tunnels can be counted")
    try:
        fields = _FIELDS.pack(
            VERSION,
            role,
            key_id(key.node_id),
            subject,
            relay_mark(relay),
            expires_at,
            quota_bytes,
            rate_bytes_s,
            purse,
            tunnels_max,
            holder,
        )
    except struct.error as error:
        raise UsageError(f"a ticket cannot hold this expiry or quota: {error}") from error
    return fields + key.sign(_CONTEXT + fields)


def counted_by(data: bytes) -> bytes | None:
    """Give what a ticket is counted by, its purse or else its subject, without believing any of it; None for no ticket.

    For whoever passes tickets on: those with the same are to be judged and counted in the same place.
    """
    if len(data) != TICKET_BYTES or data[0] != VERSION:
        return None
    fields = _FIELDS.unpack_from(data)
    subject: bytes = fields[3]
    purse: bytes = fields[8]
    return subject if purse == NO_PURSE else purse


def judge(
    data: bytes, *, issuer: NodeId, relay: NodeId, roles: Collection[Role], holder: bytes | None, now: float
) -> Ticket | Reason:
    """Give the ticket when `holder` may use it at `relay` now in one of `roles`, else the reason why not.

    What costs little is looked at first: a flood of old or foreign tickets costs no signature check. `now` is wall
    time in Unix seconds; `holder` is the CURVE key that showed it, None for a bearer.
    """
    if len(data) != TICKET_BYTES or data[0] != VERSION:
        return Reason.MALFORMED
    _, role_number, issuer_id, subject, mark, expires_at, *quota, bound_to = _FIELDS.unpack_from(data)
    refusal: Reason | None = None
    if role_number not in Role.__members__.values():
        refusal = Reason.MALFORMED
    elif issuer_id != key_id(issuer):
        refusal = Reason.FOREIGN_ISSUER
    elif mark != relay_mark(relay):
        refusal = Reason.FOREIGN_RELAY
    elif now >= expires_at:
        refusal = Reason.EXPIRED
    elif role_number not in roles:
        refusal = Reason.WRONG_ROLE
    elif bound_to != (NO_HOLDER if holder is None else holder):
        refusal = Reason.FOREIGN_HOLDER
    elif not signature_valid(issuer, _CONTEXT + data[: _FIELDS.size], data[_FIELDS.size :]):
        refusal = Reason.FORGED
    if refusal is not None:
        return refusal
    # Over the fields alone: whoever could find a second signature for them would otherwise have a second quota.
    digest = hashlib.sha256(data[: _FIELDS.size]).digest()[:16]
    quota_bytes, rate_bytes_s, purse, tunnels_max = quota
    return Ticket(
        Role(role_number), subject, expires_at, quota_bytes, bound_to, digest, rate_bytes_s, purse, tunnels_max
    )


def check(
    data: bytes, *, issuer: NodeId, relay: NodeId, roles: Collection[Role], holder: bytes | None, now: float
) -> Ticket:
    """Give the ticket that `judge` finds good.

    Raises:
        MalformedFrame: These bytes are no ticket (the sender's fault).
        Expired: It was one.
        Refused: Forged, or good for another issuer, relay, role or holder; the text says which.
    """
    verdict = judge(data, issuer=issuer, relay=relay, roles=roles, holder=holder, now=now)
    if isinstance(verdict, Ticket):
        return verdict
    if verdict is Reason.MALFORMED:
        raise MalformedFrame(f"not a ticket: {len(data)} bytes of which {TICKET_BYTES} were expected, or unknown words")
    if verdict is Reason.EXPIRED:
        raise Expired(verdict.sentence)
    raise Refused(verdict.sentence)
