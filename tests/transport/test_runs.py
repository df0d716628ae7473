"""Runs: their bytes stay, they say what their messages would have said one by one, and no bytes of a peer's do worse
than being malformed."""

from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from link_ends import Node, Raw, join

from atoll.transport.base import Delivered
from atoll.transport.credit import WINDOW_BYTES, Grant
from atoll.transport.envelope import VERSION, Envelope, Header, Kind, decode_envelope, encode_envelope
from atoll.transport.errors import Congested, MalformedFrame
from atoll.transport.identity import NodeId
from atoll.transport.inbox import BYTES_PER_TURN_MAX, EVENTS_PER_TURN_MAX, Inbox
from atoll.transport.link_frames import (
    BACKLOG_BYTES_MAX,
    BACKLOG_MESSAGES_MAX,
    BATCH_MESSAGES_MAX,
    PIECE_BYTES_MAX,
    Assembly,
    Backlog,
    kind_of,
)
from atoll.transport.runs import (
    RUN_BYTES_MAX,
    RUN_MESSAGE_BYTES_MAX,
    RUN_MESSAGES_MAX,
    Run,
    may_join,
    read_run,
    split_run,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "envelopes.txt"
HERE, THERE = NodeId(b"h" * 32), NodeId(b"t" * 32)
TOLD = Header(VERSION, Kind.TELL, HERE, "a", THERE, "b")
TOLD_ELSEWHERE = Header(VERSION, Kind.TELL, HERE, "a", THERE, "c")
ASKED = Header(VERSION, Kind.ASK, HERE, "", THERE, "b", b"", 5000, "00-ab")
ANSWERED = Header(VERSION, Kind.REPLY, THERE, "b", HERE, "")
SHARED = (TOLD, TOLD_ELSEWHERE, ASKED, ANSWERED)


def envelope(shared, body, number=0):
    """As `wire.py` makes them: each with an id of its own, unless it is a tell."""
    if shared.kind is Kind.TELL:
        return Envelope(shared, body, shared)
    return Envelope(msgspec.structs.replace(shared, correlation=number.to_bytes(16, "big")), body, shared)


def run_of(*envelopes):
    run = Run(envelopes[0])
    assert all(run.take(each) for each in envelopes[1:])
    return run


def plain(envelopes):
    return [Envelope(each.header, each.body) for each in envelopes]


def split(data):
    """Give the envelopes in a message of a link."""
    read = decode_envelope(data)
    return split_run(read.header, *read_run(read)) if read.header.run else [read]


def carried(backlog):
    """Give the messages that come out at the other end, and what their frames cost in credit."""
    assembly, messages, costs = Assembly(), [], 0
    while (frame := backlog.frame()) is not None:
        costs += backlog.frame_cost
        messages += assembly.take(kind_of(frame), frame)
        backlog.sent()
    assert (backlog.bytes, backlog.count) == (0, 0)
    return messages, costs


def test_envelopes_and_runs_keep_their_bytes():
    golden = dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())
    assert {
        "one told": encode_envelope(envelope(TOLD, b"\x01")).hex(),
        "told": run_of(envelope(TOLD, b"\x01"), envelope(TOLD, b"")).encode().hex(),
        "one asked": encode_envelope(envelope(ASKED, b"\x01", 7)).hex(),
        "asked": run_of(envelope(ASKED, b"\x01", 7), envelope(ASKED, b"\x02", 8)).encode().hex(),
        "answered": run_of(envelope(ANSWERED, b"\x01", 7), envelope(ANSWERED, b"\x02", 8)).encode().hex(),
    } == golden


@pytest.mark.parametrize("shared", SHARED)
def test_what_nobody_joins_is_written_as_if_there_were_no_runs(shared):
    backlog, sent = Backlog(), envelope(shared, b"body", 3)
    backlog.put_envelope(sent)
    assert carried(backlog)[0] == [encode_envelope(sent)]


