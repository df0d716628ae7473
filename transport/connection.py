"""One connection of a link transport, and one dial: what is known of them, and nothing else.

    ours     dialling --their HELLO--> (held) --READY--> up --BYE, silence, loss--> ended
    theirs   awaited  --their HELLO--> (held) --our HELLO--> answered --their READY--> up --...--> ended

Which way a connection goes is decided in `link_table.py`; the sockets behind it belong to `zeromq.py`.
"""

import enum

import anyio

from atoll.transport.base import MESSAGE_BYTES_MAX, SILENCE_S, Standing
from atoll.transport.credit import Grant
from atoll.transport.identity import NodeId
from atoll.transport.link_frames import Assembly, Backlog
from atoll.transport.zmq_dealer import Dealer

PLACES_MAX = 8
"""Addresses of one dial."""


class Stage(enum.Enum):
    """How far a connection's greeting is."""

    AWAITED = "awaited"
    DIALLING = "dialling"
    HELD = "held"
    ANSWERED = "answered"
    UP = "up"
    ENDED = "ended"


class Connection:
    """One connection and how far its greeting is; `dealer` where we dialled, `name` where they did."""

    __slots__ = (
        "alone",
        "assembly",
        "backlog",
        "credit",
        "deadline",
        "dealer",
        "due",
        "grant",
        "heard",
        "host",
        "idle_s",
        "key",
        "label",
        "message_bytes_max",
        "name",
        "peer",
        "quiet_s",
        "reads_runs",
        "reason",
        "said",
        "scope",
        "silence_s",
        "stage",
        "standing",
        "was_up",
    )

    def __init__(self, stage: Stage, *, host: str, deadline: float) -> None:
        self.stage, self.host, self.deadline = stage, host, deadline
        self.peer: NodeId | None = None
        self.dealer: Dealer | None = None
        self.name = self.key = b""
        self.standing, self.label = Standing.NEIGHBOUR, ""
        self.backlog, self.assembly = Backlog(), Assembly()
        self.grant = Grant(0, lambda _: False)
        """What we have lent the peer; nothing before its standing is known."""
        self.credit, self.message_bytes_max = 0, MESSAGE_BYTES_MAX
        """What the peer has lent us and we have not used up, and the longest message that its window carries."""
        self.silence_s = SILENCE_S
        """After so much silence the peer counts us as lost."""
        self.heard = self.said = self.reads_runs = False
        self.quiet_s = self.idle_s = 0.0
        """For how long nothing came, and nothing went; see `pulse.py`."""
        self.scope = anyio.CancelScope()
        self.due = self.was_up = False
        self.alone = False
        """One message was all that went to the peer in the last turn that one went in: the next goes at once."""
        self.reason = ""

    def __repr__(self) -> str:
        who = "somebody" if self.peer is None else self.peer.short
        return f"Connection({'to' if self.dealer else 'from'} {who} at {self.host}, {self.stage.value})"


class Dial:
    """An attempt to open a link, over one connection after another; addresses may join while it is under way."""

    __slots__ = ("connection", "host", "joined", "peer", "places", "port", "scope")

    def __init__(self, peer: NodeId, host: str, port: int) -> None:
        self.peer, self.host, self.port = peer, host, port
        self.places = [(host, port)]
        """All there were, in the order in which they came; `host` and `port` are those in hand."""
        self.joined = anyio.Event()
        self.connection: Connection | None = None
        self.scope = anyio.CancelScope()

    def join(self, host: str, port: int) -> None:
        """Try this address too; harmless for one that was tried, and beyond `PLACES_MAX`."""
        if (host, port) not in self.places and len(self.places) < PLACES_MAX:
            self.places.append((host, port))
            self.joined.set()
