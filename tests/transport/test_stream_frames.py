"""The frames of streams and paths: their bytes stay, and what is cut is refused."""

from pathlib import Path

import pytest

from atoll.testing.stream_fuzz import StreamFuzz
from atoll.transport import stream_frames as frames
from atoll.transport.errors import MalformedFrame
from atoll.transport.stream_frames import PathVerb, StreamVerb

GOLDEN = Path(__file__).parent.parent / "golden" / "stream_frames.txt"
FRAMES = {
    "STREAMS OPEN": frames.text_frame(StreamVerb.OPEN, 2, "echo"),
    "STREAMS DATA": frames.data_head(2, 2**40, 5, last=False) + b"bytes",
    "STREAMS LAST": frames.data_head(2, 2**40 + 5, 0, last=True),
    "STREAMS ACK": frames.answer_frame(StreamVerb.ACK, 2, 2**40 + 6, 2**40 + 65542),
    "STREAMS GAP": frames.answer_frame(StreamVerb.GAP, 1, 0, 65536),
    "STREAMS RESET": frames.text_frame(StreamVerb.RESET, 1, "no such service"),
    "STREAMS GONE": frames.text_frame(StreamVerb.GONE, 1),
    "PATHS OPEN": frames.path_frame(PathVerb.OPEN, 2, [(2, 2**40 + 6), (1, 0)]),
    "PATHS OPENED": frames.path_frame(PathVerb.OPENED, 2, []),
    "PATHS PROBE": frames.probe_frame(PathVerb.PROBE, 2, 7),
    "PATHS ECHO": frames.probe_frame(PathVerb.ECHO, 2, 7),
    "PATHS GONE": frames.probe_frame(PathVerb.GONE, 2, 0),
    "PATHS LEFT": frames.probe_frame(PathVerb.LEFT, 2, 0),
    "PATHS LEAVING": frames.probe_frame(PathVerb.LEAVING, 2, 0),
}


def test_every_frame_keeps_its_bytes():
    golden = dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())
    assert {name: frame.hex() for name, frame in FRAMES.items()} == golden


@pytest.mark.parametrize(
    ("read", "piece", "words"),
    [
        (frames.read_data, bytes(7), "no offset"),
        (frames.read_answer, bytes(17), "two offsets"),
        (frames.read_text, bytes(201), "at most 200"),
        (frames.read_probe, bytes(5), "four bytes"),
        (frames.read_positions, bytes(13), "cut off"),
    ],
)
def test_a_piece_of_a_wrong_length_is_refused(read, piece, words):
    with pytest.raises(MalformedFrame, match=words):
        read(memoryview(piece))


def test_a_text_of_a_stranger_is_fit_to_be_shown():
    assert frames.read_text(memoryview(b"a\x1b[31m\xff")) == "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}"


def test_a_long_reason_is_cut_and_still_read():
    frame = frames.text_frame(StreamVerb.RESET, 0, "\N{EURO SIGN}" * 100)
    text = frames.read_text(memoryview(frame)[frames.HEAD_BYTES :])
    assert text.startswith("\N{EURO SIGN}" * 66)
    assert len(frame) == frames.HEAD_BYTES + frames.TEXT_BYTES_MAX


def test_hostile_frames_find_nothing(enough):
    fuzz = StreamFuzz(3)
    fuzz.run(enough(20_000))
    assert fuzz.findings == []
    assert len(fuzz.fates) > 10, fuzz.fates
