"""Reads and writes beacons, and decides which of those that arrive deserve to be heard.

    bytes --decode--> packet --ours?--> own
                             --our site's tag, wrong HMAC; or a wrong signature--> forged
                             --older than what was heard of that node--> replayed
                             --the very packet, from an address heard already--> repeated
                             --too many from one source, or too many strangers--> limited
                             --else--> Heard

A beacon is a hint that somebody may be at an address, never proof: the address is not signed, and whoever recorded a
beacon can send it again after everybody forgot its node. So it may cost a dial and a line in a list, nothing else.

What is checked costs about as much as it is worth: the HMAC of our own site at every beacon; the signature at the first
of each (node, boot), and for strangers, of whom few are kept, at every new sequence number. The same beacon on another
interface is compared with the bytes already proved. It must never read a clock (`now` comes in) and never grow without
bound: every table below has its limit.

The packet (big-endian), 117 to 213 bytes of the 256 that it may have:

    "ATL" | u8 version | u8 flags | u16 port of links | u64 boot | u32 sequence | 32 node id
    u8 n, label (UTF-8, n <= 48) | u8 n, release (UTF-8, n <= 24)
    8 site tag | 16 HMAC-SHA256 of all before it, cut     only with flag 1
    64 Ed25519 signature of "atoll beacon" and all before it
"""

import hmac
import struct
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from atoll.transport.errors import MalformedFrame, UsageError
from atoll.transport.identity import NODE_ID_BYTES, NodeId
from atoll.transport.keys import SIGNATURE_BYTES, NodeKey, SiteKeys, signature_valid
from atoll.transport.printable import printable

VERSION = 1
PACKET_BYTES_MAX = 256
DECODED_MAX = 64
"""Fits into one frame of any network, and leaves later versions some room."""
LABEL_BYTES_MAX = 48
RELEASE_BYTES_MAX = 24
MEMBERS_MAX = 4096
"""Members remembered; four of the largest sites we aim at."""
STRANGERS_MAX = 256
"""Nodes of other sites remembered. When all of them still speak, no further one is heard."""
STRANGERS_PER_SOURCE_MAX = 32
"""Of one address: somebody who invents nodes fills his own share only."""
SOURCES_MAX = 1024
"""Addresses whose rate is remembered."""
HOSTS_MAX = 8
"""Addresses from which one and the same beacon is taken: a host's interfaces, twice for IPv4 and IPv6."""
FORGET_S = 10.0
"""Ten beacons missed in a row. Then a lower boot number is believed too: that host's clock was set back."""
CHECKS_PER_S = 16.0
"""Signatures checked for one source; each costs about 0.1 ms."""
CHECKS_BURST = 48.0
FIRST_CHECKS_PER_S = 200.0
"""Signatures of strangers never heard before, from all sources: inventing sources as well does not buy more."""

_MAGIC = b"ATL"
_HEAD = struct.Struct(f">3sBBHQI{NODE_ID_BYTES}s")
_TAG_BYTES = 8
_HMAC_BYTES = 16
_MEMBER = 1
_SIGNED = b"atoll beacon"
"""Stands before what is signed, so that the signature is good for nothing else."""
_BYTES_MIN = _HEAD.size + 2 + SIGNATURE_BYTES


class MalformedBeacon(MalformedFrame):
    """Bytes that are no beacon; `kind` is the name of their counter."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class BeaconPacket(msgspec.Struct, frozen=True):
    """What one beacon says."""

    node: NodeId
    port: int
    """Where the node takes links, at the address the beacon comes from."""
    boot: int
    """Milliseconds since 1970 when the node started: a later start is a higher number."""
    sequence: int
    label: str = ""
    release: str = ""
    """The sender's release of Atoll, for people."""
    tag: bytes = b""
    """The site's, 8 bytes, or empty."""

    def encode(self, key: NodeKey, site_keys: SiteKeys | None) -> bytes:
        """Write the beacon, with the tag and HMAC of `site_keys`, signed with `key`; `node` and `tag` follow from them.

        Raises:
            UsageError: The port is out of range.
        """
        if not 0 < self.port < 2**16:
            raise UsageError(f"a beacon tells a port of 1 to 65535, not {self.port}")
        flags = _MEMBER if site_keys is not None else 0
        data = _HEAD.pack(_MAGIC, VERSION, flags, self.port, self.boot, self.sequence, key.node_id)
        data += _counted(self.label, LABEL_BYTES_MAX) + _counted(self.release, RELEASE_BYTES_MAX)
        if site_keys is not None:
            data += site_keys.tag
            data += _seal(site_keys, data)
        return data + key.sign(_SIGNED + data)

    @classmethod
    def decode(cls, data: bytes) -> "BeaconPacket":
        """Read a beacon; whether it is sealed and signed rightly is not looked at.

        Raises:
            MalformedBeacon: It is none, names a first thing wrong with it (the sender's fault).
        """
        if len(data) > PACKET_BYTES_MAX:
            raise MalformedBeacon("long", f"a beacon has at most {PACKET_BYTES_MAX} bytes, this one more")
        if data[: len(_MAGIC)] != _MAGIC:
            raise MalformedBeacon("magic", "not a beacon: it does not begin with ATL")
        if data[len(_MAGIC) : len(_MAGIC) + 1] not in (b"", bytes([VERSION])):
            raise MalformedBeacon("version", f"a beacon of version {data[len(_MAGIC)]}; only {VERSION} is spoken here")
        if len(data) < _BYTES_MIN:
            raise MalformedBeacon("short", f"a beacon has at least {_BYTES_MIN} bytes, this one {len(data)}")
        _, _, flags, port, boot, sequence, node = _HEAD.unpack_from(data)
        if flags & ~_MEMBER:
            raise MalformedBeacon("flags", f"a beacon has flags {flags:#x}; only {_MEMBER:#x} is known")
        if not port:
            raise MalformedBeacon("port", "a beacon tells port 0, where nobody can be dialled")
        label, at = _text(data, _HEAD.size, LABEL_BYTES_MAX)
        release, at = _text(data, at, RELEASE_BYTES_MAX)
        tag = data[at : at + _TAG_BYTES] if flags & _MEMBER else b""
        end = at + (_TAG_BYTES + _HMAC_BYTES if flags & _MEMBER else 0) + SIGNATURE_BYTES
        if end != len(data):
            raise MalformedBeacon("length", f"a beacon's parts have {end} bytes, but it has {len(data)}")
        return cls(NodeId(node), port, boot, sequence, label, release, tag)


