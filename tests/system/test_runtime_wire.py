"""Actors of two nodes: envelopes out and in, who may reach whom, faults, malformed input."""

import anyio
import msgspec
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from two_systems import (
    CODEC,
    ELSEWHERE,
    HERE,
    THERE,
    Boiler,
    Callable,
    Hang,
    Hello,
    Private,
    SetTarget,
    Target,
    Two,
    Welcome,
    header,
)
from waiting import until

from atoll.actors.runtime import (
    Actor,
    Address,
    AskCongested,
    AskCrashed,
    AskDeclined,
    AskFailed,
    AskNotUnderstood,
    AskRefused,
    AskTimedOut,
    AskUnreachable,
    Fault,
    UserMessage,
    handles,
)
from atoll.actors.runtime.asks import Answers
from atoll.transport.base import Standing
from atoll.transport.codec import encode_payload
from atoll.transport.envelope import Envelope, Kind
from atoll.transport.errors import Congested, Unreachable, UsageError

pytestmark = pytest.mark.anyio


async def test_a_message_of_the_codec_and_one_of_the_users_are_asked_alike():
    async with Two() as two:
        assert await two.boiler.ask(Hello("you")) == Welcome("welcome you")
        assert await two.boiler.ask(SetTarget(21.5)) == Target(21.5)
        assert await two.boiler.ask(SetTarget(22), reply_type=dict) == {"celsius": 22.0, "reached": False}
        two.boiler.tell(SetTarget(23))
        await until(lambda: two.actor.set == [21.5, 22.0, 23.0])
        assert two.here.statistics()["asks_remote"] == 0


async def test_the_answer_to_an_unknown_class_is_plain_data():
    class Unheard(msgspec.Struct):
        number: int

    Unheard.__name__ = "Hang"
    async with Two() as two:
        two.actor.gate.set()
        assert await two.boiler.ask(Unheard(1)) is None


async def test_the_sender_of_a_tell_is_known_and_can_be_told_back():
    heard = []

    class Greeter(Actor):
        async def receive(self, delivery):
            heard.append((delivery.sender.address, delivery.standing, delivery.message))

    async with Two() as two:
        await two.there.spawn(Greeter, "greeter")
        me = await two.here.spawn(Boiler, "me")
        two.here.tell(Address(THERE, "greeter"), Hello("x"), sender=me)
        await until(lambda: heard)
        assert heard == [(Address(HERE, "me"), Standing.MEMBER, Hello("x"))]


@pytest.mark.parametrize(
    ("path", "standing", "error"),
    [
        ("boiler", Standing.NEIGHBOUR, AskRefused),
        ("boiler", Standing.GRANTED, AskRefused),
        ("boiler", Standing.CLOUD, AskRefused),
        ("callable", Standing.MEMBER, AskRefused),
        ("callable", Standing.GRANTED, None),
        ("private", Standing.MEMBER, AskRefused),
        ("private", Standing.CLOUD, AskRefused),
        ("nobody", Standing.MEMBER, AskUnreachable),
    ],
)
async def test_only_those_an_actor_is_open_to_reach_it(path, standing, error):
    async with Two() as two:
        await two.there.spawn(Callable, "callable")
        await two.there.spawn(Private, "private")
        two.standing = standing
        ref = two.here.ref(Address(THERE, path))
        if error is None:
            assert await ref.ask(Hello("you")) == Welcome("welcome you")
            return
        with pytest.raises(error):
            await ref.ask(Hello("you"))
        ref.tell(Hello("you"))
        assert two.there.statistics()["no_actor" if path == "nobody" else "refused"] == 2
        assert two.there.statistics()["handled"] == 0


async def test_every_fault_arrives_as_the_error_of_its_kind():
    async with Two() as two:
        with pytest.raises(AskDeclined, match="too hot"):
            await two.boiler.ask(SetTarget(100))
        with pytest.raises(AskCrashed, match="frozen pipes"):
            await two.boiler.ask(SetTarget(-1))
        with pytest.raises(AskNotUnderstood, match="takes no Welcome"):
            await two.boiler.ask(Welcome(""))
        with pytest.raises(AskNotUnderstood, match="no handler for 'Target'"):
            await two.boiler.ask(Target(1))
        with pytest.raises(AskNotUnderstood, match="expected kind"):
            await two.boiler.ask(SetTarget("warm"))
        with pytest.raises(AskTimedOut):
            await two.boiler.ask(Hang(), timeout_s=0.02)


async def test_what_a_crash_says_stays_within_the_site():
    async with Two() as two:
        await two.there.spawn(Callable, "callable")
        two.standing = Standing.GRANTED
        with pytest.raises(AskCrashed, match=r"^callable crashed while it handled the message$"):
            await two.here.ref(Address(THERE, "callable")).ask(SetTarget(-1))


