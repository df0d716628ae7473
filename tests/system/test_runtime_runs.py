"""Runs from another node: whatever is told, asked or answered in one comes to the same end as one by one."""

import contextlib
from functools import partial

import anyio
import anyio.lowlevel
import msgspec
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import until

from atoll.actors.runtime import (
    MESSAGES,
    Actor,
    ActorSystem,
    Address,
    AskCongested,
    AskFailed,
    AskNotUnderstood,
    AskRefused,
    AskUnreachable,
    Fault,
    UserMessage,
    handles,
)
from atoll.transport.base import Standing
from atoll.transport.codec import Codec, Message, encode_payload
from atoll.transport.envelope import VERSION, Envelope, Header, Kind, decode_envelope, encode_envelope
from atoll.transport.identity import NodeId
from atoll.transport.link_frames import Assembly, Backlog, kind_of
from atoll.transport.runs import RUN_MESSAGES_MAX, may_join, read_run

pytestmark = pytest.mark.anyio

HERE, THERE, ELSEWHERE = NodeId(b"h" * 32), NodeId(b"t" * 32), NodeId(b"e" * 32)
SMALL = 4


class Note(Message, frozen=True, array_like=True, tag="test.note"):
    number: int


class Unhandled(Message, frozen=True, array_like=True, tag="test.unhandled"):
    number: int


class Own(msgspec.Struct):
    number: int


CODEC = Codec([Note, Unhandled, *MESSAGES])


class Reader(Actor):
    """Keeps what it reads, with who sent it."""

    def __init__(self):
        self.read = []

    @handles
    async def note(self, message: Note) -> Note:
        self.read.append(message)
        return message

    @handles
    async def own(self, message: Own) -> Own:
        self.read.append(message)
        return message


class Looker(Reader):
    async def receive(self, delivery):
        self.read.append((delivery.sender.address, delivery.standing))
        return await super().receive(delivery)


class Private(Reader):
    open_to = frozenset()


PATHS = {"reader": Reader, "looker": Looker, "private": Private, "small": Reader}
BODIES = {
    "note": CODEC.encode(Note(1)),
    "unhandled": CODEC.encode(Unhandled(2)),
    "own": CODEC.encode(UserMessage("Own", encode_payload(Own(3)))),
    "own of another kind": CODEC.encode(UserMessage("Own", encode_payload({"number": "three"}))),
    "nobody's own": CODEC.encode(UserMessage("Unheard", b"\x80")),
    "a fault": CODEC.encode(Fault("x", "y")),
    "nothing": b"",
    "no message": b"\xc1",
}


def through_a_backlog(envelopes):
    """Give the envelopes that a peer reads when these are sent in one turn, runs where they may be."""
    backlog, assembly = Backlog(), Assembly()
    for each in envelopes:
        if may_join(each):
            backlog.put_envelope(each)
        else:
            backlog.put(encode_envelope(each))
    arrived = []
    while (frame := backlog.frame()) is not None:
        arrived += assembly.take(kind_of(frame), frame)
        backlog.sent()
    return [decode_envelope(each) for each in arrived]


def said(kind, path, body, number, target):
    """As a peer writes it whose headers are shared as far as they can be."""
    shared = Header(VERSION, kind, HERE, "me", target, path, b"", 60_000 if kind is Kind.ASK else 0)
    header = shared if kind is Kind.TELL else msgspec.structs.replace(shared, correlation=number.to_bytes(16, "big"))
    return Envelope(header, body, shared)


async def outcome(envelopes, standing):
    """Deliver them to a system with an actor of each sort; give all that can be seen of it afterwards."""
    answers, actors = [], {path: make() for path, make in PATHS.items()}
    async with ActorSystem(THERE, CODEC, answers.append) as system:
        for path, actor in actors.items():
            await system.spawn(lambda actor=actor: actor, path, mailbox_max=SMALL if path == "small" else 1000)
        for each in envelopes:
            system.deliver(each, standing)
        while any(each["waiting"] for each in system.statistics()["mailboxes"].values()):
            await anyio.lowlevel.checkpoint()
        statistics = system.statistics()
        del statistics["tasks"]
        letters = list(system.dead_letters)
    return (
        {path: actor.read for path, actor in actors.items()},
        statistics,
        letters,
        sorted((each.header.correlation, each.header.kind, each.body) for each in answers),
    )


