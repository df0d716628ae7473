"""A bound ZeroMQ socket: any CURVE key may connect, every connection's key is known, nothing here waits.

    accepted --its first frame--> known --its end, or a send that fails--> leaving --last words were read--> Gone
    accepted --silent too long, too many-->  shut down                     known --cut--> not listened to, shut down

While hardly a descriptor is left, one goes for each that comes: where accept(2) fails for want of descriptors libzmq's
thread spins, and closing the port would end all connections that came by it. The owner then calls `keep_house` often.
When none is left at all, one that is kept for this is given up, so that libzmq lets in who waits, who is then cut.

Links and the SEP ports of relays are such sockets. Who may stay is decided by their owners, who also drain it by the
edge-triggered rule of `zmq_socket.py`.

A connection's name is libzmq's routing id. Clients of ours never choose theirs, and what libzmq draws begins with a
zero byte; who chooses one is cut, so nobody comes back under another's name. The proved key belongs to the
connection's first frame (ZAP's user id) and is forgotten when libzmq says that the connection has ended.
"""

import errno
import struct
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import zmq

from atoll.transport.arrivals import Arrived, ConnectionId, Gone
from atoll.transport.descriptors import SPARE_FILES, SpareDescriptor, files_left_at_most
from atoll.transport.errors import Unreachable, UsageError
from atoll.transport.keys import NodeKey
from atoll.transport.tcp_connection import (
    STRANGER_BYTES_MAX,
    UnreadMeter,
    UnreadMeters,
    mark_of,
    own_address_of,
    plain_host,
    shut_down,
)
from atoll.transport.zmq_socket import LINGER_MS, SocketLimits, endpoint, frame_of, is_empty

CUT_DELAY_S = 0.25
"""Between the last frame to a connection and its end, so that the reason arrives; libzmq cannot be asked whether."""
LAST_WORDS_S = 0.25
"""How long the end of a connection waits, at most, for what it said before."""
BACKLOG = 1024
_ZAP = "inproc://zeromq.zap.01"
_MONITOR = "inproc://router.monitor"
_ROUTER_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_ACCEPTED, _HANDSHAKE_FAILED = int(zmq.EVENT_ACCEPTED), int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_MONITORED = struct.Struct("=Hi")
"""Event and value, as zmq_socket_monitor(3) has them; pyzmq's own parser takes ten times as long."""
# Plain numbers: joining two flags of an enum anew takes half a microsecond, once a frame.
_NOW = int(zmq.DONTWAIT)
_NAME_PART = int(zmq.SNDMORE | zmq.DONTWAIT)
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.ENODEV, errno.EINVAL}


@dataclass(slots=True, eq=False)
class _Peer:
    """A connection that has said something."""

    name: ConnectionId
    key: bytes
    host: str
    descriptor: int
    meter: UnreadMeter
    heard: bool = True
    """Whether the owner hears it; not after it was cut."""
    leaves_at: float | None = None
    """It has ended, and this is when nothing more of what it said before is waited for."""


def _bind_failure(host: str, port: int, error: zmq.ZMQError) -> str:
    if error.errno == zmq.EADDRINUSE:
        return f"port {port} on {host} is in use: stop what uses it, or choose another port (0 takes any free one)"
    if error.errno == errno.EACCES:
        return f"port {port} needs rights this user does not have: choose one above 1023 (0 takes any free one)"
    if error.errno in {errno.EADDRNOTAVAIL, errno.ENODEV, errno.EINVAL}:
        return f"{host} is no address of this host: choose one of its own, or 0.0.0.0 for all of them"
    return f"port {port} on {host} cannot be opened: {error}; choose another"


