"""The bytes of the placement's messages and records: they are the protocol, and what is on people's disks."""

from pathlib import Path

import msgspec
import pytest

from atoll.actors.placement.messages import (
    ACTORS_MAX,
    MESSAGES,
    STORES_MAX,
    Accepted,
    ActorPlace,
    Amnesia,
    Committed,
    FindPlace,
    ListPlaces,
    Outbid,
    Placed,
    PlaceFound,
    PlacesListed,
    PlaceSwapped,
    Prepare,
    Prepared,
    Promised,
    RemovePlace,
    SwapPlace,
    Write,
    Written,
)
from atoll.testing.elections import simulated_node
from atoll.transport.codec import Codec, decode_special, encode_special
from atoll.transport.errors import MalformedFrame

GOLDEN = Path(__file__).parent.parent / "golden" / "placement.txt"
A, B, C = (simulated_node(number) for number in range(3))
FIRST, SECOND = Placed(1, A, (A, B, C)), Placed(2, B, (A, B, C))
TABLE = (ActorPlace("ledger", SECOND, 1),)
ACCEPTED = Accepted(7, 12, 1, 3, TABLE, 5)
EXAMPLES = (
    FindPlace("ledger"),
    PlaceFound("ledger", SECOND, A, founded=1),
    SwapPlace("ledger", FIRST, SECOND),
    PlaceSwapped("ledger", False, SECOND, "its generation is 2, not 1", A),
    RemovePlace("ledger", SECOND),
    ListPlaces(),
    PlacesListed(TABLE, A, "", 3),
    Prepare(7),
    Prepared(7, ACCEPTED, 4242),
    Write(ACCEPTED, 4242),
    Written(7, 12),
    Outbid(7, 8),
    Committed(7, 12),
)
RECORDS = (ACCEPTED, Promised(7), Amnesia("no record at byte 0 of 7"))
CODEC = Codec(MESSAGES)


def golden():
    return dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())


def test_every_message_of_the_placement_has_its_golden_bytes():
    assert {type(message) for message in EXAMPLES} == set(MESSAGES)
    written = {type(message).__name__: CODEC.encode(message).hex() for message in EXAMPLES}
    records = {type(record).__name__ for record in RECORDS}
    assert written == {name: text for name, text in golden().items() if name not in records}


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_golden_bytes_are_read_as_what_was_written(message):
    assert CODEC.decode(bytes.fromhex(golden()[type(message).__name__])) == message


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_on_disk_keeps_its_bytes(record):
    data = msgspec.msgpack.encode(record, enc_hook=encode_special)
    assert data.hex() == golden()[type(record).__name__]
    assert msgspec.msgpack.decode(data, type=type(record), dec_hook=decode_special) == record


BEYOND = (
    FindPlace(""),
    FindPlace("x" * 65),
    SwapPlace("ledger", None, Placed(0, A)),
    SwapPlace("ledger", None, Placed(1, A, (A,) * (STORES_MAX + 1))),
    Write(Accepted(7, 12, 1, 3, TABLE * (ACTORS_MAX + 1))),
    Prepare(2**53 + 1),
)


@pytest.mark.parametrize("message", BEYOND, ids=lambda message: type(message).__name__)
def test_what_is_beyond_a_limit_is_not_read(message):
    with pytest.raises(MalformedFrame):
        CODEC.decode(CODEC.encode(message))


def test_a_full_table_fits_into_a_message_and_a_record():
    stores = tuple(simulated_node(number) for number in range(STORES_MAX))
    full = tuple(
        ActorPlace(f"{number:03d}" + "ä" * 61, Placed(2**53, A, stores), 2**53) for number in range(ACTORS_MAX)
    )
    assert len(CODEC.encode(Write(Accepted(7, 12, 1, 3, full)))) < 280 * 1024