async def test_a_full_mailbox_is_a_fault_for_an_ask_and_counted_for_a_tell():
    async with Two() as two:
        small = Boiler()
        await two.there.spawn(lambda: small, "small", mailbox_max=1)
        ref = two.here.ref(Address(THERE, "small"))
        ref.tell(Hang())
        await until(lambda: two.there.statistics()["mailboxes"]["small"] == {"waiting": 0, "handled": 1, "starts": 1})
        ref.tell(Hello("waits"))
        with pytest.raises(AskCongested, match="small is full"):
            await ref.ask(Hello("you"))
        ref.tell(Hello("you"))
        assert two.there.statistics()["mailbox_full"] == 2
        small.gate.set()


async def test_an_ask_without_a_way_fails_at_once_and_a_tell_is_counted():
    async with Two() as two:

        def broken(envelope):
            raise Unreachable("no route")

        two.here.outlet = broken
        with pytest.raises(AskUnreachable, match="no route"):
            await two.boiler.ask(Hello("you"), timeout_s=1000)
        two.boiler.tell(Hello("you"))
        two.here.outlet = None
        two.boiler.tell(Hello("you"))
        assert two.here.statistics()["unreachable"] == 2

        def full(envelope):
            raise Congested("queue full")

        two.here.outlet = full
        with pytest.raises(AskCongested, match="queue full"):
            await two.boiler.ask(Hello("you"))
        with pytest.raises(Congested):
            two.boiler.tell(Hello("you"))
        with pytest.raises(UsageError, match="cannot be sent"):
            two.boiler.tell(object())
        assert two.here.statistics()["asks_remote"] == 0


async def test_the_deadline_travels_and_what_is_late_is_not_handled():
    async with Two() as two:
        two.boiler.tell(Hang())
        with pytest.raises(AskTimedOut):
            await two.boiler.ask(SetTarget(20), timeout_s=0.02)
        assert 1 <= two.sent[-1].header.deadline_ms <= 20
        await anyio.sleep(0.03)
        two.actor.gate.set()
        await until(lambda: two.there.statistics().get("late") == 1)
        assert two.actor.set == []


async def test_a_tell_that_is_late_when_its_turn_comes_is_not_handled():
    async with Two() as two:
        two.boiler.tell(Hang())
        two.there.deliver(Envelope(header(Kind.TELL, deadline_ms=1), CODEC.encode(Hello(""))), Standing.MEMBER)
        await anyio.sleep(0.01)
        two.actor.gate.set()
        await until(lambda: two.there.statistics().get("late") == 1)


async def test_an_answer_from_another_node_than_the_one_asked_is_not_believed():
    async with Two() as two:
        two.lose = lambda envelope: envelope.header.kind is Kind.ASK
        async with anyio.create_task_group() as tasks:

            async def ask():
                assert await two.boiler.ask(Hello("you")) == Welcome("true")

            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            correlation = two.sent[-1].header.correlation
            for source, text in ((ELSEWHERE, "forged"), (THERE, "true"), (THERE, "again")):
                answer = header(Kind.REPLY, correlation=correlation, target=HERE, source=source)
                two.here.deliver(Envelope(answer, CODEC.encode(Welcome(text))), Standing.MEMBER)
                await anyio.wait_all_tasks_blocked()
        assert two.here.statistics()["foreign_answers"] == 1
        assert two.here.statistics()["late_answers"] == 1


@pytest.mark.parametrize(
    ("kind", "body", "error"),
    [
        (Kind.REPLY, b"\xc1", AskNotUnderstood),
        (Kind.FAULT, CODEC.encode(Welcome("no fault")), AskFailed),
        (Kind.FAULT, CODEC.encode(Fault("of_a_later_version", "?")), AskFailed),
        (Kind.REPLY, CODEC.encode(UserMessage("Target", encode_payload({"celsius": "warm"}))), AskNotUnderstood),
    ],
)
async def test_an_answer_that_cannot_be_read_fails_the_ask(kind, body, error):
    async with Two() as two:
        two.lose = lambda envelope: envelope.header.kind is Kind.ASK
        async with anyio.create_task_group() as tasks:

            async def ask():
                with pytest.raises(error):
                    await two.boiler.ask(SetTarget(1))

            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            answer = header(kind, correlation=two.sent[-1].header.correlation, target=HERE, source=THERE)
            two.here.deliver(Envelope(answer, body), Standing.MEMBER)


