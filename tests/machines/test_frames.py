"""The SEP's frames: their bytes stay, and nothing that is none is read as one."""

from pathlib import Path

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.tunnel_relay import frames
from atoll.actors.tunnel_relay.reasons import SENTENCES, Reason
from atoll.transport.bearer import OK, decode_preamble, encode_preamble, encode_refusal, preamble_bytes_missing
from atoll.transport.errors import MalformedFrame, UsageError

GOLDEN = Path(__file__).parent.parent / "golden" / "relay_frames.txt"
LABEL = bytes(range(16))
CIRCUIT = bytes(range(100, 108))
EVENTS = {
    "OK": frames.Accepted(frames.TICKET),
    "REFUSED": frames.Denied(Reason.EXPIRED, Reason.EXPIRED.sentence),
    "INBOUND": frames.Inbound(CIRCUIT, LABEL, b"record"),
    "RETURN": frames.Returned(LABEL, b"record"),
    "UNDELIVERED to a label": frames.Undelivered(Reason.UNKNOWN_LABEL, LABEL),
    "UNDELIVERED to a circuit": frames.Undelivered(Reason.CONGESTED, CIRCUIT),
    "PONG": frames.Pong(),
    "GOING": frames.Going(30),
}
FRAMES = {
    "TICKET": frames.ticket_frame(b"ticket"),
    "LABELS": frames.labels_frame([LABEL, LABEL[::-1]]),
    "LABELS, none": frames.labels_frame([]),
    "CALL": frames.call_frame(LABEL, b"record"),
    "ANSWER": frames.answer_frame(CIRCUIT, b"record"),
    "PING": frames.ping_frame(),
    **{name: frames.event_frame(event) for name, event in EVENTS.items()},
    "bearer preamble": encode_preamble(b"ticket"),
    "bearer OK": OK,
    "bearer NO": encode_refusal(Reason.NO_PARTNER, Reason.NO_PARTNER.sentence),
}


def test_every_frame_keeps_its_bytes():
    golden = dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())
    assert {name: frame.hex() for name, frame in FRAMES.items()} == golden


def test_reasons_keep_their_numbers_and_all_have_a_sentence():
    assert " ".join(reason.name for reason in sorted(Reason)) == (
        "MALFORMED NO_TICKET EXPIRED FOREIGN_ISSUER FOREIGN_RELAY FORGED WRONG_ROLE FOREIGN_HOLDER OVER_QUOTA FULL "
        "DRAINING REPLACED NO_PARTNER UNKNOWN_LABEL UNKNOWN_CIRCUIT CONGESTED TOO_SLOW TOO_LONG CLOSED TOO_MANY"
    )
    assert set(SENTENCES) == set(Reason)
    assert len(set(SENTENCES.values())) == len(Reason)
    assert max(len(sentence.encode()) for sentence in SENTENCES.values()) <= frames.SENTENCE_BYTES_MAX


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_what_a_relay_says_is_read_back(event):
    assert frames.read_event(frames.event_frame(event)) == event


@settings(max_examples=examples(300))
@given(st.binary(max_size=64) | st.sampled_from([f for f in FRAMES.values() if f[0] > 0x80]).map(lambda f: f[:-1]))
def test_whatever_is_read_as_a_frame_writes_the_same_bytes_again(data):
    try:
        event = frames.read_event(data)
    except MalformedFrame:
        return
    if not isinstance(event, frames.Denied):  # its sentence may have lost what is no UTF-8
        assert frames.event_frame(event) == data


@pytest.mark.parametrize(
    "write",
    [
        lambda: frames.ticket_frame(b""),
        lambda: frames.ticket_frame(bytes(256)),
        lambda: frames.labels_frame([b"short"]),
        lambda: frames.labels_frame([LABEL] * (frames.LABELS_PER_REGISTRATION_MAX + 1)),
        lambda: frames.call_frame(CIRCUIT, b"record"),
        lambda: frames.call_frame(LABEL, b""),
        lambda: frames.call_frame(LABEL, bytes(frames.RECORD_BYTES_MAX + 1)),
        lambda: frames.answer_frame(LABEL, b"record"),
        lambda: encode_preamble(b""),
        lambda: encode_preamble(bytes(256)),
    ],
)
def test_a_frame_that_no_relay_would_take_is_not_written(write):
    with pytest.raises(UsageError):
        write()


@given(st.binary(min_size=1, max_size=255), st.integers(0, 300))
def test_a_preamble_says_exactly_how_much_of_it_is_missing(ticket, cut):
    whole = encode_preamble(ticket)
    part = whole[:cut]
    missing = preamble_bytes_missing(part)
    assert missing <= len(whole) - len(part)
    assert (missing == 0) == (part == whole)
    if part == whole:
        assert decode_preamble(part) == ticket
    else:
        with pytest.raises(MalformedFrame, match="lacks"):
            decode_preamble(part)


@given(st.binary(min_size=1, max_size=300))
def test_no_bytes_crash_the_preamble_reader(data):
    try:
        ticket = decode_preamble(data)
    except MalformedFrame:
        return
    assert encode_preamble(ticket) == data
