"""The transport's errors, sorted by whose fault they are.

UsageError    ours or our caller's: fix the call.
PeerError     the other end's: count it, answer or drop, never crash.
WorldError    nobody's: the network, a dead host, the clock.
"""


class TransportError(Exception):
    """Base of everything this package raises on purpose."""


class UsageError(TransportError):
    """The caller broke a documented rule."""


class PeerError(TransportError):
    """The other end sent something it must not send."""


class MalformedFrame(PeerError):
    """Bytes that are not a valid message; names the first thing wrong with them."""


class Refused(PeerError):
    """The other end said no; the text is its reason."""


class WorldError(TransportError):
    """Neither end is at fault."""


class Unreachable(WorldError):
    """Nobody answers there, or there is no way there."""


class Expired(WorldError):
    """A deadline, a ticket or a grant ran out."""


class Congested(WorldError):
    """A bounded queue towards the peer is full; the message was not taken."""