async def test_an_answer_of_another_class_than_the_wanted_one_is_not_taken():
    class Liar(Actor):
        async def receive(self, delivery):
            return Hello("no welcome") if delivery.message.name == "codec" else {"text": 1}

    async with Two() as two:
        await two.there.spawn(Liar, "liar")
        liar = two.here.ref(Address(THERE, "liar"))
        with pytest.raises(AskNotUnderstood, match="answered with Hello where only Welcome is an answer"):
            await liar.ask(Hello("codec"), reply_type=Welcome)
        with pytest.raises(AskNotUnderstood, match="cannot be read here"):
            await liar.ask(Hello("plain"), reply_type=Welcome)
        # `Boiler.hello` says what answers a Hello, so this process knows without being told.
        with pytest.raises(AskNotUnderstood, match="answered with Hello"):
            await liar.ask(Hello("codec"))


async def test_an_answer_too_long_for_every_way_is_a_fault_and_is_not_sent_for_a_repeated_question():
    async with Two() as two:
        carry = two.carry

        def short_only(envelope):
            if len(envelope.body) > 1000:
                raise UsageError("a message has at most 1000 bytes")
            carry(envelope)

        two.there.outlet = short_only
        with pytest.raises(AskCrashed, match="at most 1000 bytes"):
            await two.boiler.ask(Hello("x" * 1000))
        asked = next(each for each in two.sent if each.header.kind is Kind.ASK)
        await until(lambda: two.there.statistics()["mailboxes"]["boiler"]["starts"] == 2)
        faults = [each for each in two.sent if each.header.kind is Kind.FAULT]
        two.there.deliver(asked, Standing.MEMBER)
        assert [each for each in two.sent if each.header.kind is Kind.FAULT] == [*faults, faults[0]]


async def test_malformed_and_misdirected_envelopes_are_counted_and_answered():
    async with Two() as two:
        for envelope, counter in (
            (Envelope(header(Kind.ASK), b"\xc1"), "malformed"),
            (Envelope(header(Kind.TELL), b""), "malformed"),
            (Envelope(header(Kind.ASK, correlation=b"short"), CODEC.encode(Hello(""))), "malformed"),
            (Envelope(header(Kind.TELL), CODEC.encode(Fault("x", "y"))), "malformed"),
            (Envelope(header(Kind.ASK, target=ELSEWHERE), b""), "misdirected"),
            (Envelope(header(Kind.REPLY), b""), "late_answers"),
            (Envelope(header(Kind.TELL, deadline_ms=-1), CODEC.encode(Hello(""))), "late"),
        ):
            before = two.there.statistics().get(counter, 0)
            two.there.deliver(envelope, Standing.MEMBER)
            assert two.there.statistics()[counter] == before + 1
        faults = [each for each in two.sent if each.header.kind is Kind.FAULT]
        assert len(faults) == 3
        # What was refused unread may be asked again with the same id.
        two.there.deliver(Envelope(header(Kind.ASK), CODEC.encode(Hello("you"))), Standing.MEMBER)
        await until(lambda: two.sent[-1].header.kind is Kind.REPLY)
        assert two.there.statistics()["handled"] == 1


@settings(max_examples=examples(100))
@given(st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=40), st.binary(max_size=20)), max_size=20))
def test_no_body_crashes_an_actor_or_the_system(frames):
    async def main():
        async with Two() as two:
            for kind, body, correlation in frames:
                two.there.deliver(Envelope(header(kind, correlation=correlation), body), Standing.MEMBER)
            assert await two.boiler.ask(Hello("you")) == Welcome("welcome you")
            assert "crashes" not in two.there.statistics()

    anyio.run(main)


def test_kept_answers_are_bounded_by_count_and_by_bytes():
    answers = Answers(count_max=3, bytes_max=100)
    envelope = Envelope(header(Kind.REPLY), b"x" * 40)
    for each in (b"1", b"2", b"3"):
        assert answers.begin(HERE, each) == (True, None)
        answers.keep(HERE, each, envelope)
    assert len(answers) == 2
    assert answers.begin(HERE, b"1") == (True, None)
    assert answers.begin(HERE, b"3") == (False, envelope)
    assert answers.begin(THERE, b"3") == (True, None)
    answers.begin(HERE, b"5")
    assert len(answers) == 3
    answers.forget(HERE, b"5")
    assert answers.begin(HERE, b"5") == (True, None)


async def test_a_reply_that_cannot_be_encoded_crashes_the_actor_and_says_so():
    class Leaky(Actor):
        @handles
        async def hello(self, message: Hello) -> object:
            return object()

    async with Two() as two:
        await two.there.spawn(Leaky, "leaky")
        with pytest.raises(AskCrashed, match="cannot be sent"):
            await two.here.ref(Address(THERE, "leaky")).ask(Hello("you"))
        await until(lambda: two.there.statistics().get("crashes") == 1)