_decode = lru_cache(DECODED_MAX)(BeaconPacket.decode)
"""The same bytes come once for each interface and family."""


def _counted(text: str, bytes_max: int) -> bytes:
    """Write a text behind its length, without what cannot be shown, cut between two characters."""
    shown = printable(text, " ")
    raw = shown.encode(errors="replace")[:bytes_max].decode(errors="ignore").encode()
    return bytes([len(raw)]) + raw


def _text(data: bytes, at: int, bytes_max: int) -> tuple[str, int]:
    # There is a byte at `at`: the shortest packet has both lengths, and the label must leave one for the second.
    if data[at] > bytes_max:
        raise MalformedBeacon("text", f"a text in a beacon has {data[at]} bytes, {bytes_max} are possible")
    end = at + 1 + data[at]
    if end + SIGNATURE_BYTES > len(data):
        raise MalformedBeacon("length", "a text in a beacon goes beyond its end")
    try:
        text = data[at + 1 : end].decode()
    except UnicodeDecodeError as error:
        raise MalformedBeacon("text", "a text in a beacon is not UTF-8") from error
    if not text.isprintable():
        raise MalformedBeacon("text", "a text in a beacon has characters that cannot be shown")
    return text, end


def _seal(site_keys: SiteKeys, before: bytes) -> bytes:
    return hmac.digest(site_keys.beacon_key, before, "sha256")[:_HMAC_BYTES]


def seal_valid(data: bytes, site_keys: SiteKeys) -> bool:
    """Tell whether a decoded beacon with our tag has the HMAC of our site."""
    end = len(data) - SIGNATURE_BYTES
    start = end - _HMAC_BYTES
    return hmac.compare_digest(data[start:end], _seal(site_keys, data[:start]))


def beacon_signature_valid(data: bytes, node: NodeId) -> bool:
    """Tell whether a decoded beacon is signed by the node it names."""
    return signature_valid(node, _SIGNED + data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:])


class Heard(msgspec.Struct, frozen=True):
    """Somebody said that `peer` takes links at this address: worth a dial, no proof of anything."""

    peer: NodeId
    host: str
    """The address it came from; `%` and the interface follow a link-local one."""
    port: int
    boot: int
    sequence: int
    member_tag: bool
    """It knows our site's secret, or repeats somebody who does."""
    label: str
    release: str


@dataclass(slots=True)
class _Known:
    boot: int
    sequence: int
    data: bytes
    source: str
    heard_at: float
    hosts: set[str] = field(default_factory=set)


class _Bucket:
    """Lets `per_s` things a second pass, and `burst` at once after a rest."""

    __slots__ = ("_at", "_burst", "_left", "_per_s")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._left, self._at = burst, now

    def take(self, now: float) -> bool:
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Table:
    """What was heard of nodes, the one silent for longest first."""

    def __init__(self, size_max: int, per_source_max: int) -> None:
        self._size_max, self._per_source_max = size_max, per_source_max
        self._known: OrderedDict[NodeId, _Known] = OrderedDict()
        self._of_source: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, node: NodeId) -> _Known | None:
        return self._known.get(node)

    def put(self, node: NodeId, known: _Known) -> None:
        self.drop(node)
        self._known[node] = known
        self._of_source[known.source] += 1

    def drop(self, node: NodeId) -> None:
        known = self._known.pop(node, None)
        if known is not None:
            self._of_source[known.source] -= 1
            if not self._of_source[known.source]:
                del self._of_source[known.source]

    def has_room(self, source: str, now: float) -> bool:
        """Tell whether one more of `source` fits, after forgetting one that has fallen silent."""
        if self._of_source[source] >= self._per_source_max:
            return self._forget(next(node for node, known in self._known.items() if known.source == source), now)
        if len(self._known) >= self._size_max:
            return self._forget(next(iter(self._known)), now)
        return True

    def _forget(self, node: NodeId, now: float) -> bool:
        if now - self._known[node].heard_at < FORGET_S:
            return False
        self.drop(node)
        return True


