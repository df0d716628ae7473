"""`python -m atoll.testing.capture FILE`: all packets of this network namespace, until it is ended; what is in them.

It says `ready` when it listens. Linux, and the right to open packet sockets (packet(7)).
"""

import socket
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

_HEAD = struct.Struct(">I")
_ETH_P_ALL, _IPV4, _IPV6, _TCP = 3, 0x0800, 0x86DD, 6
PACKET_BYTES_MAX = 1 << 17
"""Segments that the kernel has joined have up to 64 KiB, and headers."""


def write_packets(path: Path) -> None:
    """Write every packet to a file, and never return."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as packets, path.open("wb") as file:
        # So much may come while this process waits for its turn.
        packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
        print("ready", flush=True)  # noqa: T201  # a program's output
        while True:
            packet = packets.recv(PACKET_BYTES_MAX)
            file.write(_HEAD.pack(len(packet)) + packet)
            file.flush()


def flows(path: Path) -> dict[bytes, bytearray]:
    """Give what each direction of each TCP connection said, by addresses and ports."""
    said: dict[bytes, bytearray] = defaultdict(bytearray)
    for packet in _packets(path.read_bytes()):
        if (found := _segment(packet)) is not None:
            said[found[0]] += found[1]
    return said


def found_in(data: bytes | bytearray, marks: Mapping[str, bytes]) -> dict[str, int]:
    """Count the marks that are in there; those that are not have no entry."""
    counts = {name: data.count(mark) for name, mark in marks.items()}
    return {name: count for name, count in counts.items() if count}


def _packets(data: bytes) -> Iterator[bytes]:
    position = 0
    while position + _HEAD.size <= len(data):
        (size,) = _HEAD.unpack_from(data, position)
        position += _HEAD.size + size
        yield data[position - size : position]


def _segment(packet: bytes) -> tuple[bytes, bytes] | None:
    """Give addresses with ports, and payload; None for what is no TCP."""
    kind = int.from_bytes(packet[12:14], "big")
    network = packet[14:]
    if kind == _IPV4 and len(network) > 20 and network[9] == _TCP:
        head, end = (network[0] & 0x0F) * 4, int.from_bytes(network[2:4], "big") or len(network)
        addresses = network[12:20]
    elif kind == _IPV6 and len(network) > 40 and network[6] == _TCP:
        head, end, addresses = 40, len(network), network[8:40]
    else:
        return None
    segment = network[head:end]
    return addresses + segment[:4], segment[(segment[12] >> 4) * 4 :]


if __name__ == "__main__":
    write_packets(Path(sys.argv[1]))
