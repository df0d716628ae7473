"""Which connection is a node's link to a peer: greetings, who goes first, and what follows when one ends.

When two nodes dial each other at once, the link dialled by the lower NodeId wins, and only that one ever comes up:
while the lower's own dial is under way it holds the other's greeting back; the higher does not complete its own while
it has answered the lower's. So a link never moves between connections, and messages keep their order. A later complete
greeting of the same key replaces a link, because the peer has restarted or has seen it die.

It moves no bytes itself: what it wants done it asks of its `Wire`. It may never wait, believe an id that is not its
key's, or log a credential.
"""

import os
import time
from collections import Counter
from functools import partial
from typing import NoReturn, Protocol

from atoll.transport.base import Admission, DialFailed, LinkDown, LinkUp
from atoll.transport.connection import Connection, Dial, Stage
from atoll.transport.credit import MESSAGE_COST_BYTES, WINDOW_BYTES_MAX, Grant, message_bytes_max, window_for
from atoll.transport.errors import MalformedFrame, Refused, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.inbox import Inbox
from atoll.transport.link_frames import (
    BOOT_ID_BYTES,
    CREDENTIAL_BYTES_MAX,
    VERSION,
    Backlog,
    FrameKind,
    Hello,
    bye_frame,
    checked_window,
    hello_frame,
    kind_of,
    read_alive,
    read_bye,
    read_credit,
    read_hello,
    read_ready,
    ready_frame,
)

CONNECT_TRIES = 2.0
"""A dial's time for TCP and CURVE, in handshake times."""
GREETING_TRIES = 4.0
"""Its time for the greeting: the other end may first wait for its own dial to come to nothing."""
DIALS_MAX = 256


class Wire(Protocol):
    """What a table of links needs done."""

    def transmit(self, connection: Connection, frame: bytes) -> bool:
        """Send one frame without waiting; False when it could not be taken."""
        ...

    def flush(self, connection: Connection) -> None:
        """Send what can be sent at once of what waits for the peer."""
        ...

    def expect(self, connection: Connection) -> None:
        """Let the peer send from now on what its grant says."""
        ...

    def lend(self, connection: Connection, amount: int) -> bool:
        """Tell the peer that it may send so much more; False when it cannot be told now."""
        ...

    def close(self, connection: Connection) -> None:
        """Close it a moment later, after what was sent; nothing more of it is heard."""
        ...

    def pursue(self, dial: Dial) -> None:
        """Begin with a dial; ask `dial_ended` in the end."""
        ...


def _refuse_out_of_turn(kind: FrameKind) -> NoReturn:
    raise MalformedFrame(f"{kind.name} came out of turn: the greeting is not complete")


