"""Says where this node takes links, and hears where others do: UDP multicast on every interface, IPv4 and IPv6.

    every period:  say one beacon on each interface
    now and then, when the network has changed, when one takes no beacon:
                   look at the interfaces --> join new ones, leave lost ones
    a packet:      `BeaconEar` decides --> a queue --> receive()

An interface that cannot send is counted and tried again at the next beat; a host without multicast is told about in
`notes` and in the log, and the node goes on without beacons. Nothing here raises because of the network or of what
others send, and nothing waits for a slow reader: what does not fit into the queue is dropped and counted, since the
next beacon says the same again.

What arrives is a hint (see `beacon_packet.py`). Only packets to the group are read, so nobody beyond the next router
can send one.
"""

import itertools
import logging
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
import ifaddr

from atoll.transport.beacon_packet import FORGET_S, BeaconEar, BeaconPacket, Heard
from atoll.transport.beacon_packet import PACKET_BYTES_MAX as BYTES_MAX
from atoll.transport.errors import UsageError
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.naps import nap_s

log = logging.getLogger("atoll.transport")

GROUP_4 = "239.255.83.86"
GROUP_6 = "ff02::5356"
PORT = 8086
PERIOD_S = 1.0
JITTER = 0.2
"""A beat comes up to this part of the period earlier or later, so that nodes started together drift apart."""
CROWD_STRETCH = 2.0
LOOK_BEATS = 10
"""Interfaces are looked at every so many beats; at the next one when the network has changed, or one gave an error."""
HURRY_S = 0.05
"""Between two beacons that are said because the network has changed."""
INTERFACES_MAX = 64
"""A container host has hundreds; neighbours are on the first few."""
ADDRESSES_MAX = 4
"""IPv4 addresses of one interface that are beaconed from."""
QUEUE_MAX = 1024
BATCH = 64
"""Packets read before others get their turn."""
BREATH_S = 0.01
"""Rest after a full batch: 6400 packets a second are read, a flood beyond that is the kernel's to drop."""
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_ANCILLARY_BYTES = 64


@dataclass(frozen=True, slots=True, order=True)
class Face:
    """One way out: an interface, and for IPv4 one of its addresses."""

    family: int
    name: str
    index: int
    address: str

    @property
    def text(self) -> str:
        """Interface and family, for statistics and people."""
        return f"{self.name} IPv{self.family}"


def faces_of(adapters: Iterable[ifaddr.Adapter], only: tuple[str, ...] = ()) -> list[Face]:
    """Choose where to beacon: each IPv4 address, and each interface with a link-local IPv6 address."""
    faces: list[Face] = []
    interfaces = 0
    for adapter in sorted(adapters, key=lambda each: each.index or 0):
        if adapter.index is None or (only and adapter.nice_name not in only):
            continue
        four = [ip.ip for ip in adapter.ips if isinstance(ip.ip, str)][:ADDRESSES_MAX]
        six = [ip.ip[0] for ip in adapter.ips if not isinstance(ip.ip, str) and ip.ip[0].lower().startswith("fe80:")]
        if not four and not six:
            continue
        interfaces += 1
        if interfaces > INTERFACES_MAX:
            break
        faces += [Face(4, adapter.nice_name, adapter.index, address) for address in four]
        faces += [Face(6, adapter.nice_name, adapter.index, address) for address in six[:1]]
    return faces