class BeaconEar:
    """Decides about every packet that arrives at one node; see the module."""

    def __init__(self, own: NodeId, boot: int, site_keys: SiteKeys | None) -> None:
        self.own = own
        self.boot = boot
        self.site_keys = site_keys
        self.twin_heard_at: float | None = None
        """When another process beaconed with this node's key: a copied disk, or the node was started twice."""
        self._members = _Table(MEMBERS_MAX, MEMBERS_MAX)
        self._strangers = _Table(STRANGERS_MAX, STRANGERS_PER_SOURCE_MAX)
        self._sources: OrderedDict[str, _Bucket] = OrderedDict()
        self._first_checks: _Bucket | None = None
        self._counts: Counter[str] = Counter()

    def statistics(self) -> dict[str, int]:
        """Count since the start by what became of packets; and how many nodes are remembered."""
        return {
            **dict(sorted(self._counts.items())),
            "members_known": len(self._members),
            "strangers_known": len(self._strangers),
        }

    def hear(self, data: bytes, host: str, now: float) -> Heard | None:
        """Take one packet that came from `host`; None for one that tells nothing new or nothing believable."""
        try:
            packet = _decode(data)
        except MalformedBeacon as error:
            self._counts[f"malformed_{error.kind}"] += 1
            return None
        verdict = self._judge(packet, data, host, now)
        self._counts[verdict] += 1
        if verdict != "heard":
            return None
        member = packet.tag != b"" and self._ours(packet)
        return Heard(packet.node, host, packet.port, packet.boot, packet.sequence, member, packet.label, packet.release)

    def _ours(self, packet: BeaconPacket) -> bool:
        return self.site_keys is not None and packet.tag == self.site_keys.tag

    def _judge(self, packet: BeaconPacket, data: bytes, host: str, now: float) -> str:
        """Give the counter's name: `heard`, or why not."""
        if packet.node == self.own:
            return self._judge_own(packet, data, host, now)
        member = self._ours(packet)
        if member and self.site_keys is not None and not seal_valid(data, self.site_keys):
            return "forged"
        table, other = (self._members, self._strangers) if member else (self._strangers, self._members)
        known = table.get(packet.node) or other.get(packet.node)
        if known is not None and (verdict := self._compare(known, packet, data, host, now)):
            return verdict
        # A member whose signature was checked once goes on under the HMAC alone.
        enough = member and known is not None and known.boot == packet.boot and known is table.get(packet.node)
        refusal = "" if enough else self._refusal(packet, data, host, now, first=known is None)
        if not refusal and table.get(packet.node) is None and not table.has_room(host, now):
            refusal = "limited"
        if refusal:
            return refusal
        other.drop(packet.node)
        table.put(packet.node, _Known(packet.boot, packet.sequence, data, host, now, {host}))
        return "heard"

    @staticmethod
    def _compare(known: _Known, packet: BeaconPacket, data: bytes, host: str, now: float) -> str:
        """Look at the node's last beacon; empty when this one is newer and has to be checked."""
        beat, last = (packet.boot, packet.sequence), (known.boot, known.sequence)
        if beat > last or (packet.boot < known.boot and now - known.heard_at >= FORGET_S):
            return ""
        if beat < last:
            return "replayed"
        # The same beat from another interface: it is proved already if it is the same to the last byte.
        if data != known.data:
            return "forged"
        if host in known.hosts or len(known.hosts) >= HOSTS_MAX:
            return "repeated"
        known.hosts.add(host)
        return "heard"

    def _judge_own(self, packet: BeaconPacket, data: bytes, host: str, now: float) -> str:
        if packet.boot == self.boot:
            return "own"
        if not self._may_check(host, now):
            return "limited"
        if not beacon_signature_valid(data, packet.node):
            return "forged"
        # An earlier start of our own is a replay or still in a buffer; a later one is alive.
        if packet.boot > self.boot:
            self.twin_heard_at = now
            return "twin"
        return "replayed"

    def _refusal(self, packet: BeaconPacket, data: bytes, host: str, now: float, *, first: bool) -> str:
        """Check the signature, if that is still allowed; empty when it is right."""
        if not self._may_check(host, now):
            return "limited"
        if first and not self._ours(packet):
            if self._first_checks is None:
                self._first_checks = _Bucket(FIRST_CHECKS_PER_S, FIRST_CHECKS_PER_S, now)
            if not self._first_checks.take(now):
                return "limited"
        return "" if beacon_signature_valid(data, packet.node) else "forged"

    def _may_check(self, source: str, now: float) -> bool:
        bucket = self._sources.get(source)
        if bucket is None:
            if len(self._sources) >= SOURCES_MAX:
                self._sources.popitem(last=False)
            bucket = self._sources[source] = _Bucket(CHECKS_PER_S, CHECKS_BURST, now)
        self._sources.move_to_end(source)
        return bucket.take(now)