class LinkTable:
    """All links of a node, and what may become one."""

    def __init__(
        self,
        own: NodeId,
        admission: Admission,
        wire: Wire,
        inbox: Inbox,
        *,
        label: str,
        handshake_s: float,
        silence_s: float,
    ) -> None:
        self.links: dict[NodeId, Connection] = {}
        self.dials: dict[NodeId, Dial] = {}
        self.counts: Counter[str] = Counter()
        self.open = False
        """Whether dials may begin; its owner opens it with the sockets."""
        self._own, self._admission, self._wire = own, admission, wire
        self._inbox, self._tell = inbox, inbox.put
        self._label, self._handshake_s, self._silence_ms = label, handshake_s, int(silence_s * 1000)
        self._boot = os.urandom(BOOT_ID_BYTES)
        self._theirs: dict[NodeId, Connection] = {}
        """The newest connection of each peer's that is held or answered."""
        self._wanted: dict[NodeId, tuple[str, int]] = {}
        """Dials that wait for what becomes of the peer's own."""

    def dial(self, peer: NodeId, host: str, port: int) -> None:
        """Begin a dial, unless there is a link, or one under way; to a dial of our own the address is added."""
        if peer in self.links or peer in self._wanted:
            return
        if (under_way := self.dials.get(peer)) is not None:
            under_way.join(host, port)
            return
        if peer in self._theirs:
            self._wanted[peer] = (host, port)
            return
        if (why := self._no_dial(peer)) is not None:
            self._tell(DialFailed(peer, why))
            return
        self.counts["dials"] += 1
        dial = self.dials[peer] = Dial(peer, host, port)
        self._wire.pursue(dial)

    def _no_dial(self, peer: NodeId) -> str | None:
        if not self.open:
            return "this transport is not open"
        if peer == self._own:
            return "this is the node itself"
        if len(self.dials) >= DIALS_MAX:
            return f"{DIALS_MAX} dials are under way already"
        return None

    def close(self, reason: str) -> None:
        """End everything there is; nothing new begins."""
        self.open = False
        for peer in {**self.links, **self.dials, **self._theirs}:
            self.hang_up(peer, reason)

    def dial_ended(self, dial: Dial, reason: str) -> None:
        """Note that a dial has come to nothing, unless it was given up before."""
        if self.dials.get(dial.peer) is not dial:
            return
        del self.dials[dial.peer]
        theirs = self._theirs.get(dial.peer)
        if theirs is None:
            self.counts["dials_failed"] += 1
            self._tell(DialFailed(dial.peer, reason))
            return
        self._wanted[dial.peer] = (dial.host, dial.port)
        if theirs.stage is Stage.HELD:
            self._answer(theirs, dial.peer)

    def hang_up(self, peer: NodeId, reason: str) -> None:
        """Close the link to `peer`, or give up what would become one; the other end is told `reason`."""
        if (dial := self.dials.pop(peer, None)) is not None:
            self._abandon(dial, reason)
            self._tell(DialFailed(peer, reason))
        elif self._wanted.pop(peer, None) is not None:
            self._tell(DialFailed(peer, reason))
        for connection in (self.links.get(peer), self._theirs.get(peer)):
            if connection is not None:
                self._wire.flush(connection)
                self.end(connection, reason, tell=reason)

    def hear(self, connection: Connection, frame: bytes) -> None:
        """Take one frame; whatever it is, at worst it ends its connection."""
        stage = connection.stage
        if stage is Stage.ENDED:
            return
        connection.heard = True
        try:
            kind = kind_of(frame)
            if stage is Stage.UP and kind is not FrameKind.BYE:
                self._take(connection, kind, frame)
            elif kind is FrameKind.BYE:
                said = "refused" if stage is Stage.DIALLING else "hung up"
                self.end(connection, f"the other end {said}: {read_bye(frame)}")
            elif stage is Stage.AWAITED:
                self._greeted(connection, read_hello(frame))
            elif stage is Stage.DIALLING:
                self._greeted_back(connection, read_hello(frame))
            elif stage is Stage.ANSWERED:
                self._borrow(connection, read_ready(frame))
                self._up(connection)
            else:
                _refuse_out_of_turn(kind)
        except MalformedFrame as error:
            self.counts["malformed_frames"] += 1
            self.end(connection, f"the other end broke the protocol: {error}", tell=str(error))
        except Refused as error:
            self.counts["refused_peers"] += 1
            self.end(connection, f"refused here: {error}", tell=str(error))

    def end(self, connection: Connection, reason: str, *, tell: str | None = None) -> None:
        """End a connection, and what hangs on it, once; `tell` is said to the other end."""
        if connection.stage is Stage.ENDED:
            return
        if tell is not None:
            self._wire.transmit(connection, bye_frame(tell))
        connection.stage, connection.reason = Stage.ENDED, reason
        self.counts["messages_dropped"] += connection.backlog.count
        connection.backlog = Backlog()
        self._wire.close(connection)
        peer = connection.peer
        if peer is None:
            return
        if self.links.get(peer) is connection:
            del self.links[peer]
            self.counts["links_down"] += 1
            self._tell(LinkDown(peer, reason))
        if self._theirs.get(peer) is connection:
            del self._theirs[peer]
            self._resume(peer)

    def introduce(self, peer: NodeId, window: int = 0) -> bytes:
        """Write our HELLO for `peer`, with its window where we know what it is.

        Raises:
            UsageError: Our own admission gave too long a credential.
        """
        credential = self._admission.credential_for(peer)
        if len(credential) > CREDENTIAL_BYTES_MAX:
            raise UsageError(f"a credential has at most {CREDENTIAL_BYTES_MAX} bytes, this one has {len(credential)}")
        return hello_frame(
            Hello(VERSION, self._own, self._boot, self._label, credential, window, self._silence_ms, runs=True)
        )

    def _take(self, connection: Connection, kind: FrameKind, frame: bytes) -> None:
        """Take a frame of a link that is up."""
        if kind is FrameKind.CREDIT:
            # Never more than can be meant, whatever is said: an int of ours must not grow by a peer's will.
            connection.credit = min(connection.credit + read_credit(frame), WINDOW_BYTES_MAX)
            self._wire.flush(connection)
        elif kind is FrameKind.ALIVE:
            read_alive(frame)
        else:
            self._deliver(connection, kind, frame)

    def _deliver(self, connection: Connection, kind: FrameKind, frame: bytes) -> None:
        peer, grant = connection.peer, connection.grant
        if peer is None:
            raise MalformedFrame("a message before the greeting")
        messages = connection.assembly.take(kind, frame)
        total = sum(map(len, messages))
        carried = total if kind is FrameKind.MESSAGES else len(frame) - 1
        cost = carried + MESSAGE_COST_BYTES * len(messages)
        if not grant.spend(cost):
            self.counts["overdrawn"] += 1
            raise MalformedFrame(f"it sent {-grant.left} bytes more than it had credit for")
        if self._inbox.crowded(grant, len(self.links)):
            self.counts["crowded_out"] += 1
            reason = "too much waits to be read here, and this peer sent the most of it"
            self.end(connection, reason, tell=reason)
            return
        if messages:
            self._inbox.put_messages(peer, messages, grant)
            self.counts["messages_received"] += len(messages)
            self.counts["bytes_received"] += total

    def _lend(self, connection: Connection) -> int:
        """Open a window for a peer whose standing is known."""
        window = window_for(connection.standing)
        connection.grant = Grant(window, partial(self._wire.lend, connection))
        self._wire.expect(connection)
        return window

    def _borrow(self, connection: Connection, window: int) -> None:
        """Take the window that the peer has opened for us."""
        connection.credit, connection.message_bytes_max = window, message_bytes_max(window)

    def _greeted(self, connection: Connection, hello: Hello) -> None:
        """Take the first frame of somebody who dialled us."""
        if hello.node.curve_key != connection.key:
            self.counts["impersonations"] += 1
            raise MalformedFrame("the id in HELLO is not that of the key which was proved")
        if hello.node == self._own:
            raise Refused("this is your own node id: two nodes must not share a key")
        connection.standing = self._admission.judge(hello.node, hello.credential)
        peer = connection.peer = hello.node
        self._note(connection, hello)
        former, self._theirs[peer] = self._theirs.get(peer), connection
        if former is not None:
            # One greeting under way per key, however many connections it opens.
            self.end(former, "the peer began again", tell="a newer connection of yours replaces this one")
        connection.deadline = time.monotonic() + (CONNECT_TRIES + GREETING_TRIES) * self._handshake_s
        if peer in self.dials and self._own < peer:
            # Our own dial comes first; if it comes to nothing, this one is answered.
            connection.stage = Stage.HELD
        else:
            self._answer(connection, peer)

    def _note(self, connection: Connection, hello: Hello) -> None:
        connection.label, connection.silence_s = hello.label, hello.silence_ms / 1000
        connection.reads_runs = hello.runs

    def _answer(self, connection: Connection, peer: NodeId) -> None:
        connection.stage = Stage.ANSWERED
        connection.deadline = time.monotonic() + GREETING_TRIES * self._handshake_s
        self._wire.transmit(connection, self.introduce(peer, self._lend(connection)))

    def _greeted_back(self, connection: Connection, hello: Hello) -> None:
        """Take the answer of somebody whom we dialled."""
        peer = connection.peer
        if hello.node != peer:
            raise MalformedFrame("the id in HELLO is not the one that was dialled")
        connection.standing = self._admission.judge(peer, hello.credential)
        self._note(connection, hello)
        self._borrow(connection, checked_window(hello.window))
        if self._own > peer and peer in self._theirs:
            # Theirs comes first, and we have answered it; if it comes to nothing, this one is completed.
            connection.stage = Stage.HELD
        else:
            self._complete(connection)

    def _complete(self, connection: Connection) -> None:
        self._wire.transmit(connection, ready_frame(self._lend(connection)))
        self._up(connection)

    def _up(self, connection: Connection) -> None:
        peer = connection.peer
        if peer is None:
            raise UsageError("a connection without a peer cannot come up")
        if (former := self.links.get(peer)) is not None:
            self.end(former, "the peer opened a newer link", tell="a newer link replaces this one")
        connection.stage, connection.was_up = Stage.UP, True
        self.links[peer] = connection
        self.counts["links_up"] += 1
        self._tell(LinkUp(peer, connection.standing, connection.label, connection.host))
        self._wanted.pop(peer, None)
        dial = self.dials.pop(peer, None)
        if dial is not None and dial.connection is not connection:
            self._abandon(dial, "a link is up already")
        theirs = self._theirs.pop(peer, None)
        if theirs is not None and theirs is not connection:
            self.end(theirs, "a link is up already", tell="a link is up already")

    def _abandon(self, dial: Dial, reason: str) -> None:
        if dial.connection is not None:
            self.end(dial.connection, reason, tell=reason)
        dial.scope.cancel()

    def _resume(self, peer: NodeId) -> None:
        """Go on with what waited for a connection of the peer's that has come to nothing."""
        dial = self.dials.get(peer)
        if dial is not None and dial.connection is not None and dial.connection.stage is Stage.HELD:
            self._complete(dial.connection)
        elif (target := self._wanted.pop(peer, None)) is not None:
            self.dial(peer, *target)
