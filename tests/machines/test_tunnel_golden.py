"""The bytes of what TunnelRelays say to each other: nodes of different versions ask for bearers and connections."""

from pathlib import Path

import pytest

from atoll.actors.tunnel_relay.messages import (
    MESSAGES,
    BearerHalf,
    BearerOffered,
    BearerRequest,
    DirectOffered,
    DirectRequest,
    PunchAgreed,
    PunchCandidate,
    PunchRequest,
    SpareWanted,
)
from atoll.actors.tunnel_relay.relay_address import WebDoor
from atoll.transport.codec import Codec
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

GOLDEN = Path(__file__).parent.parent / "golden" / "tunnel_relay.txt"
CODEC = Codec(MESSAGES)
RELAY, OTHER = NodeId(b"r" * 32), NodeId(b"o" * 32)
WEB = WebDoor(443, b"f" * 32)
EXAMPLES = (
    BearerRequest(),
    BearerRequest(("relay-1",)),
    SpareWanted(),
    BearerOffered(RELAY, "relay-1", "relay-1.example", 8089, b"t" * 150, 2**31, None),
    BearerOffered(
        RELAY,
        "",
        "10.0.0.1",
        8089,
        b"t",
        2**31,
        BearerHalf(OTHER, "relay-2", "relay-2.example", 8089, b"s", WEB),
        1.5e9,
        WEB,
    ),
    DirectRequest("192.168.1.5"),
    DirectOffered(40_000, b"t" * 16),
    PunchRequest(b"i" * 16, 2, (PunchCandidate(bytes([203, 0, 113, 9]), 40_000),)),
    PunchAgreed(b"r" * 16, 3, (PunchCandidate(bytes([203, 0, 113, 9]), 40_000), PunchCandidate(bytes(15) + b"\1", 1))),
)


def golden():
    return [line.split(" = ") for line in GOLDEN.read_text().splitlines()]


def test_every_message_of_a_tunnel_relay_has_its_golden_bytes():
    assert {type(message) for message in EXAMPLES} == set(MESSAGES)
    assert [[type(message).__name__, CODEC.encode(message).hex()] for message in EXAMPLES] == golden()


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_golden_bytes_are_read_as_what_was_written(number):
    assert CODEC.decode(bytes.fromhex(golden()[number][1])) == EXAMPLES[number]


@pytest.mark.parametrize(
    "hostile",
    [
        DirectRequest("x" * 300),
        DirectRequest(""),
        DirectOffered(0, b"t"),
        DirectOffered(70_000, b"t"),
        DirectOffered(1, b""),
        DirectOffered(1, b"t" * 256),
        BearerOffered(RELAY, "", "10.0.0.1", 8089, b"t", 2**31, None, 0.0, WebDoor(0, b"f" * 32)),
        BearerOffered(RELAY, "", "10.0.0.1", 8089, b"t", 2**31, None, 0.0, WebDoor(443, b"f" * 31)),
    ],
    ids=repr,
)
def test_impossible_addresses_and_tickets_are_refused(hostile):
    data = CODEC.encode(hostile)
    with pytest.raises(MalformedFrame):
        CODEC.decode(data)