def joined(envelopes):
    """Let neighbours that have equal headers have the same one, as `wire.py` does."""
    shared = None
    for each in envelopes:
        shared = each.shared if shared != each.shared else shared
        yield Envelope(each.header, each.body, shared)


@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([Kind.TELL, Kind.TELL, Kind.ASK]),
            st.sampled_from([*PATHS, "nobody"]),
            st.lists(st.sampled_from(sorted(BODIES)), min_size=1, max_size=8),
            st.sampled_from([THERE, THERE, THERE, ELSEWHERE]),
        ),
        max_size=8,
    ),
    st.sampled_from([Standing.MEMBER, Standing.MEMBER, Standing.NEIGHBOUR]),
)
def test_what_comes_in_runs_comes_to_the_same_end_as_one_by_one(bursts, standing):
    envelopes = [
        said(kind, path, BODIES[body], 100 * number + place, target)
        for number, (kind, path, bodies, target) in enumerate(bursts)
        for place, body in enumerate(bodies)
    ]
    arrived = through_a_backlog(joined(envelopes))

    async def main():
        assert await outcome(arrived, standing) == await outcome(envelopes, standing)

    anyio.run(main)


@pytest.mark.parametrize(
    ("kind", "path", "bodies", "target", "standing"),
    [
        (Kind.TELL, "reader", ["note", "own", "note"], THERE, Standing.MEMBER),
        (Kind.TELL, "looker", ["note", "own", "unhandled"], THERE, Standing.MEMBER),
        (Kind.TELL, "reader", ["note", "note"], ELSEWHERE, Standing.MEMBER),
        (Kind.TELL, "reader", ["note", "note"], THERE, Standing.NEIGHBOUR),
        (Kind.TELL, "private", ["note", "note"], THERE, Standing.MEMBER),
        (Kind.TELL, "nobody", ["note", "note"], THERE, Standing.MEMBER),
        (Kind.TELL, "small", ["note"] * (SMALL + 2), THERE, Standing.MEMBER),
        (Kind.TELL, "small", ["note"] * SMALL, THERE, Standing.MEMBER),
        *((Kind.TELL, "reader", ["note", bad, "note"], THERE, Standing.MEMBER) for bad in sorted(BODIES)),
        *((Kind.ASK, "reader", ["note", bad, "note"], THERE, Standing.MEMBER) for bad in sorted(BODIES)),
        (Kind.ASK, "small", ["note"] * (SMALL + 2), THERE, Standing.MEMBER),
        (Kind.ASK, "reader", ["note", "note"], ELSEWHERE, Standing.MEMBER),
        (Kind.ASK, "reader", ["note", "note"], THERE, Standing.NEIGHBOUR),
        (Kind.ASK, "nobody", ["note", "note"], THERE, Standing.MEMBER),
    ],
)
def test_a_run_comes_to_the_same_end_as_its_messages(kind, path, bodies, target, standing):
    envelopes = [said(kind, path, BODIES[body], number, target) for number, body in enumerate(bodies)]
    (run,) = through_a_backlog(joined(envelopes))
    assert run.header.run

    async def main():
        assert await outcome([run], standing) == await outcome(envelopes, standing)

    anyio.run(main)


def test_a_run_of_tells_with_a_time_is_as_late_as_its_messages():
    shared = Header(VERSION, Kind.TELL, HERE, "me", THERE, "reader", b"", -1)
    envelopes = [Envelope(shared, BODIES["note"], shared)] * 2
    (run,) = through_a_backlog(envelopes)

    async def main():
        _, statistics, *_ = found = await outcome([run], Standing.MEMBER)
        assert statistics["late"] == 2
        assert found == await outcome(envelopes, Standing.MEMBER)

    anyio.run(main)


