"""Links over ZeroMQ: frames that break the protocol, and messages without end."""

import contextlib

import msgspec
import pytest
from link_ends import (
    Node,
    Raw,
    join,
    valve,
)

from atoll.transport.base import Delivered, LinkDown, LinkUp
from atoll.transport.credit import (
    NEIGHBOUR_WINDOW_BYTES,
    WINDOW_BYTES,
    WINDOW_BYTES_MAX,
)
from atoll.transport.keys import NodeKey
from atoll.transport.link_frames import (
    BATCH_MESSAGES_MAX,
    PIECE_BYTES_MAX,
    bye_frame,
    ready_frame,
)
from atoll.transport.zeromq import FRAME_LENGTH_MAX

pytestmark = pytest.mark.anyio


async def test_who_chooses_its_own_name_is_cut_and_takes_nobodys_place():
    async with Node() as node:
        with Raw(node, node.port, routing_id=b"chosen") as raw, Raw(node, node.port) as honest:
            await honest.greet(node)
            await raw.say(raw.hello())
            await node.until(names_refused=1, connections=1)
            (name,) = node._accepted
            assert name[:1] == b"\0"
            node.send(honest.id, b"for you")
            assert msgspec.msgpack.decode((await honest.hear())[1:]) == [b"for you"]


AFRESH = [
    ("nothing", [b""], "is empty, or came in several parts"),
    ("unknown kind", [b"\x09"], "unknown kind 9"),
    ("another protocol", [b"GET / HTTP/1.1\r\n\r\n"], "unknown kind 71"),
    ("HELLO without body", [b"\0"], "does not have the form"),
    ("HELLO that is garbage", [b"\0" + bytes(range(200, 256)) * 20], "does not have the form"),
    ("HELLO nested deeply", [b"\0" + b"\x91" * 100_000], "does not have the form"),
    ("HELLO that promises 4 GiB", [b"\0\x95\x01\xc6\xff\xff\xff\xff"], "does not have the form"),
    ("another version", [lambda raw: raw.hello(version=1)], "speaks version 1 of links, this one 2: update one"),
    ("label too long", [lambda raw: raw.hello(label="x" * 65)], "64 printable characters"),
    ("label of control characters", [lambda raw: raw.hello(label="\x1b[2J")], "64 printable characters"),
    ("credential too long", [lambda raw: raw.hello(credential=bytes(4097))], "wrong length"),
    ("boot id too short", [lambda raw: raw.hello(boot=b"123")], "wrong length"),
    ("somebody else's id", [lambda raw: raw.hello(node=NodeKey.generate().node_id)], "not that of the key"),
    ("an id that is no key", [lambda raw: raw.hello(node=type(raw.id)(b"\xff" * 32))], "not a point of Ed25519"),
    ("READY first", [ready_frame(WINDOW_BYTES)], "must be HELLO"),
    ("a message first", [b"\x02\x91\xc4\x01x"], "must be HELLO"),
    ("a piece first", [b"\x03piece"], "must be HELLO"),
    ("HELLO twice", [Raw.hello, Raw.hello], "must be READY"),
    ("a message before READY", [Raw.hello, b"\x02\x91\xc4\x01x"], "must be READY"),
    (
        "READY and more",
        [Raw.hello, ready_frame(WINDOW_BYTES) + b"more"],
        "must be READY with its window, and nothing else",
    ),
    ("READY without window", [Raw.hello, b"\x01"], "must be READY with its window"),
    ("too small a window", [Raw.hello, ready_frame(NEIGHBOUR_WINDOW_BYTES - 1)], "a window has 524288 to"),
    ("too large a window", [Raw.hello, ready_frame(WINDOW_BYTES_MAX + 1)], "a window has 524288 to"),
    ("too short a silence", [lambda raw: raw.hello(silence_ms=299)], "300 to 60000 ms"),
    ("too long a silence", [lambda raw: raw.hello(silence_ms=1 << 60)], "300 to 60000 ms"),
]
UP = [
    ("HELLO again", [Raw.hello], "HELLO came where it may not"),
    ("READY again", [ready_frame(WINDOW_BYTES)], "READY came where it may not"),
    ("nothing", [b""], "is empty"),
    ("unknown kind", [b"\xff"], "unknown kind 255"),
    ("numbers for messages", [b"\x02\x92\x01\x02"], "does not have the form"),
    ("a map of messages", [b"\x02\x80"], "does not have the form"),
    ("half a batch", [b"\x02\x92\xc4\x01x"], "does not have the form"),
    ("a batch and more", [b"\x02\x91\xc4\x01x\x00"], "does not have the form"),
    ("too large a batch", [b"\x02" + msgspec.msgpack.encode([b""] * (BATCH_MESSAGES_MAX + 1))], "at most 1024"),
    ("an empty piece", [b"\x03"], "piece of a message is empty"),
    ("an empty last piece", [b"\x03x", b"\x04"], "piece of a message is empty"),
    ("messages between pieces", [b"\x03x", b"\x02\x91\xc4\x01x"], "MESSAGES came where it may not"),
    ("pieces without end", [b"\x03" + bytes(PIECE_BYTES_MAX)] * 3, "than it had credit for"),
    ("a CREDIT of nothing", [b"\x06"], "four bytes"),
    ("a CREDIT too long", [b"\x06" + bytes(5)], "four bytes"),
    ("an ALIVE that says something", [b"\x07hello"], "nothing behind its kind"),
]