class _Voice:
    """The socket of one address family."""

    def __init__(self, family: int, port: int) -> None:
        self.family = family
        self._port = port
        self._joined: set[int] = set()
        self.sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            self._prepare()
        except OSError:
            self.sock.close()
            raise

    def _prepare(self) -> None:
        sock = self.sock
        sock.setblocking(False)
        # Several nodes of one host share the port; for multicast every one of them gets every packet.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform != "linux" and hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if self.family == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            if sys.platform == "linux":
                # Without this the group is heard on interfaces that only another process has joined.
                sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            # Bound to the group, packets to this host alone never arrive. Windows cannot do that.
            sock.bind(("" if sys.platform == "win32" else GROUP_4, self._port))
            return
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        if sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        # A link-local group cannot be bound on all interfaces: `read` looks at where a packet was sent to.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.bind(("::", self._port))

    def attend(self, faces: list[Face], failed: Callable[[str, OSError], None]) -> None:
        """Join the group where `faces` are, and leave it elsewhere."""
        wanted = {face.index: face for face in faces if face.family == self.family}
        for index in self._joined - wanted.keys():
            try:
                self._member(index, "", leave=True)
            except OSError:
                log.debug("interface %d is gone, and the kernel has left the group on it already", index)
            self._joined.discard(index)
        for index, face in sorted(wanted.items()):
            if index not in self._joined:
                try:
                    self._member(index, face.address, leave=False)
                except OSError as error:
                    failed(face.text, error)
                else:
                    self._joined.add(index)

    def _member(self, index: int, address: str, *, leave: bool) -> None:
        if self.family == 6:
            group = socket.inet_pton(socket.AF_INET6, GROUP_6) + struct.pack("@I", index)
            option = socket.IPV6_LEAVE_GROUP if leave else socket.IPV6_JOIN_GROUP
            self.sock.setsockopt(socket.IPPROTO_IPV6, option, group)
            return
        option = socket.IP_DROP_MEMBERSHIP if leave else socket.IP_ADD_MEMBERSHIP
        local = socket.inet_aton(address or "0.0.0.0")
        self.sock.setsockopt(socket.IPPROTO_IP, option, socket.inet_aton(GROUP_4) + _out_of(local, index))

    def say(self, face: Face, data: bytes) -> None:
        """Send out of one interface.

        Raises:
            OSError: It does not take the packet now.
        """
        if self.family == 6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, face.index)
            self.sock.sendto(data, (GROUP_6, self._port, 0, face.index))
            return
        way = _out_of(socket.inet_aton(face.address), face.index)
        # Linux takes the struct of a join here: with an index the address becomes the packet's source.
        way = bytes(4) + way if sys.platform == "linux" else way
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, way)
        self.sock.sendto(data, (GROUP_4, self._port))

    def read(self) -> tuple[bytes, str]:
        """Give one packet and the host it came from; an empty host for one that was not sent to the group.

        Raises:
            OSError: There is none now (`BlockingIOError`), or the socket is broken.
        """
        if self.family == 4:
            data, address = self.sock.recvfrom(BYTES_MAX + 1)
            return data, address[0]
        data, ancillary, _, address = self.sock.recvmsg(BYTES_MAX + 1, _ANCILLARY_BYTES)
        target = next((each[:16] for level, kind, each in ancillary if _tells_target(level, kind)), b"")
        if target != socket.inet_pton(socket.AF_INET6, GROUP_6):
            return data, ""
        host, scope = address[0].partition("%")[0], address[3]
        return data, f"{host}%{socket.if_indextoname(scope)}" if scope else host

    def close(self) -> None:
        """Leave everything."""
        self.sock.close()


def _tells_target(level: int, kind: int) -> bool:
    return level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO


def _out_of(address: bytes, index: int) -> bytes:
    """Name an interface to the kernel: by its index where that is possible, else by an address of it."""
    return address + struct.pack("@i", index) if sys.platform == "linux" else address


