"""Asks a server outside which address it sees, and answers that question: the Binding of STUN (RFC 8489), over TCP.

    request    type 0001 | length | magic cookie 2112A442 | transaction 12 | attributes, which are not looked at
    response   type 0101 | length | magic cookie          | transaction 12 | XOR-MAPPED-ADDRESS

Only this much of it: no credentials, no other attributes, no other methods. The address travels XORed (section 14.2)
because some NATs change every address of theirs that they find in what passes. What these bytes say is a hint for
dialling, never a proof of anything: whoever reads it may be lied to.
"""

import struct

from atoll.transport.errors import MalformedFrame
from atoll.transport.tcp_address import TcpAddress

TRANSACTION_BYTES = 12
HEADER = struct.Struct(">HHI12s")
REQUEST, RESPONSE = 0x0001, 0x0101
COOKIE = 0x2112A442
FIRST_BYTE = b"\0"
"""Of every request; no preamble of a bearer begins with it."""
ATTRIBUTES_BYTES_MAX = 128
"""Behind a header: a request of ours has none, others' may say which software they are."""
_XOR_MAPPED_ADDRESS = 0x0020
_ATTRIBUTE = struct.Struct(">HH")
_ADDRESS_HEAD = struct.Struct(">xBH")
_FAMILIES = {1: 4, 2: 16}


def encode_request(transaction: bytes) -> bytes:
    """Ask which address is seen; `transaction` are 12 random bytes, which the answer brings back."""
    return HEADER.pack(REQUEST, 0, COOKIE, transaction)


def bytes_missing(data: bytes, kind: int) -> int:
    """Tell how many more bytes complete the message of that kind begun by `data`; 0 when it is whole.

    Raises:
        MalformedFrame: It can never become one.
    """
    if data[:2] != kind.to_bytes(2, "big")[: len(data[:2])]:
        raise MalformedFrame("not the message of STUN that belongs here")
    if len(data) < HEADER.size:
        return HEADER.size - len(data)
    _, length, cookie, _ = HEADER.unpack_from(data)
    if cookie != COOKIE or length % 4 or length > ATTRIBUTES_BYTES_MAX:
        raise MalformedFrame("a message of STUN without its magic cookie, or of a length that is not taken")
    missing: int = HEADER.size + length - len(data)
    if missing < 0:
        raise MalformedFrame("a message of STUN has bytes behind it")
    return missing


def encode_response(request: bytes, seen: TcpAddress) -> bytes:
    """Answer a whole request with the address that it came from.

    Raises:
        MalformedFrame: It is no whole request.
    """
    transaction = _transaction_of(request, REQUEST)
    address = bytes(a ^ b for a, b in zip(seen.packed, _mask(transaction), strict=False))
    family = 1 if len(address) == 4 else 2
    value = _ADDRESS_HEAD.pack(family, seen.port ^ COOKIE >> 16) + address
    attribute = _ATTRIBUTE.pack(_XOR_MAPPED_ADDRESS, len(value)) + value
    return HEADER.pack(RESPONSE, len(attribute), COOKIE, transaction) + attribute


def decode_response(data: bytes, transaction: bytes) -> TcpAddress:
    """Give the address in a whole response to the request of that transaction.

    Raises:
        MalformedFrame: It is none, or to another request, or holds no address.
    """
    if _transaction_of(data, RESPONSE) != transaction:
        raise MalformedFrame("an answer of STUN to a question that was not asked")
    rest = data[HEADER.size :]
    while len(rest) >= _ATTRIBUTE.size:
        kind, length = _ATTRIBUTE.unpack_from(rest)
        value, rest = rest[_ATTRIBUTE.size :][:length], rest[_ATTRIBUTE.size + length + -length % 4 :]
        if kind == _XOR_MAPPED_ADDRESS and len(value) == length >= _ADDRESS_HEAD.size:
            family, port = _ADDRESS_HEAD.unpack_from(value)
            address = value[_ADDRESS_HEAD.size :]
            if _FAMILIES.get(family) != len(address):
                break
            plain = bytes(a ^ b for a, b in zip(address, _mask(transaction), strict=False))
            return TcpAddress.unpacked(plain, port ^ COOKIE >> 16)
    raise MalformedFrame("an answer of STUN without an address")


def _transaction_of(data: bytes, kind: int) -> bytes:
    if bytes_missing(data, kind):
        raise MalformedFrame("a message of STUN that is not whole")
    found: bytes = HEADER.unpack_from(data)[3]
    return found


def _mask(transaction: bytes) -> bytes:
    return COOKIE.to_bytes(4, "big") + transaction
