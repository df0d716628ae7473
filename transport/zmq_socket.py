"""The bound end of links: a ZeroMQ socket with every option set, every peer's key known, nothing that waits.

`KeyedRouter` is drained on its descriptors by the edge-triggered rule (as is `zmq_dealer.py`, the dialling end): a
descriptor tells of changes only, so its owner may wait on it (`anyio.wait_readable`) only after `receive_nowait` gave
None, and must look again after every send, which may have used the change up.

A connection's name at the router is libzmq's routing id. Clients of ours never choose theirs, and what libzmq draws
begins with a zero byte; who chooses one is cut, so nobody comes back under another's name. The proved key belongs to
the connection's first frame (ZAP's user id) and is forgotten when libzmq says that the connection has ended.
"""

import errno
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeAlias

import zmq
from zmq.utils.monitor import parse_monitor_message

from atoll.transport.errors import Unreachable, UsageError
from atoll.transport.keys import NodeKey
from atoll.transport.tcp_connection import UnreadMeters, own_address_of, peer_of, plain_host, shut_down

CUT_DELAY_S = 0.25
"""Between the last frame to a connection and its end, so that the reason arrives; libzmq cannot be asked whether."""
LAST_WORDS_S = 0.25
"""How long the end of a connection waits, at most, for what it said before."""
LINGER_MS = 250
"""What a closed socket has left to send what it holds."""
BACKLOG = 1024
CONNECTIONS_MAX = 4096
"""Connections that may be open to a router; who comes later is cut. Well below the usual limits of descriptors."""
_ZAP = "inproc://zeromq.zap.01"
_MONITOR = "inproc://router.monitor"
_ROUTER_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.ENODEV, errno.EINVAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketLimits:
    """What peers can make a socket keep; no socket is without."""

    message_bytes_max: int
    send_frames: int
    """libzmq counts messages, not bytes: as many of the longest as make up the byte budget."""
    handshake_ms: int

    def harden(self, sock: "zmq.Socket[bytes]") -> None:
        """Set the limits, and what keeps peers from aborting this process.

        libzmq 4.3.5 aborts when a connection breaks while its receive queue is full and a heartbeat of either end is
        due. So there is no such queue (the owner reads always, memory is bounded by credit and `UnreadMeters`) and no
        heartbeat of ours; see docs/decisions/0013.
        """
        sock.setsockopt(zmq.MAXMSGSIZE, self.message_bytes_max)
        sock.setsockopt(zmq.SNDHWM, self.send_frames)
        sock.setsockopt(zmq.RCVHWM, 0)
        sock.setsockopt(zmq.HANDSHAKE_IVL, self.handshake_ms)
        sock.setsockopt(zmq.HEARTBEAT_IVL, 0)
        sock.setsockopt(zmq.LINGER, 0)