async def test_whoever_begins_with_a_wrong_frame_is_told_what_is_wrong_and_counted_and_never_a_link():
    async with Node() as node, Node() as friend:
        await join(friend, node)
        for number, (case, frames, words) in enumerate(AFRESH, 1):
            with Raw(node, node.port) as raw:
                await raw.say(*(each(raw) if callable(each) else each for each in frames))
                assert words in await raw.bye(), case
                assert node.count("malformed_frames") == number, case
        assert node.count("links_up") == 1
        assert node.count("impersonations") == 1
        friend.send(node.id, b"as ever")
        assert (await node.next(Delivered)).data == b"as ever"
        await node.until(connections=1)


async def test_a_link_that_carries_a_wrong_frame_ends_with_the_reason_at_both_ends_and_no_other_does():
    async with Node() as node, Node() as friend:
        await join(friend, node)
        for number, (case, frames, words) in enumerate(UP, 1):
            with Raw(node, node.port) as raw:
                await raw.greet(node)
                await raw.say(b"\x02\x91\xc4\x04good", *(each(raw) if callable(each) else each for each in frames))
                assert await node.next(Delivered) == Delivered(raw.id, b"good")
                down = await node.next(LinkDown)
                assert down.peer == raw.id
                assert words in down.reason, case
                assert words in await raw.bye(), case
                assert node.count("malformed_frames") == number, case
        friend.send(node.id, b"as ever")
        assert (await node.next(Delivered)).data == b"as ever"
        assert node.count("links") == 1


async def test_a_frame_in_several_parts_ends_its_link():
    async with Node() as node:
        for parts in ([b"", b""], [b"\x02\x91\xc4\x01x", b"more"], [b"\x02"] * 50):
            with Raw(node, node.port) as raw:
                await raw.greet(node)
                raw.socket.send_multipart(parts)
                assert "several parts" in (await node.next(LinkDown)).reason


async def test_a_frame_over_zeromqs_limit_is_never_read_and_cuts_its_sender():
    async with Node() as node, Node() as friend:
        await join(friend, node)
        with Raw(node, node.port) as raw:
            await raw.greet(node)
            await raw.say(b"\x02" + bytes(FRAME_LENGTH_MAX))
            assert (await node.next(LinkDown)).peer == raw.id
        assert node.count("bytes_received") == 0
        assert node.count("links") == 1


async def test_a_peer_with_our_own_key_is_refused():
    async with Node() as node:
        with Raw(node, node.port, key=node.key) as raw:
            await raw.say(raw.hello())
            assert "two nodes must not share a key" in await raw.bye()
        assert (node.count("refused_peers"), node.count("links_up")) == (1, 0)


async def test_one_key_has_one_greeting_under_way_however_often_it_dials():
    async with Node() as node:
        key = NodeKey.generate()
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                last = stack.enter_context(Raw(node, node.port, key=key))
                await last.say(last.hello())
                await last.hear()
            await node.until(connections=1)
            await last.say(ready_frame(WINDOW_BYTES))
            assert (await node.next(LinkUp)).peer == key.node_id
            assert node.count("links_up") == 1


async def test_a_reason_that_would_fool_a_terminal_is_made_harmless():
    async with Node() as node:
        with Raw(node, node.port) as raw:
            await raw.greet(node)
            await raw.say(bye_frame("\x1b[2Jbye\r\n\x00" + "x" * 5000))
            reason = (await node.next(LinkDown)).reason
            assert reason.isprintable()
            assert len(reason) < 600


async def test_a_message_without_end_is_cut_before_it_fills_the_memory():
    async with Node() as node, Node() as friend, valve(node.port, there=12_000_000) as port:
        await join(friend, node)
        with Raw(node, port) as raw:
            await raw.greet(node)
            raw.socket.send_multipart([b"\x03" + bytes(1_000_000)] * 30)
            down = await node.next(LinkDown)
            assert down.peer == raw.id
            assert "no whole frame" in down.reason
        assert node.count("flooding_cut") == 1
        friend.send(node.id, b"as ever")
        assert (await node.next(Delivered)).data == b"as ever"


async def test_a_stranger_may_hold_even_less():
    async with Node() as node, valve(node.port, there=200_000) as port:
        with Raw(node, port) as raw:
            raw.socket.send_multipart([bytes(50_000)] * 30)
            await node.until(flooding_cut=1, connections=0)