@settings(max_examples=examples(200))
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*SHARED, None]),
            st.one_of(
                st.binary(max_size=30),
                st.integers(0, 2 * RUN_MESSAGE_BYTES_MAX).map(bytes),
                st.just(bytes(PIECE_BYTES_MAX + 1)),
            ),
            st.integers(1, 90),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_what_is_put_into_a_backlog_comes_out_in_the_same_order_whatever_becomes_a_run(said):
    backlog, sent, costs, received = Backlog(), [], 0, []
    for shared, body, times, carry in said:
        for _ in range(times if len(body) < 1000 else 1):
            each = envelope(shared or TOLD, body, len(sent))
            if shared is not None and may_join(each):
                backlog.put_envelope(each)
            else:
                backlog.put(encode_envelope(each))
            sent.append(each)
        if carry:
            messages, cost = carried(backlog)
            received, costs = received + messages, costs + cost
    messages, cost = carried(backlog)
    received += messages
    assert [each for data in received for each in split(data)] == plain(sent)
    # What the other end counts against its window.
    assert costs + cost == sum(len(data) + 128 for data in received)


def test_a_burst_with_one_header_is_a_few_messages_of_a_link():
    backlog = Backlog()
    for number in range(BATCH_MESSAGES_MAX):
        backlog.put_envelope(envelope(ASKED, b"body", number))
    messages, _ = carried(backlog)
    assert [len(split(data)) for data in messages] == [RUN_MESSAGES_MAX] * (BATCH_MESSAGES_MAX // RUN_MESSAGES_MAX)


def test_a_run_has_a_limit_in_bytes_and_takes_nothing_with_another_header():
    body = bytes(RUN_MESSAGE_BYTES_MAX)
    run = Run(envelope(TOLD, body))
    taken = 1
    while run.take(envelope(TOLD, body)):
        taken += 1
    assert taken == RUN_BYTES_MAX // RUN_MESSAGE_BYTES_MAX
    assert len(split(run.encode())) == taken
    again = Header(VERSION, Kind.TELL, HERE, "a", THERE, "b")
    assert not Run(envelope(TOLD, b"")).take(envelope(TOLD_ELSEWHERE, b""))
    assert not Run(envelope(TOLD, b"")).take(Envelope(again, b"", None))
    assert not may_join(envelope(TOLD, body + b"x"))
    assert not may_join(Envelope(TOLD, b""))


def test_a_backlog_of_runs_is_as_full_as_one_of_messages():
    backlog = Backlog()
    for _ in range(BACKLOG_MESSAGES_MAX):
        backlog.put_envelope(envelope(TOLD, b""))
    with pytest.raises(Congested):
        backlog.put_envelope(envelope(TOLD, b""))
    backlog, long = Backlog(), envelope(TOLD, bytes(RUN_MESSAGE_BYTES_MAX))
    while backlog.bytes + RUN_MESSAGE_BYTES_MAX <= BACKLOG_BYTES_MAX:
        backlog.put_envelope(long)
    with pytest.raises(Congested):
        backlog.put_envelope(long)
    messages, _ = carried(backlog)
    assert sum(map(len, messages)) <= BACKLOG_BYTES_MAX


ENOUGH = b"i" * 32


@pytest.mark.parametrize(
    ("header", "body", "why"),
    [
        (TOLD, b"", "not the body of a run"),
        (TOLD, b"\x92\xc4\x00\x80", "not the body of a run"),
        (TOLD, b"\x92\xc4\x00\x91\x01", "not the body of a run"),
        (TOLD, b"\x92\xc4\x00\xdd\xff\xff\xff\xff", "not the body of a run"),
        (TOLD, msgspec.msgpack.encode((b"", [])), "has 1 to 256 messages, not 0"),
        (TOLD, msgspec.msgpack.encode((b"", [b""] * (RUN_MESSAGES_MAX + 1))), "has 1 to 256 messages, not 257"),
        (TOLD, msgspec.msgpack.encode((b"", [bytes(80_000)])), "a run is longer than"),
        (TOLD, msgspec.msgpack.encode((ENOUGH, [b"", b""])), "32 bytes of ids, not 0"),
        (ASKED, msgspec.msgpack.encode((b"", [b"", b""])), "0 bytes of ids, not 32"),
        (ASKED, msgspec.msgpack.encode((ENOUGH, [b""])), "32 bytes of ids, not 16"),
        (ANSWERED, msgspec.msgpack.encode((ENOUGH[1:], [b"", b""])), "31 bytes of ids, not 32"),
        (
            msgspec.structs.replace(ASKED, correlation=bytes(16)),
            msgspec.msgpack.encode((ENOUGH, [b"", b""])),
            "32 bytes of ids",
        ),
    ],
)
def test_what_is_wrong_with_a_run_is_said(header, body, why):
    with pytest.raises(MalformedFrame, match=why):
        read_run(Envelope(header, body))


@settings(max_examples=examples(200))
@given(
    st.sampled_from(SHARED),
    st.lists(st.tuples(st.integers(2, 400), st.integers(0, 255)), min_size=1, max_size=5),
    st.binary(max_size=80),
)
def test_no_bytes_of_a_peer_do_worse_to_a_run_than_being_malformed(shared, changes, noise):
    altered = bytearray(run_of(*(envelope(shared, b"body", number) for number in range(5))).encode())
    for place, byte in changes:
        altered[place % len(altered)] = byte
    head = encode_envelope(Envelope(msgspec.structs.replace(shared, run=True), b""))
    for data in (bytes(altered), head + noise, head + b"\x92\xc4\x00" + noise):
        try:
            found = split(data)
        except MalformedFrame:
            continue
        assert 1 <= len(found) <= RUN_MESSAGES_MAX
        assert not any(each.header.run for each in found)


@pytest.mark.anyio
async def test_a_link_carries_a_burst_as_a_run_and_counts_the_same_at_both_ends():
    async with Node() as node, Node() as friend:
        await join(friend, node)
        sent = [envelope(TOLD, b"%d" % number) for number in range(100)]
        for each in sent[:50]:
            friend.send_envelope(node.id, each)
        friend.send(node.id, encode_envelope(envelope(TOLD_ELSEWHERE, b"between")))
        for each in sent[50:]:
            friend.send_envelope(node.id, each)
        events = [await node.next(Delivered) for _ in range(3)]
        assert [len(split(each.data)) for each in events] == [50, 1, 50]
        assert split(events[0].data) + split(events[2].data) == plain(sent)
        assert friend.count("messages_sent") == node.count("messages_received") == 3
        assert friend.count("bytes_sent") == node.count("bytes_received") == sum(len(each.data) for each in events)


@pytest.mark.anyio
async def test_what_is_said_one_by_one_goes_at_once_and_a_burst_shares_frames_from_its_second_message_on():
    async with Node() as node, Node() as friend:
        await join(friend, node)
        for number, (burst, at_once, in_all) in enumerate(
            ((1, 0, 1), (1, 1, 1), (3, 1, 2), (1, 0, 1), (1, 1, 1), (2, 1, 2), (5, 0, 1), (1, 0, 1))
        ):
            before = friend.count("messages_sent")
            for _ in range(burst):
                friend.send_envelope(node.id, envelope(TOLD, b"%d" % number))
            assert friend.count("messages_sent") - before == at_once, number
            # Also where nothing more goes its turn must be over.
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert friend.count("messages_sent") - before == in_all, number


@pytest.mark.anyio
async def test_a_peer_that_does_not_say_that_it_reads_runs_gets_none():
    async with Node() as node:
        with Raw(node, node.port) as old:
            await old.greet(node)
            sent = [envelope(ANSWERED, b"body", number) for number in range(5)]
            for each in sent:
                node.send_envelope(old.id, each)
            frame = await old.hear()
            assert msgspec.msgpack.decode(frame[1:]) == [encode_envelope(each) for each in sent]


@pytest.mark.anyio
async def test_a_greeting_of_a_node_from_before_runs_is_understood_and_theirs_understands_ours():
    async with Node() as node:
        with Raw(node, node.port) as old:
            fields = msgspec.msgpack.decode(old.hello()[1:])
            await old.say(b"\0" + msgspec.msgpack.encode(fields[:7]))
            ours = msgspec.msgpack.decode((await old.hear())[1:])
            assert ours[7:] == [True]


@pytest.mark.anyio
async def test_who_reads_long_events_gives_the_loop_its_turn_after_a_few():
    inbox, grant, turns = Inbox(), Grant(WINDOW_BYTES, lambda _: True), 0

    async def others():
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        await anyio.lowlevel.checkpoint()
        for _ in range(2):
            before = turns
            for length, count, least in ((BYTES_PER_TURN_MAX // 2, 20, 8), (0, EVENTS_PER_TURN_MAX * 4, 2)):
                inbox.put_messages(HERE, [bytes(length)] * count, grant)
                for _ in range(count):
                    await inbox.take()
                # One less than there are: trio lets who is ready go in any order.
                assert turns - before >= least
                before = turns
        tasks.cancel_scope.cancel()
