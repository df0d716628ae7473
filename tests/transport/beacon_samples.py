"""Nodes, sites, and beacons good and bad."""

from atoll.transport.beacon_packet import (
    PACKET_BYTES_MAX,
    BeaconPacket,
)
from atoll.transport.keys import NodeKey, SiteKeys

OWN, PEER, OTHER = (NodeKey(bytes([number]) * 32) for number in (1, 2, 3))
SITE, ELSEWHERE = SiteKeys(b"s" * 32), SiteKeys(b"e" * 32)


def beacon(key=PEER, site=SITE, *, sequence=1, boot=1000, port=8085, label="tv", release="0.1.0"):
    return BeaconPacket(key.node_id, port, boot, sequence, label, release).encode(key, site)


def changed(data, at, value):
    return data[:at] + bytes([value]) + data[at + 1 :]


LABEL_AT = 51
BAD = {
    "short": beacon()[:100],
    "long": beacon() + bytes(PACKET_BYTES_MAX),
    "magic": b"GET" + beacon()[3:],
    "version": changed(beacon(), 3, 2),
    "flags": changed(beacon(), 4, 0x81),
    "port": changed(changed(beacon(), 5, 0), 6, 0),
    "text": changed(beacon(), LABEL_AT, 255),
    "length": beacon() + b"!",
}