class Beacon:
    """Beacons of one node, out and in; use it with `async with`, and read `receive` in a loop."""

    def __init__(
        self,
        key: NodeKey,
        port_of_links: int,
        site_keys: SiteKeys | None,
        *,
        label: str = "",
        release: str = "",
        beacon_port: int = PORT,
        interfaces: tuple[str, ...] = (),
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
    ) -> None:
        """Take the port on which this node takes links; `interfaces` names the only ones to use, none means all.

        Raises:
            UsageError: A port or the period is out of range.
        """
        if not 0 < port_of_links < 2**16 or not 0 < beacon_port < 2**16:
            raise UsageError(f"beacons need ports of 1 to 65535: links {port_of_links}, beacons {beacon_port}")
        if period_s <= 0:
            raise UsageError(f"beacons need a period, not {period_s} s")
        self._key, self._site_keys = key, site_keys
        self._packet = BeaconPacket(key.node_id, port_of_links, time.time_ns() // 1_000_000, 0, label, release)
        self._sequence = 0
        self._port, self._only, self._period_s = beacon_port, interfaces, period_s
        self._clock, self._rng = clock, rng or Random()
        self.ear = BeaconEar(key.node_id, self._packet.boot, site_keys)
        self._stretch = 1.0
        self._faces: list[Face] = []
        self._restless = True
        """The interfaces may be others than those known."""
        self._voices: dict[int, _Voice] = {}
        self._counts: Counter[str] = Counter()
        self._notes: dict[str, str] = {}
        self._tasks: anyio.abc.TaskGroup
        # A stream's capacity is its limit; what comes beyond is dropped in `_take`.
        self._queue, self._heard = anyio.create_memory_object_stream[Heard](QUEUE_MAX)

    def slow_down(self, *, crowded: bool) -> None:
        """Say beacons half as often on a large site, whose nodes share what a network carries."""
        self._stretch = CROWD_STRETCH if crowded else 1.0

    @property
    def boot(self) -> int:
        """Milliseconds since 1970 when this beacon was made; later starts are higher."""
        return self._packet.boot

    @property
    def notes(self) -> tuple[str, ...]:
        """What is wrong with beacons now, in words; empty when all is well."""
        return tuple(self._notes.values())

    def statistics(self) -> dict[str, int]:
        """Counters since the start: beacons sent and what became of those that came; interfaces in use."""
        return {
            **self.ear.statistics(),
            **dict(sorted(self._counts.items())),
            "interfaces": len({face.index for face in self._faces}),
        }

    async def receive(self) -> Heard:
        """Wait for the next hint; one reader at a time."""
        return await self._heard.receive()

    def hurry(self) -> None:
        """Look at the interfaces and say a beacon at once: the network has changed."""
        self._hurried.set()

    async def __aenter__(self) -> Self:
        self._hurried = anyio.Event()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        # Ears before voice: who answers our first beacon at once shall be heard.
        self._look()
        self._tasks.start_soon(self._beat, name="beacons out")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        try:
            return await self._tasks.__aexit__(kind, error, trace)
        finally:
            for voice in self._voices.values():
                voice.close()
            self._queue.close()
            self._heard.close()

    async def _beat(self) -> None:
        for number in itertools.count():
            if self._restless or number % LOOK_BEATS == 0:
                self._restless = False
                self._look()
            self._note_twin()
            self._say()
            with anyio.move_on_after(nap_s(self._stretch * self._period_s * self._rng.uniform(1 - JITTER, 1 + JITTER))):
                await self._hurried.wait()
                # A network that changes all the time must not make us a flood.
                await anyio.sleep(HURRY_S)
            if self._hurried.is_set():
                self._restless = True
            self._hurried = anyio.Event()

    def _look(self) -> None:
        """Take the interfaces as they are now: they come and go with cables, networks and sleep."""
        try:
            faces = faces_of(ifaddr.get_adapters(), self._only)
        except OSError as error:
            self._note("interfaces", f"the network interfaces cannot be listed: {error}")
            return
        self._note("interfaces", "")
        if faces != self._faces:
            log.info("beacons on %s", ", ".join(sorted({face.text for face in faces})) or "no interface")
            gone = {face.text for face in self._faces} - {face.text for face in faces}
            for text in gone:
                self._counts.pop(_counter("send_errors", text), None)
                self._counts.pop(_counter("join_errors", text), None)
            self._faces = faces
        for family in sorted({face.family for face in faces}):
            self._open(family)
        for voice in self._voices.values():
            voice.attend(faces, self._join_failed)

    def _note_twin(self) -> None:
        twin_at = self.ear.twin_heard_at
        alive = twin_at is not None and self._clock() - twin_at < FORGET_S
        advice = "another process beacons with this node's key: stop one, or give it a key of its own"
        self._note("twin", advice if alive else "")

    def _open(self, family: int) -> None:
        if family in self._voices:
            return
        try:
            voice = self._voices[family] = _Voice(family, self._port)
        except OSError as error:
            self._counts["open_errors"] += 1
            self._note(
                f"open {family}", f"no beacons over IPv{family}: UDP port {self._port} cannot be opened: {error}"
            )
            return
        self._note(f"open {family}", "")
        self._tasks.start_soon(self._listen, voice, name=f"beacons in, IPv{family}")

    def _join_failed(self, text: str, error: OSError) -> None:
        self._restless = True
        self._counts["join_errors"] += 1
        self._counts[_counter("join_errors", text)] += 1
        log.debug("the beacons' group cannot be joined on %s: %s", text, error)

    def _say(self) -> None:
        """Send one beacon out of every interface: the same bytes, so that they are checked once."""
        self._sequence += 1
        packet = BeaconPacket(
            self._packet.node,
            self._packet.port,
            self._packet.boot,
            self._sequence,
            self._packet.label,
            self._packet.release,
        )
        data = packet.encode(self._key, self._site_keys)
        failures: dict[str, str] = {}
        sent = 0
        for face in self._faces:
            voice = self._voices.get(face.family)
            if voice is None:
                continue
            try:
                voice.say(face, data)
            except OSError as error:
                self._counts["send_errors"] += 1
                self._counts[_counter("send_errors", face.text)] += 1
                failures[face.text] = str(error)
            else:
                sent += 1
        self._counts["sent"] += sent
        if sent < len(self._faces) or not sent:
            self._restless = True
        why = "; ".join(f"{text}: {reason}" for text, reason in failures.items()) or "no interface has an address"
        advice = "nodes here do not find each other; connect this host to a network that carries multicast"
        self._note("silent", "" if sent else f"no interface takes multicast ({why}): {advice}")

    async def _listen(self, voice: _Voice) -> None:
        while True:
            await anyio.wait_readable(voice.sock)
            for _ in range(BATCH):
                try:
                    data, host = voice.read()
                except BlockingIOError:
                    break
                except OSError as error:
                    # Such as an interface that vanished between a packet's arrival and its reading.
                    self._counts["receive_errors"] += 1
                    log.debug("a beacon could not be read: %s", error)
                    continue
                self._take(data, host)
            else:
                await anyio.sleep(BREATH_S)

    def _take(self, data: bytes, host: str) -> None:
        if not host:
            self._counts["not_multicast"] += 1
            return
        heard = self.ear.hear(data, host, self._clock())
        if heard is None:
            return
        try:
            self._queue.send_nowait(heard)
        except anyio.WouldBlock:
            self._counts["overflowed"] += 1

    def _note(self, subject: str, text: str) -> None:
        """Say what is wrong, once; an empty text says that it is well again."""
        if not text:
            if self._notes.pop(subject, None):
                log.info("beacons: %s: well again", subject)
        elif self._notes.get(subject) != text:
            self._notes[subject] = text
            log.warning("beacons: %s", text)


def _counter(name: str, text: str) -> str:
    return f"{name} {text}"
