"""The bytes of the hand-over's messages and records: they are the protocol, and what is on people's disks."""

from pathlib import Path

import msgspec
import pytest

from atoll.actors.elector.score import Score
from atoll.actors.hand_over import messages as hand_over
from atoll.actors.hand_over import site_messages
from atoll.actors.hand_over.messages import MESSAGES, Entry, Position
from atoll.actors.placement.messages import Placed
from atoll.testing.elections import simulated_node
from atoll.transport.codec import Codec, decode_special, encode_special

GOLDEN = Path(__file__).parent.parent / "golden" / "hand_over.txt"
A, B, C = (simulated_node(number) for number in range(3))
FENCE = ("boiler", 7, 4242)
STORED = (*FENCE, 99)
AT = Position(6, 41)
HERE, THERE = Placed(7, A, (A, B, C)), Placed(8, B, (A, B, C))
ENTRIES = (Entry(7, 42, operation=b"Boiler"), Entry(7, 43, 5, 1, b"warm", b"21", 4))
CALL = ("boiler", 5, 1)
DIGEST = bytes(range(32))
SITE_EXAMPLES = (
    site_messages.HostHere(Score(mains=True), ("Boiler",), (site_messages.ActorOwned("boiler", 7, "Boiler"),), True),
    site_messages.MoveAdvised("boiler", 7, B),
    site_messages.OwnerDoubted("boiler"),
    site_messages.DescribeHosting(),
    site_messages.HostingDescribed(
        (site_messages.HostedActor("boiler", "Boiler", HERE, "waiting", "asks", 12.5, (C,)),)
    ),
)
EXAMPLES = (
    *SITE_EXAMPLES,
    hand_over.Seal(*FENCE, founds=True, kind="Boiler"),
    hand_over.Sealed(*STORED, True, AT, 6, "Boiler"),
    hand_over.ReadLog(*STORED, 0, 41),
    hand_over.LogPart(*STORED, AT, Position(7, 43), 1, 1, b"", ENTRIES),
    hand_over.Append(*STORED, AT, ENTRIES, True),
    hand_over.Install(*STORED, AT, DIGEST, 0, 1, b"state"),
    hand_over.Appended(*STORED, 43, True, False, Position(7, 43)),
    hand_over.Installed(*STORED, AT, 1),
    hand_over.Fenced(*FENCE, 8),
    hand_over.NotSealed(*FENCE),
    hand_over.StoreFull(*STORED, True, "compact it"),
    hand_over.MayMove("boiler", "Boiler"),
    hand_over.MoveWelcome("boiler", "not known here"),
    hand_over.OfferState("boiler", 3, "Boiler", HERE, THERE, AT, DIGEST, 2, b"st"),
    hand_over.StatePart("boiler", 3, 1, b"ate"),
    hand_over.StatePartTaken("boiler", 3, 2, True),
    hand_over.StateDeclined("boiler", 3, "not known here"),
    hand_over.TakePlace("boiler", THERE, 3, 12.5),
    hand_over.StoresWanted("boiler", (A, B, C), (A, B)),
    hand_over.LogDoubted("boiler"),
    hand_over.MayForget("boiler", 8),
    hand_over.Forget("boiler", 8),
    hand_over.RemovalWanted("boiler", 5),
    hand_over.RemovalEnded("boiler", "it is elsewhere"),
    hand_over.Call(*CALL, b"warm", 6),
    hand_over.CallAnswered(*CALL, b"21", 7),
    hand_over.CallDeferred(*CALL, 20, "it is about to move"),
    hand_over.CallRedirected(*CALL, THERE),
    hand_over.CallRefused(*CALL, "over", True, 7),
    hand_over.MoveWanted("boiler", B),
    hand_over.MoveEnded("boiler", B, 12.5, ""),
)
RECORDS = (
    hand_over.LogBegun("boiler", 99, True, "Boiler"),
    hand_over.GenerationSealed(*FENCE),
    hand_over.EntriesKept("boiler", 41, ENTRIES),
    hand_over.SnapshotPart("boiler", AT, 0, 1, b"state"),
    hand_over.LogLost("boiler", "no record at byte 0 of 7"),
    hand_over.FoundingsOver("", 9),
    hand_over.StateKept("boiler", "Boiler", 3, THERE, AT, DIGEST, 0, 1, b"state"),
)
CODEC = Codec([*MESSAGES, *site_messages.MESSAGES])


def golden():
    return dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())


def written():
    messages = {type(each).__name__: CODEC.encode(each).hex() for each in EXAMPLES}
    return messages | {
        type(each).__name__: msgspec.msgpack.encode(each, enc_hook=encode_special).hex() for each in RECORDS
    }


def test_every_message_and_record_of_the_hand_over_has_its_golden_bytes():
    assert {type(each) for each in EXAMPLES} == {*MESSAGES, *site_messages.MESSAGES}
    assert {type(each) for each in RECORDS} == {*hand_over.STORE_RECORDS, *hand_over.HOST_RECORDS}
    assert written() == golden()


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_golden_bytes_are_read_as_what_was_written(message):
    assert CODEC.decode(bytes.fromhex(golden()[type(message).__name__])) == message


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_what_was_written(record):
    data = bytes.fromhex(golden()[type(record).__name__])
    assert msgspec.msgpack.decode(data, type=type(record), dec_hook=decode_special) == record
