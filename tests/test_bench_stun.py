"""What our TURN client writes and reads, without a server."""

import socket
import struct

import pytest

from atoll.bench.peers import stun
from atoll.transport.errors import Refused, Unreachable


@pytest.fixture
def connected():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_an_address_is_written_as_in_the_test_vectors_of_rfc_5769():
    assert stun.peer_address("192.0.2.1", 32853).hex() == "0001a147e112a643"


def test_a_request_has_header_cookie_and_padded_attributes():
    request = stun.request(stun.CONNECT, {stun.CONNECTION_ID: b"four", stun.ERROR_CODE: b"abcde"})
    method, length, cookie = struct.unpack_from(">HHI", request)
    assert (method, length, cookie) == (stun.CONNECT, len(request) - 20, stun.MAGIC_COOKIE)
    assert length % 4 == 0
    assert stun.attributes_of(request[20:]) == {stun.CONNECTION_ID: b"four", stun.ERROR_CODE: b"abcde"}


def test_an_answer_is_read_to_its_last_byte_and_not_one_further(connected):
    ours, theirs = connected
    indication = stun.request(0x001C, {})
    answer = stun.request(stun.CONNECT | stun.SUCCESS_BIT, {stun.CONNECTION_ID: b"0007"})
    theirs.sendall(indication + answer + b"bytes of the other end")
    assert stun.ask(ours, stun.CONNECT, {}) == {stun.CONNECTION_ID: b"0007"}
    assert ours.recv(100) == b"bytes of the other end"


def test_a_no_is_told_with_its_reason_and_silence_is_told_from_it(connected):
    ours, theirs = connected
    theirs.sendall(stun.request(stun.ALLOCATE | 0x0110, {stun.ERROR_CODE: b"\x00\x00\x04\x2aonly UDP here"}))
    with pytest.raises(Refused, match="only UDP here"):
        stun.ask(ours, stun.ALLOCATE, {})
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(Unreachable, match="too early"):
        stun.ask(ours, stun.ALLOCATE, {})
