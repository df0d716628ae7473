"""As much of STUN and TURN as a TCP allocation needs (RFC 8489, 8656 and 6062)."""

import os
import socket
import struct

from atoll.bench.sockets import receive_exactly
from atoll.transport.errors import Refused

MAGIC_COOKIE = 0x2112A442
ALLOCATE, CREATE_PERMISSION, CONNECT, CONNECTION_BIND = 0x0003, 0x0008, 0x000A, 0x000B
SUCCESS_BIT, CLASS_BITS = 0x0100, 0x0110
REQUESTED_TRANSPORT, XOR_PEER_ADDRESS, CONNECTION_ID, ERROR_CODE = 0x0019, 0x0012, 0x002A, 0x0009
TCP = b"\x06\x00\x00\x00"
_HEADER = struct.Struct(">HHI12s")
_ATTRIBUTE = struct.Struct(">HH")
_IPV4 = 1


def peer_address(host: str, port: int) -> bytes:
    """Write an IPv4 address as an XOR-PEER-ADDRESS (RFC 8489, section 14.2)."""
    address = int.from_bytes(socket.inet_aton(host)) ^ MAGIC_COOKIE
    return struct.pack(">BBHI", 0, _IPV4, port ^ (MAGIC_COOKIE >> 16), address)


def request(method: int, attributes: dict[int, bytes]) -> bytes:
    """Write a request with a fresh transaction id."""
    body = b"".join(
        _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) % 4) for kind, value in attributes.items()
    )
    return _HEADER.pack(method, len(body), MAGIC_COOKIE, os.urandom(12)) + body


def attributes_of(body: bytes) -> dict[int, bytes]:
    """Take a message's attributes apart."""
    found, offset = {}, 0
    while offset + _ATTRIBUTE.size <= len(body):
        kind, length = _ATTRIBUTE.unpack_from(body, offset)
        found[kind] = body[offset + _ATTRIBUTE.size : offset + _ATTRIBUTE.size + length]
        offset += _ATTRIBUTE.size + length + (-length % 4)
    return found


def ask(sock: socket.socket, method: int, attributes: dict[int, bytes]) -> dict[int, bytes]:
    """Send a request, and read exactly its answer: what follows may be somebody's bytes.

    Raises:
        Refused: The server answered with an error.
        Unreachable: It closed the connection.
    """
    sock.sendall(request(method, attributes))
    while True:
        kind, length, _, _ = _HEADER.unpack(receive_exactly(sock, _HEADER.size))
        found = attributes_of(receive_exactly(sock, length))
        if kind & ~CLASS_BITS != method:
            # An indication about another peer.
            continue
        if kind & CLASS_BITS != SUCCESS_BIT:
            raise Refused(f"the TURN server said no: {found.get(ERROR_CODE, b'')[4:].decode(errors='replace')}")
        return found
