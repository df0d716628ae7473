"""Questions and answers of STUN: the samples of RFC 5769, and bytes that are none."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.transport import stun
from atoll.transport.errors import MalformedFrame
from atoll.transport.tcp_address import TcpAddress

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
# RFC 5769, sections 2.2 and 2.3: with SOFTWARE in front, MESSAGE-INTEGRITY and FINGERPRINT behind.
SAMPLE_IPV4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
SAMPLE_IPV6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)
ADDRESSES = st.builds(
    lambda ip, port: TcpAddress.parse(str(ip), port),
    st.ip_addresses(),
    st.integers(1, 65_535),
)


@pytest.mark.parametrize(
    ("sample", "host"), [(SAMPLE_IPV4, "192.0.2.1"), (SAMPLE_IPV6, "2001:db8:1234:5678:11:2233:4455:6677")]
)
def test_the_samples_of_rfc_5769_are_read(sample, host):
    assert not stun.bytes_missing(sample, stun.RESPONSE)
    assert stun.decode_response(sample, TRANSACTION) == TcpAddress(host, 32_853)


@given(ADDRESSES, st.binary(min_size=12, max_size=12))
def test_who_asks_is_told_the_address_that_is_seen(seen, transaction):
    request = stun.encode_request(transaction)
    assert not stun.bytes_missing(request, stun.REQUEST)
    answer = stun.encode_response(request, seen)
    assert not stun.bytes_missing(answer, stun.RESPONSE)
    assert stun.decode_response(answer, transaction) == seen


def test_an_address_is_never_on_the_wire_as_it_is():
    seen = TcpAddress.parse("203.0.113.5", 40_000)
    assert seen.packed not in stun.encode_response(stun.encode_request(TRANSACTION), seen)


@given(st.binary(max_size=200))
def test_anything_else_is_malformed_or_not_whole(data):
    for kind in (stun.REQUEST, stun.RESPONSE):
        try:
            missing = stun.bytes_missing(data, kind)
        except MalformedFrame:
            continue
        assert 0 < missing <= stun.HEADER.size + stun.ATTRIBUTES_BYTES_MAX or data[4:8] == stun.COOKIE.to_bytes(4)


@given(st.integers(0, len(SAMPLE_IPV6) - 1), st.integers(0, 255))
def test_a_changed_answer_gives_an_address_or_is_refused(at, value):
    changed = SAMPLE_IPV6[:at] + bytes([value]) + SAMPLE_IPV6[at + 1 :]
    with contextlib.suppress(MalformedFrame):
        assert stun.decode_response(changed, TRANSACTION).port


def test_an_answer_to_another_question_and_one_without_an_address_are_refused():
    with pytest.raises(MalformedFrame, match="not asked"):
        stun.decode_response(SAMPLE_IPV4, bytes(12))
    empty = stun.HEADER.pack(stun.RESPONSE, 0, stun.COOKIE, TRANSACTION)
    with pytest.raises(MalformedFrame, match="without an address"):
        stun.decode_response(empty, TRANSACTION)
    with pytest.raises(MalformedFrame, match="not whole"):
        stun.decode_response(SAMPLE_IPV4[:-1], TRANSACTION)
    with pytest.raises(MalformedFrame, match="bytes behind"):
        stun.bytes_missing(empty + b"x", stun.RESPONSE)
    with pytest.raises(MalformedFrame, match="length"):
        stun.bytes_missing(stun.HEADER.pack(stun.REQUEST, 4096, stun.COOKIE, TRANSACTION), stun.REQUEST)


@pytest.mark.parametrize(
    ("host", "port"), [("relay.example", 1), ("fe80::1%eth0", 1), ("", 1), ("192.0.2.1", 0), ("192.0.2.1", 65_536)]
)
def test_a_name_a_zone_and_no_port_are_no_addresses(host, port):
    with pytest.raises(MalformedFrame):
        TcpAddress.parse(host, port)


def test_an_address_has_one_form():
    assert (
        TcpAddress.parse("::ffff:192.0.2.1", 5) == TcpAddress.parse("192.0.2.1", 5) == TcpAddress.of(("192.0.2.1", 5))
    )
    assert str(TcpAddress.parse("2001:DB8::0:1", 443)) == "[2001:db8::1]:443"
    assert TcpAddress.unpacked(bytes([192, 0, 2, 1]), 7) == TcpAddress("192.0.2.1", 7)
    with pytest.raises(MalformedFrame, match="4 or 16"):
        TcpAddress.unpacked(bytes(5), 7)
