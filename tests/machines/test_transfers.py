"""Transfers of images: whatever sources do, what is complete is the image."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.image_exchange import transfer as module
from atoll.actors.image_exchange.messages import CHUNK_BYTES, SOURCES_MAX
from atoll.actors.image_exchange.transfer import FAILURES_MAX, Append, Ask, Complete, GiveUp, StartOver, Transfer
from atoll.transport.identity import NodeId

A, B, C = (NodeId(bytes([number]) * 32) for number in (1, 2, 3))
CHUNK = 8


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", CHUNK)


def image_of(chunks, tail=3):
    return b"".join(bytes([number]) * CHUNK for number in range(chunks)) + b"x" * tail


def chunk_of(image, offset):
    data = image[offset : offset + CHUNK]
    return data, offset + len(data) >= len(image)


def carry(transfer, answers, steps_max=2000):
    """Carry a transfer out; `answers[source](offset)` gives (data, last) or a text for a failure."""
    written, asked = b"", []
    todo = transfer.start()
    for _ in range(steps_max):
        transfer.check()
        effect, *todo = todo
        match effect:
            case Append(data):
                written += data
            case StartOver():
                written = b""
            case Complete(size):
                assert size == len(written)
                assert not todo
                return written, asked
            case GiveUp(reasons):
                assert not todo
                return reasons, asked
            case Ask(source, offset):
                assert offset == len(written), "what is asked for follows what is written"
                assert offset < transfer._bytes_max, "no archive has such a byte, so no member may be asked for it"
                asked.append((source, offset))
                answer = answers[source](offset)
                if isinstance(answer, str):
                    todo = [*todo, *transfer.failed(answer, for_good=answer == "not there")]
                else:
                    todo = [*todo, *transfer.take(answer[0], last=answer[1])]
    raise AssertionError("it never ends")


def transfer_of(image, *sources, **more):
    return Transfer(hashlib.sha256(image).digest(), sources, **more)


def honest(image):
    return lambda offset: chunk_of(image, offset)


def failing_at(image, *calls, why="no answer"):
    left = iter(range(1000))
    return lambda offset: why if next(left) in calls else chunk_of(image, offset)


@pytest.mark.parametrize("image", [b"x", image_of(1, 0), image_of(3, 0), image_of(3, 1)], ids=len)
def test_an_archive_comes_chunk_by_chunk(image):
    written, asked = carry(transfer_of(image, A), {A: honest(image)})
    assert written == image
    assert [offset for _, offset in asked] == list(range(0, len(image), CHUNK))


def test_a_source_that_dies_in_the_middle_is_followed_by_another_one_at_the_same_offset():
    image = image_of(4)
    written, asked = carry(transfer_of(image, A, B), {A: failing_at(image, *range(2, 100)), B: honest(image)})
    assert written == image
    assert asked == [(A, 0), (A, 8), (A, 16), (B, 16), (B, 24), (B, 32)]


def test_a_source_that_fails_now_and_then_is_asked_again():
    image = image_of(4)
    written, _ = carry(transfer_of(image, A), {A: failing_at(image, 1, 3)})
    assert written == image


def test_who_does_not_have_it_is_asked_once():
    image = image_of(2)
    reasons, asked = carry(transfer_of(image, A, B), {A: lambda _: "not there", B: lambda _: "no answer"})
    assert reasons == ((A, "not there"), (B, "no answer"))
    assert [source for source, _ in asked] == [A, *[B] * FAILURES_MAX]


LIES = {
    "empty": lambda image: lambda offset: (b"", offset > 8),
    "too long": lambda image: lambda offset: (b"x" * (CHUNK + 1), False),
    "dripping": lambda image: lambda offset: (image[offset : offset + 1], False),
    "endless": lambda image: lambda offset: (b"x" * CHUNK, False),
    "another image": lambda image: honest(b"y" * len(image)),
    "cut off": lambda image: lambda offset: (image[offset : offset + CHUNK], True),
    "one bit": lambda image: lambda offset: (bytes([image[offset] ^ 1]) + chunk_of(image, offset)[0][1:], offset >= 24),
}


@pytest.mark.parametrize("lie", LIES)
def test_who_gives_something_else_is_struck_off_and_the_next_gives_all_of_it(lie):
    image = image_of(3)
    transfer = transfer_of(image, A, B, bytes_max=1024)
    written, asked = carry(transfer, {A: LIES[lie](image), B: honest(image)})
    assert written == image
    assert transfer.liars == [A]
    assert [offset for source, offset in asked if source == B] == [0, 8, 16, 24]
    assert len(asked) < 200


@pytest.mark.parametrize("lie", LIES)
def test_where_all_lie_nothing_is_complete(lie):
    image = image_of(3)
    reasons, _ = carry(transfer_of(image, A, bytes_max=1024), {A: LIES[lie](image)})
    assert [node for node, _ in reasons] == [A]


def test_bytes_of_several_that_do_not_fit_are_given_again_by_one_alone():
    image = image_of(3)

    def liar(offset):
        return (b"y" * CHUNK, False) if offset == 0 else "no answer"

    transfer = transfer_of(image, A, B)
    written, asked = carry(transfer, {A: liar, B: honest(image)})
    assert written == image
    assert transfer.liars == [], "nobody knows which of the two it was"
    assert asked[-4:] == [(B, 0), (B, 8), (B, 16), (B, 24)]


@pytest.mark.parametrize("end", ["not there", (b"", True), (b"x", True)], ids=["declined", "empty", "short"])
def test_who_is_asked_beyond_its_end_because_another_one_lied_is_not_struck_off(end):
    image = image_of(0, 3)

    def liar(offset):
        return (b"y" * CHUNK, False) if offset == 0 else "no answer"

    def told_beyond_its_end(offset):
        return chunk_of(image, offset) if offset == 0 else end

    transfer = transfer_of(image, A, B)
    written, _ = carry(transfer, {A: liar, B: told_beyond_its_end})
    assert written == image
    assert transfer.liars == []


def test_no_more_sources_are_asked_than_the_limit_says():
    sources = [NodeId(bytes([number]) * 32) for number in range(20)]
    _, asked = carry(transfer_of(b"x", *sources), dict.fromkeys(sources, lambda _: "not there"))
    assert [source for source, _ in asked] == sources[:SOURCES_MAX]


def test_a_chunk_is_a_quarter_of_a_mebibyte():
    assert CHUNK_BYTES == 256 * 1024


def test_nobody_to_ask_is_said_at_once():
    assert Transfer(b"d" * 32, []).start() == [GiveUp(())]


MOVES = st.one_of(
    st.just("right"),
    st.sampled_from(["no answer", "not there"]),
    st.tuples(st.binary(max_size=CHUNK + 2), st.booleans()),
)


@given(
    image=st.binary(min_size=1, max_size=6 * CHUNK),
    moves=st.lists(st.lists(MOVES, max_size=12), min_size=1, max_size=4),
    steady=st.booleans(),
)
def test_whatever_sources_do_what_is_complete_is_the_image_and_one_honest_source_is_enough(image, moves, steady):
    module.CHUNK_BYTES = CHUNK
    sources = [NodeId(bytes([number]) * 32) for number in range(len(moves) + 1)]

    def wild(script):
        left = iter(script)

        def answer(offset):
            move = next(left, "not there")
            return chunk_of(image, offset) if move == "right" and offset < len(image) else move

        return lambda offset: "no answer" if (found := answer(offset)) == "right" else found

    answers = {source: wild(script) for source, script in zip(sources, moves, strict=False)}
    answers[sources[-1]] = honest(image) if steady else lambda _: "no answer"
    outcome, asked = carry(transfer_of(image, *sources, bytes_max=8 * CHUNK), answers)
    if steady:
        assert outcome == image
    else:
        assert outcome == image or isinstance(outcome, tuple)
    assert len(asked) <= 300
