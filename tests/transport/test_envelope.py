"""Envelopes: what comes back, and that no bytes of a peer's do worse than being malformed."""

import struct

import msgspec
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.transport.envelope import (
    HEADER_BYTES_MAX,
    PATH_CHARACTERS_MAX,
    VERSION,
    Envelope,
    Fence,
    Header,
    Kind,
    decode_envelope,
    encode_envelope,
)
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

HERE, THERE = NodeId(b"h" * 32), NodeId(b"t" * 32)


def header(**more):
    return Header(
        **{"version": VERSION, "kind": Kind.ASK, "source_node": HERE, "source_path": "a", "target_node": THERE}
        | {"target_path": "b"}
        | more
    )


def framed(raw, body=b""):
    return struct.pack(">H", len(raw)) + raw + body


@pytest.mark.parametrize("fence", [None, Fence("elector", 7)])
def test_an_envelope_comes_back_as_it_was_sent(fence):
    sent = Envelope(header(correlation=b"c" * 16, deadline_ms=5000, traceparent="00-ab", fence=fence), b"body")
    assert decode_envelope(encode_envelope(sent)) == sent


def test_fields_of_later_versions_are_passed_over():
    fields = msgspec.msgpack.decode(encode_envelope(Envelope(header(), b""))[2:])
    assert decode_envelope(framed(msgspec.msgpack.encode([*fields, "new"]))).header == header()


def test_an_unknown_version_is_named_whatever_its_fields_are():
    with pytest.raises(MalformedFrame, match="version 2 is not spoken here, only 1"):
        decode_envelope(framed(msgspec.msgpack.encode([2, {"nothing": "known"}])))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x00", "shorter than its length field"),
        (struct.pack(">H", 9) + b"short", "announces a header of 9 bytes and has 5"),
        (framed(bytes(HEADER_BYTES_MAX + 1)), "announces a header"),
        (framed(b"\x9a\xa1\xff" + b"\xc0" * 9), "not an envelope header"),
        (encode_envelope(Envelope(header(target_path="p" * (PATH_CHARACTERS_MAX + 1)), b"")), "actor path"),
    ],
    ids=["no length", "cut off", "too long", "a version that is no text", "a path without end"],
)
def test_what_is_wrong_with_an_envelope_is_said(data, why):
    with pytest.raises(MalformedFrame, match=why):
        decode_envelope(data)


@settings(max_examples=examples(100))
@given(st.lists(st.tuples(st.integers(2, 90), st.integers(0, 255)), min_size=1, max_size=5), st.binary(max_size=80))
def test_no_bytes_of_a_peer_do_worse_than_being_malformed(changes, noise):
    altered = bytearray(encode_envelope(Envelope(header(), b"body")))
    for place, byte in changes:
        altered[place % len(altered)] = byte
    for data in (bytes(altered), noise, framed(noise), framed(b"\x9a" + noise)):
        try:
            decode_envelope(data)
        except MalformedFrame:
            continue