class Two:
    """Two systems; what one of them says goes to the other through a backlog, as soon as `at_once` envelopes wait."""

    def __init__(self):
        self.systems = {node: ActorSystem(node, CODEC, self.put) for node in (HERE, THERE)}
        self.waiting, self.carried, self.at_once = [], [], 1

    def put(self, envelope):
        self.waiting.append(envelope)

    async def carry(self):
        while True:
            if len(self.waiting) < self.at_once:
                await anyio.sleep(0.001)
                continue
            waiting, self.waiting, self.at_once = self.waiting, [], 1
            for node, system in self.systems.items():
                for each in through_a_backlog(each for each in waiting if each.header.target_node == node):
                    self.carried.append(each)
                    system.deliver(each, Standing.MEMBER)

    async def __aenter__(self):
        async with contextlib.AsyncExitStack() as stack:
            for system in self.systems.values():
                await stack.enter_async_context(system)
            self.here, self.there = self.systems.values()
            self.reader = Reader()
            await self.there.spawn(lambda: self.reader, "reader")
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(self.carry)
            self.stack = stack.pop_all()
        return self

    async def __aexit__(self, *raised):
        return await self.stack.__aexit__(*raised)

    def runs(self, kind):
        """Give how many messages each run of a kind had."""
        return [len(read_run(each)[1]) for each in self.carried if each.header.run and each.header.kind is kind]


async def test_tells_of_one_turn_go_in_one_run_and_are_read_in_order_between_asks():
    async with Two() as two:
        ref = two.here.ref(Address(THERE, "reader"))
        for number in range(100):
            ref.tell(Note(number) if number % 3 else Own(number))
        assert await ref.ask(Note(100)) == Note(100)
        for number in range(101, 150):
            ref.tell(Note(number))
        await until(lambda: len(two.reader.read) == 150)
        assert [each.number for each in two.reader.read] == list(range(150))
        assert two.runs(Kind.TELL) == [100, 49]


async def test_asks_of_one_turn_and_their_answers_go_in_runs_each_to_its_own_asker():
    async with Two() as two:
        ref, answers = two.here.ref(Address(THERE, "reader")), {}
        two.at_once = RUN_MESSAGES_MAX + 10

        async def ask(number):
            answers[number] = await ref.ask(Note(number))

        async with anyio.create_task_group() as tasks:
            for number in range(RUN_MESSAGES_MAX + 10):
                tasks.start_soon(ask, number)
        assert answers == {number: Note(number) for number in answers}
        assert len(answers) == RUN_MESSAGES_MAX + 10
        assert two.runs(Kind.ASK) == [RUN_MESSAGES_MAX, 10]
        assert sum(two.runs(Kind.REPLY)) > RUN_MESSAGES_MAX // 2


async def test_of_a_run_of_asks_each_fails_by_itself():
    async with Two() as two:
        await two.there.spawn(Private, "private")
        await two.there.spawn(Reader, "small", mailbox_max=SMALL)
        failed, asked, two.at_once = [], 0, 6 + SMALL + 2

        async def ask(path, message):
            try:
                await two.here.ref(Address(THERE, path)).ask(message)
            except AskFailed as error:
                failed.append((path, type(error)))

        async with anyio.create_task_group() as tasks:
            for path, message, times in (
                ("nobody", Note(1), 2),
                ("private", Note(2), 2),
                ("reader", Unhandled(3), 2),
                ("small", Note(4), SMALL + 2),
            ):
                asked += times
                for _ in range(times):
                    tasks.start_soon(ask, path, message)
                # One sort after the other, so that their headers stand together; the last of them sends them all.
                await until(lambda count=asked: len(two.waiting) == count or two.carried)
        assert two.runs(Kind.ASK) == [2, 2, 2, SMALL + 2]
        assert sorted(failed, key=str) == [
            ("nobody", AskUnreachable),
            ("nobody", AskUnreachable),
            ("private", AskRefused),
            ("private", AskRefused),
            ("reader", AskNotUnderstood),
            ("reader", AskNotUnderstood),
            ("small", AskCongested),
            ("small", AskCongested),
        ]