class KeyedRouter:
    """A bound ROUTER: any CURVE key may connect, every connection knows its key; `port` is the real one.

    Raises:
        UsageError: The port cannot be opened.
    """

    def __init__(
        self,
        key: NodeKey,
        host: str,
        port: int,
        limits: SocketLimits,
        *,
        silent_s: float,
        connections_max: int,
        silent_max: int | None = None,
        unread_bytes_max: int = STRANGER_BYTES_MAX,
        events_max: int = -1,
    ) -> None:
        """Bind.

        Who says nothing for `silent_s` after TCP's handshake, CURVE's included, is cut. When there are more than
        `silent_max` of them, or more than `connections_max` in all, the one that has been silent longest goes, so that
        a flood keeps nobody out who speaks soon; where all have spoken, it is the newest. libzmq may hold
        `unread_bytes_max` of one that has spoken, until `allow` says otherwise. `sweep` and `cut_flooding` notice at
        most `events_max` of who has come and gone, for an owner that calls `keep_house` between them; -1 for all.
        """
        self._open(key, limits)
        try:
            self._bind(host, port)
        except zmq.ZMQError as error:
            self.close(0)
            self.context.term()
            raise UsageError(_bind_failure(host, port, error)) from error
        self.port = int(self._router.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._silent_s, self._connections_max, self._unread_bytes_max = silent_s, connections_max, unread_bytes_max
        self._silent_max = connections_max if silent_max is None else silent_max
        self._events_max = events_max
        self._doomed: deque[tuple[int, Any]] = deque()
        """Those that are cut to make room, and their marks."""
        self.scarce = False
        """Hardly a descriptor is left."""
        self.times_scarce = 0
        """How often that has come about."""
        self._marks: dict[int, Any] = {}
        """Descriptors of all connections, and what tells each from the next one of its number."""
        self._silent: dict[int, float] = {}
        """Those that have said nothing yet, and until when they may; libzmq does not tell which handshake succeeded."""
        self._peers: dict[ConnectionId, _Peer] = {}
        """Those that have, by name, until `Gone` was told of them."""
        self._holders: dict[int, _Peer] = {}
        """And by the descriptor that they hold."""
        self._leaving: deque[_Peer] = deque()
        self._cuts: deque[tuple[float, _Peer]] = deque()
        self.silent_cut = 0
        """How many were cut because they said nothing."""
        self.refused = 0
        """How many were cut because they chose their own name or were too many."""
        self.handshakes_failed = 0
        """How many ended by themselves, or by libzmq's judgement, before their first frame."""
        self.handshakes_malformed = 0
        """How many spoke ZMTP and then broke it: another mechanism, another server key, a wrong length."""
        self.flooding_cut = 0
        """How many were cut because they sent too much that is no frame."""
        self._meters = UnreadMeters()

    def _open(self, key: NodeKey, limits: SocketLimits) -> None:
        self._spare = SpareDescriptor()
        # A context of its own: ZAP is one per context.
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._zap = self.context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(_ZAP)
        self._router = self.context.socket(zmq.ROUTER)
        limits.harden(self._router)
        self._router.setsockopt(zmq.BACKLOG, BACKLOG)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.CURVE_SERVER, 1)
        self._router.setsockopt(zmq.CURVE_SECRETKEY, key.curve_secret)
        self._router.setsockopt(zmq.ZAP_DOMAIN, b"atoll")
        self._router.monitor(_MONITOR, _ROUTER_EVENTS)
        self._monitor = self.context.socket(zmq.PAIR)
        # Unbounded, and emptied at once: an event that is dropped would be a connection that never ends.
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.connect(_MONITOR)

    def _bind(self, host: str, port: int) -> None:
        if host in {"0.0.0.0", "::"}:
            # One socket for both families: libzmq switches IPV6_V6ONLY off.
            self._router.setsockopt(zmq.IPV6, 1)
            try:
                self._router.bind(f"tcp://[::]:{port}")
            except zmq.ZMQError as error:
                if host == "::" or error.errno not in _NO_IPV6:
                    raise
                self._router.setsockopt(zmq.IPV6, 0)
                self._router.bind(f"tcp://0.0.0.0:{port}")
            return
        self._router.setsockopt(zmq.IPV6, int(":" in host))
        self._router.bind(f"tcp://{endpoint(host, port)}")

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """What to wait on for frames (`receive_nowait`), for handshakes (`admit`) and for `watch`."""
        frames, handshakes, watched = (
            int(sock.getsockopt(zmq.FD)) for sock in (self._router, self._zap, self._monitor)
        )
        return frames, handshakes, watched

    @property
    def connections(self) -> int:
        """How many are open, also those whose keys are not proved yet."""
        return len(self._marks)

    @property
    def pending(self) -> bool:
        """Whether `sweep` will have something to do later."""
        return bool(self._silent or self._cuts or self._leaving or self._doomed or self.scarce)

    def host_of(self, connection: ConnectionId) -> str:
        """Give the address a connection comes from."""
        peer = self._peers.get(connection)
        return "" if peer is None else peer.host

    def own_address_of(self, connection: ConnectionId) -> str:
        """Give the address at this end of a connection; empty when it is gone."""
        peer = self._open_peer(connection)
        return "" if peer is None else own_address_of(peer.descriptor)

    def admit(self) -> None:
        """Let everybody in whose handshake waits, and write the key down."""
        while True:
            try:
                request = self._zap.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            # RFC 27: version, request id, domain, address, identity, mechanism, credentials.
            genuine = len(request) == 7 and request[5] == b"CURVE" and len(request[6]) == 32
            status = (b"200", b"OK") if genuine else (b"400", b"only CURVE")
            user = request[6].hex().encode() if genuine else b""
            self._zap.send_multipart([b"1.0", request[1], *status, user, b""])

    def is_idle(self) -> bool:
        """Tell whether `receive_nowait` would give None; where little comes at once, that is cheaper to ask."""
        return not self._leaving and is_empty(self._router)

    def receive_nowait(self) -> Arrived | Gone | None:
        """Give what has come, or None when nothing more has."""
        while True:
            if self._leaving and (self._leaving[0].leaves_at or 0) <= time.monotonic():
                return self._say_gone()
            try:
                name = self._router.recv(_NOW)
            except zmq.Again:
                # Nothing is left of what they said before they went.
                return self._say_gone() if self._leaving else None
            message = self._router.recv(copy=False)
            peer = self._peers.get(name) or self._meet(name, message)
            frame = frame_of(self._router, message)
            peer.meter.note_frame(len(frame))
            if peer.heard:
                return Arrived(name, peer.key, frame)

    def _say_gone(self) -> Gone:
        peer = self._leaving.popleft()
        del self._peers[peer.name]
        return Gone(peer.name)

    def try_send(self, connection: ConnectionId, frame: bytes) -> bool:
        """Hand a frame to libzmq; False when its queue for this connection is full.

        Raises:
            Unreachable: The connection is gone.
        """
        try:
            self._router.send(connection, _NAME_PART)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if (peer := self._open_peer(connection)) is not None:
                self._part(peer)
            raise Unreachable(f"the connection is gone: {error}") from error
        self._router.send(frame, _NOW)
        return True

    def allow(self, connection: ConnectionId, unread_bytes_max: int) -> None:
        """Let libzmq hold so much of this connection that we have not read."""
        if (peer := self._peers.get(connection)) is not None:
            peer.meter.bytes_max = unread_bytes_max

    def cut(self, connection: ConnectionId) -> None:
        """Close the connection a moment later, after what was sent; nothing of it is received any more."""
        peer = self._open_peer(connection)
        if peer is not None and peer.heard:
            peer.heard = False
            self._cuts.append((time.monotonic() + CUT_DELAY_S, peer))

    def break_off(self, connection: ConnectionId) -> bool:
        """Close the connection at once, whatever was sent; False when it has ended already."""
        peer = self._open_peer(connection)
        if peer is not None:
            self._shut_down(peer.descriptor)
        return peer is not None

    def sweep(self) -> None:
        """Carry out cuts that are due, on those who have said nothing for too long too."""
        self.keep_house(self._events_max)
        self._mind_descriptors()
        now = time.monotonic()
        while self._cuts and self._cuts[0][0] <= now:
            _, peer = self._cuts.popleft()
            if peer.leaves_at is None:
                self._shut_down(peer.descriptor)
        while self._silent:
            descriptor, until = next(iter(self._silent.items()))
            if until > now:
                break
            del self._silent[descriptor]
            self.silent_cut += 1
            self._shut_down(descriptor)

    def cut_flooding(self, most: int | None = None) -> list[bytes]:
        """Cut at once who of the `most` next makes libzmq hold too much, and give the names of those who have one."""
        self.watch(self._events_max)
        flooding = self._meters.overfull(most)
        for descriptor in flooding:
            self._meters.forget(descriptor)
            self._silent.pop(descriptor, None)
            self.flooding_cut += 1
            self._shut_down(descriptor)
        return [self._holders[each].name for each in flooding if each in self._holders]

    def watch(self, most: int = -1) -> bool:
        """Notice who has come and who has gone; True when `most` have been noticed and there may be more."""
        while most:
            most -= 1
            try:
                event, descriptor = _MONITORED.unpack(self._monitor.recv(_NOW))
            except zmq.Again:
                return False
            # The address, which is this end's.
            self._monitor.recv(_NOW)
            if event == _HANDSHAKE_FAILED:
                self.handshakes_malformed += 1
                continue
            # A descriptor that is accepted anew was closed before, whether or not that was told.
            self._end(descriptor)
            if event != _ACCEPTED:
                continue
            self._marks[descriptor] = mark_of(descriptor)
            self._meters.begin(descriptor)
            crowded = self.scarce or len(self._marks) > self._connections_max
            if crowded and not self._silent:
                self.refused += 1
                self._doomed.append((descriptor, self._marks[descriptor]))
                continue
            if crowded or len(self._silent) >= self._silent_max:
                oldest = next(iter(self._silent))
                del self._silent[oldest]
                self.silent_cut += 1
                # Not here: each would be told of as an event again, and the next call would find no end of them.
                self._doomed.append((oldest, self._marks[oldest]))
            self._silent[descriptor] = time.monotonic() + self._silent_s
        return True

    def keep_house(self, most: int) -> bool:
        """Do so much of what floods make necessary; True when there may be more. For who cannot stop for all of it."""
        if self.scarce:
            self._mind_descriptors()
        more = self.watch(most)
        for _ in range(len(self._doomed) if most < 0 else min(most, len(self._doomed))):
            shut_down(*self._doomed.popleft())
        return more or bool(self._doomed)

    def _mind_descriptors(self) -> None:
        """Notice whether hardly a descriptor is left."""
        scarce = files_left_at_most(SPARE_FILES)
        self.times_scarce += scarce and not self.scarce
        self.scarce = scarce
        if scarce and files_left_at_most(0):
            self._spare.give_up()
        else:
            self._spare.take()

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close the sockets; the context (`context.term`) ends when what they still had to send is sent or too old."""
        self._spare.give_up()
        self._router.disable_monitor()
        self._monitor.close(0)
        self._router.close(linger_ms)
        self._zap.close(0)

    def _meet(self, name: ConnectionId, message: zmq.Frame) -> _Peer:
        """Write down who a new connection is, after whoever used its descriptor before has been noted as gone."""
        self.watch()
        descriptor = int(message.get(zmq.SRCFD))
        key, host = bytes.fromhex(str(message.get("User-Id"))), plain_host(str(message.get("Peer-Address")))
        waited_for = self._silent.pop(descriptor, None) is not None
        meter = self._meters.allow(descriptor, self._unread_bytes_max) if waited_for else None
        peer = self._peers[name] = _Peer(name, key, host, descriptor, meter or UnreadMeter(descriptor))
        if not waited_for:
            # It has ended before its first frame was read, and its descriptor may be another's by now.
            self._part(peer)
        else:
            self._holders[descriptor] = peer
            if name[0] != 0:
                self.refused += 1
                peer.heard = False
                self._shut_down(descriptor)
        return peer

    def _open_peer(self, connection: ConnectionId) -> _Peer | None:
        peer = self._peers.get(connection)
        return peer if peer is not None and peer.leaves_at is None else None

    def _shut_down(self, descriptor: int) -> None:
        shut_down(descriptor, self._marks.get(descriptor))

    def _end(self, descriptor: int) -> None:
        self._marks.pop(descriptor, None)
        self._meters.forget(descriptor)
        if self._silent.pop(descriptor, None) is not None:
            self.handshakes_failed += 1
        if (peer := self._holders.get(descriptor)) is not None:
            self._part(peer)

    def _part(self, peer: _Peer) -> None:
        """Note that a connection has ended. What it said before is still in libzmq's queue: its end is told after."""
        if self._holders.get(peer.descriptor) is peer:
            del self._holders[peer.descriptor]
            if peer.descriptor in self._marks:
                # libzmq knows the name no more, but the descriptor is open: somebody new, who has to say who.
                self._silent.setdefault(peer.descriptor, time.monotonic() + self._silent_s)
        peer.leaves_at = time.monotonic() + LAST_WORDS_S
        self._leaving.append(peer)