@dataclass(frozen=True, slots=True)
class Arrived:
    """One frame; `key` is the proved X25519 key of the connection."""

    connection: bytes
    key: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing more will arrive from this connection."""

    connection: bytes


RouterEvent: TypeAlias = Arrived | Gone


def endpoint(host: str, port: int) -> str:
    """Write host and port as people and libzmq read them; an IPv6 literal gets its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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

    def __init__(self, key: NodeKey, host: str, port: int, limits: SocketLimits, *, silent_s: float) -> None:
        """Bind; who says nothing for `silent_s` after TCP's handshake, CURVE's included, is cut."""
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
        try:
            self._bind(host, port)
        except zmq.ZMQError as error:
            self.close(0)
            self.context.term()
            raise UsageError(_bind_failure(host, port, error)) from error
        self.port = int(self._router.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._silent_s = silent_s
        self._live: dict[int, Any] = {}
        """Descriptors of all connections, and the address at the other end."""
        self._silent: dict[int, float] = {}
        """Those that have said nothing yet, and until when they may; libzmq does not tell which handshake succeeded."""
        self._keys: dict[bytes, bytes] = {}
        self._descriptors: dict[bytes, int] = {}
        self._hosts: dict[bytes, str] = {}
        self._names: dict[int, bytes] = {}
        self._cuts: deque[tuple[float, bytes, int, Any]] = deque()
        self._lost: deque[tuple[float, bytes]] = deque()
        self._leaving: dict[bytes, bytes] = {}
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
        return len(self._live)

    @property
    def pending(self) -> bool:
        """Whether `sweep` will have something to do later."""
        return bool(self._silent or self._cuts or self._lost)

    def host_of(self, connection: bytes) -> str:
        """Give the address a connection comes from."""
        return self._hosts.get(connection, "")

    def own_address_of(self, connection: bytes) -> str:
        """Give the address at this end of a connection; empty when it is gone."""
        descriptor = self._descriptors.get(connection)
        return "" if descriptor is None else own_address_of(descriptor)

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

    def receive_nowait(self) -> RouterEvent | None:
        """Give what has come, or None when nothing more has."""
        while True:
            if self._lost and self._lost[0][0] <= time.monotonic():
                return self._say_gone()
            try:
                name = self._router.recv(zmq.DONTWAIT)
            except zmq.Again:
                # Nothing is left of what they said before they went.
                return self._say_gone() if self._lost else None
            key = self._keys.get(name, self._leaving.get(name))
            if key is not None:
                data = self._router.recv()
            else:
                message = self._router.recv(copy=False)
                data, key = message.bytes, self._meet(name, message)
            self._meters.note(self._descriptors.get(name, -1), len(data))
            if self._router.getsockopt(zmq.RCVMORE):
                # Frames have one part; what has more is not worth reading, and never valid.
                while self._router.getsockopt(zmq.RCVMORE):
                    self._router.recv()
                data = b""
            if key:
                return Arrived(name, key, data)

    def _say_gone(self) -> Gone:
        _, name = self._lost.popleft()
        del self._leaving[name]
        self._hosts.pop(name, None)
        return Gone(name)

    def try_send(self, connection: bytes, data: bytes) -> bool:
        """Hand a frame to libzmq; False when its queue for this connection is full.

        Raises:
            Unreachable: The connection is gone.
        """
        try:
            self._router.send(connection, zmq.SNDMORE | zmq.DONTWAIT)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            self._forget(connection)
            raise Unreachable(f"the connection is gone: {error}") from error
        self._router.send(data, zmq.DONTWAIT)
        return True

    def allow(self, connection: bytes, unread_bytes_max: int) -> None:
        """Let libzmq hold so much of this connection that we have not read."""
        self._meters.allow(self._descriptors.get(connection, -1), unread_bytes_max)

    def cut(self, connection: bytes) -> None:
        """Close the connection a moment later, after what was sent; nothing of it is received any more."""
        descriptor = self._descriptors.get(connection)
        if descriptor is not None and self._keys.get(connection):
            # An empty key: known, and not listened to.
            self._keys[connection] = b""
            peer = self._live.get(descriptor)
            self._cuts.append((time.monotonic() + CUT_DELAY_S, connection, descriptor, peer))

    def sweep(self) -> None:
        """Carry out cuts that are due, on those who have said nothing for too long too."""
        self.watch()
        now = time.monotonic()
        while self._cuts and self._cuts[0][0] <= now:
            _, connection, descriptor, peer = self._cuts.popleft()
            if self._names.get(descriptor) == connection:
                shut_down(descriptor, peer)
        while self._silent:
            descriptor, until = next(iter(self._silent.items()))
            if until > now:
                break
            del self._silent[descriptor]
            self.silent_cut += 1
            shut_down(descriptor, self._live.get(descriptor))

    def cut_flooding(self) -> list[bytes]:
        """Cut at once who makes libzmq hold too much, and give the names of those who have one."""
        self.watch()
        flooding = self._meters.overfull()
        for descriptor in flooding:
            self._meters.forget(descriptor)
            self._silent.pop(descriptor, None)
            self.flooding_cut += 1
            shut_down(descriptor, self._live.get(descriptor))
        return [self._names[each] for each in flooding if each in self._names]

    def watch(self) -> None:
        """Notice who has come and who has gone."""
        while True:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return
            if event["event"] == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self.handshakes_malformed += 1
                continue
            descriptor = int(event["value"])
            # A descriptor that is accepted anew was closed before, whether or not that was told.
            self._end(descriptor)
            if event["event"] != zmq.EVENT_ACCEPTED:
                continue
            peer = self._live[descriptor] = peer_of(descriptor)
            self._meters.begin(descriptor)
            if len(self._live) > CONNECTIONS_MAX:
                self.refused += 1
                shut_down(descriptor, peer)
            else:
                self._silent[descriptor] = time.monotonic() + self._silent_s

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close the sockets; the context (`context.term`) ends when what they still had to send is sent or too old."""
        self._router.disable_monitor()
        self._monitor.close(0)
        self._router.close(linger_ms)
        self._zap.close(0)

    def _meet(self, name: bytes, message: zmq.Frame) -> bytes:
        """Write down who a new connection is, after whoever used its descriptor before has been noted as gone."""
        self.watch()
        key = bytes.fromhex(str(message.get("User-Id")))
        descriptor = int(message.get(zmq.SRCFD))
        self._silent.pop(descriptor, None)
        if (former := self._names.get(descriptor)) is not None:
            self._forget(former)
        if name[0] != 0:
            self.refused += 1
            self._keys[name], self._descriptors[name], self._names[descriptor] = b"", descriptor, name
            shut_down(descriptor, self._live.get(descriptor))
            return b""
        self._hosts[name] = plain_host(str(message.get("Peer-Address")))
        self._keys[name] = key
        if descriptor in self._live:
            self._descriptors[name], self._names[descriptor] = descriptor, name
        else:
            # It has ended before its first frame was read.
            self._forget(name)
        return key

    def _end(self, descriptor: int) -> None:
        self._live.pop(descriptor, None)
        self._meters.forget(descriptor)
        if self._silent.pop(descriptor, None) is not None:
            self.handshakes_failed += 1
        if (name := self._names.get(descriptor)) is not None:
            self._forget(name)

    def _forget(self, name: bytes) -> None:
        descriptor = self._descriptors.pop(name, -1)
        if self._names.get(descriptor) == name:
            del self._names[descriptor]
            if descriptor in self._live:
                # libzmq knows the name no more, but the descriptor is open: somebody new, who has to say who.
                self._silent.setdefault(descriptor, time.monotonic() + self._silent_s)
        # Of a connection that was cut the owner has heard enough.
        if key := self._keys.pop(name, None):
            # What it said before it left is still in libzmq's queue and counts: its end is told after that.
            self._leaving[name] = key
            self._lost.append((time.monotonic() + LAST_WORDS_S, name))
        else:
            self._hosts.pop(name, None)