async def test_answers_in_a_run_from_another_node_than_the_one_asked_are_not_believed():
    async with Two() as two:
        asked = []
        two.here.outlet = asked.append
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(two.here.ref(Address(THERE, "reader")).ask, Note(number))
            await until(lambda: len(asked) == 3)
            for liar in (ELSEWHERE, THERE):
                shared = Header(VERSION, Kind.REPLY, liar, "reader", HERE, "")
                replies = [
                    Envelope(msgspec.structs.replace(shared, correlation=each.header.correlation), each.body, shared)
                    for each in asked
                ]
                (run,) = through_a_backlog(replies)
                two.here.deliver(run, Standing.MEMBER)
                assert two.here.statistics()["foreign_answers"] == 3
                assert two.here.statistics()["asks_remote"] == 3


def beside(first, *others):
    """Give the first twice, one of the others twice, the first twice again, and so on: each differs in one thing."""
    for other in others:
        yield from (first, first, other, other)
    yield from (first, first)


async def test_only_what_has_the_same_outside_shares_a_header():
    out = []
    async with ActorSystem(HERE, CODEC, out.append) as system, anyio.create_task_group() as tasks:
        one, two = [await system.spawn(Reader, name) for name in ("one", "two")]
        base = Address(THERE, "one")
        for address, sender in beside(
            (base, one), (Address(ELSEWHERE, "one"), one), (Address(THERE, "two"), one), (base, two)
        ):
            system.tell(address, Note(1), sender=sender)
            assert (out[-1].header.target_node, out[-1].header.target_path) == (address.node, address.path)
            assert out[-1].header.source_path == sender.address.path
        for address, timeout_s, trace in beside(
            (base, 60, ""),
            (Address(ELSEWHERE, "one"), 60, ""),
            (Address(THERE, "two"), 60, ""),
            (base, 70, ""),
            (base, 60, "00"),
        ):
            before = len(out)
            tasks.start_soon(partial(system.ask, address, Note(3), timeout_s=timeout_s, traceparent=trace))
            await until(lambda count=before: len(out) > count)
        for number, (asker, back, path, body, trace) in enumerate(
            beside(
                (THERE, "", "one", "note", ""),
                (ELSEWHERE, "", "one", "note", ""),
                (THERE, "me", "one", "note", ""),
                (THERE, "", "two", "note", ""),
                (THERE, "", "one", "unhandled", ""),
                (THERE, "", "one", "note", "00"),
            )
        ):
            before, asked = len(out), number.to_bytes(16, "big")
            header = Header(VERSION, Kind.ASK, asker, back, HERE, path, asked, 0, trace)
            system.deliver(Envelope(header, BODIES[body]), Standing.MEMBER)
            await until(lambda count=before: len(out) > count)
        tasks.cancel_scope.cancel()
    assert {each.header.kind for each in out} == set(Kind)
    assert [each.shared for each in out] == [msgspec.structs.replace(each.header, correlation=b"") for each in out]
    assert all(first.shared is second.shared for first, second in zip(out[::2], out[1::2], strict=True))


async def test_an_answer_to_an_id_of_another_length_is_not_for_runs():
    sent = []
    async with ActorSystem(HERE, CODEC, sent.append) as system:
        system.deliver(
            Envelope(Header(VERSION, Kind.ASK, THERE, "", HERE, "nobody", b"short"), BODIES["note"]), Standing.MEMBER
        )
    assert [(each.header.correlation, each.shared) for each in sent] == [(b"short", None)]


async def test_a_run_that_is_none_is_counted_and_harms_nothing():
    async with Two() as two:
        for body in (b"", b"\x92\xc4\x00\x90", b"\x92\xc4\x01x\x91\xc4\x00"):
            header = Header(VERSION, Kind.TELL, HERE, "", THERE, "reader", run=True)
            two.there.deliver(Envelope(header, body), Standing.MEMBER)
        assert two.there.statistics()["malformed"] == 3
        assert await two.here.ref(Address(THERE, "reader")).ask(Note(1)) == Note(1)
