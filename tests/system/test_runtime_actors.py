"""Actors: tells, asks, full mailboxes, crashes, answers that come late."""

import anyio
import pytest
from counter_actor import NODE, Add, Break, Counter, Odd, Total, Wait, system
from waiting import until

from atoll.actors.runtime import (
    LATER,
    Actor,
    Address,
    AskCongested,
    AskCrashed,
    AskDeclined,
    AskNotUnderstood,
    AskTimedOut,
    AskUnreachable,
    MailboxFull,
    handles,
)

pytestmark = pytest.mark.anyio


async def test_tells_are_handled_in_order_and_asks_are_answered():
    async with system() as running:
        ref = await running.spawn(Counter, "counter")
        for number in range(10):
            ref.tell(Add(number))
        assert await ref.ask(Total()) == 45
        assert await running.ask(Address(NODE, "counter"), Add(5)) == 50
        assert running.find("counter") == ref == running.ref(Address(NODE, "counter"))
        assert running.find("nobody") is None
        statistics = running.statistics()
        assert statistics["mailboxes"]["counter"] == {"waiting": 0, "handled": 12, "starts": 1}


async def test_a_message_nobody_handles_is_said_to_the_asker_and_the_actor_goes_on():
    async with system() as running:
        ref = await running.spawn(Counter, "counter")
        with pytest.raises(AskNotUnderstood, match="counter takes no Odd"):
            await ref.ask(Odd())
        ref.tell(Odd())
        assert await ref.ask(Add(1)) == 1
        assert running.statistics()["not_understood"] == 2
        assert "restarts" not in running.statistics()


async def test_a_handler_that_declines_does_not_crash():
    async with system() as running:
        ref = await running.spawn(Counter, "counter")
        ref.tell(Add(3))
        with pytest.raises(AskDeclined, match="only up"):
            await ref.ask(Add(-1))
        ref.tell(Add(-1))
        assert await ref.ask(Total()) == 3
        assert running.statistics()["declined"] == 2


async def test_a_crash_reaches_the_asker_at_once_and_what_waited_is_handled_by_a_fresh_actor():
    async with system() as running:
        ref = await running.spawn(Counter, "counter")
        ref.tell(Add(7))
        answers = []

        async def ask_break():
            with pytest.raises(AskCrashed, match="ValueError: broken on purpose") as caught:
                await ref.ask(Break(), timeout_s=1000)
            answers.append(caught.value)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask_break)
                await anyio.wait_all_tasks_blocked()
                ref.tell(Add(2))
                assert await ref.ask(Total()) == 2
        assert isinstance(answers[0].__cause__, ValueError)
        assert running.statistics()["restarts"] == 1
        assert running.statistics()["crashes"] == 1


async def test_a_poison_message_told_kills_once_and_the_queue_survives():
    async with system() as running:
        ref = await running.spawn(Counter, "counter")
        for message in (Add(1), Break(), Add(10), Add(100)):
            ref.tell(message)
        assert await ref.ask(Total()) == 110


async def test_an_ask_times_out_and_a_late_answer_harms_nobody():
    gate = anyio.Event()
    async with system() as running:
        ref = await running.spawn(lambda: Counter(gate), "counter")
        with pytest.raises(AskTimedOut, match=r"counter did not answer within 0\.02 s"):
            await ref.ask(Wait(), timeout_s=0.02)
        gate.set()
        assert await ref.ask(Add(1)) == 1


async def test_an_ask_that_is_late_when_its_turn_comes_is_not_handled():
    gate = anyio.Event()
    async with system() as running:
        ref = await running.spawn(lambda: Counter(gate), "counter")
        ref.tell(Wait())
        with pytest.raises(AskTimedOut):
            await ref.ask(Add(1000), timeout_s=0.01)
        gate.set()
        assert await ref.ask(Total()) == 0
        assert running.statistics()["late"] == 1


async def test_many_asks_at_once_get_each_their_own_answer():
    class Echo(Actor):
        @handles
        async def echo(self, message: Add) -> int:
            return message.number

    async with system() as running:
        ref = await running.spawn(Echo, "echo")
        got = {}

        async def ask(number):
            got[number] = await ref.ask(Add(number))

        async with anyio.create_task_group() as tasks:
            for number in range(500):
                tasks.start_soon(ask, number)
        assert got == {number: number for number in range(500)}


async def test_a_cancelled_ask_leaves_nothing_behind():
    gate = anyio.Event()
    async with system() as running:
        ref = await running.spawn(lambda: Counter(gate), "counter")
        with anyio.move_on_after(0.01) as scope:
            await ref.ask(Wait())
        assert scope.cancelled_caught
        gate.set()
        assert await ref.ask(Add(1)) == 1


async def test_a_full_mailbox_refuses_and_wait_room_waits_until_half_is_free():
    gate = anyio.Event()
    async with system() as running:
        ref = await running.spawn(lambda: Counter(gate), "counter", mailbox_max=4)
        ref.tell(Wait())
        await until(lambda: running.statistics()["mailboxes"]["counter"]["waiting"] == 0)
        for _ in range(4):
            ref.tell(Add(1))
        with pytest.raises(MailboxFull, match="counter is full: 4"):
            ref.tell(Add(1))
        with pytest.raises(AskCongested):
            await ref.ask(Total())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ref.wait_room)
            await anyio.wait_all_tasks_blocked()
            gate.set()
        ref.tell(Add(1))
        assert await ref.ask(Total()) == 5


async def test_messages_to_nobody_are_dead_letters():
    async with system() as running:
        nobody = running.ref(Address(NODE, "nobody"))
        nobody.tell(Add(1))
        with pytest.raises(AskUnreachable, match="no actor nobody"):
            await nobody.ask(Add(1))
        assert running.statistics()["dead_letters"] == 1
        assert running.dead_letters[0].path == "nobody"


async def test_an_old_reference_finds_the_actor_that_took_the_name():
    async with system() as running:
        old = await running.spawn(Counter, "counter")
        await running.stop(old)
        old.tell(Add(1))
        assert running.statistics()["dead_letters"] == 1
        await running.spawn(Counter, "counter")
        old.tell(Add(2))
        assert await old.ask(Total()) == 2


async def test_an_ask_that_waits_in_the_queue_of_an_actor_that_is_stopped_fails_at_once():
    gate = anyio.Event()
    async with system() as running:
        ref = await running.spawn(lambda: Counter(gate), "counter")
        ref.tell(Wait())
        async with anyio.create_task_group() as tasks:

            async def ask():
                with pytest.raises(AskUnreachable, match="ended"):
                    await ref.ask(Total(), timeout_s=1000)

            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(running.stop, ref)
            await anyio.wait_all_tasks_blocked()
            gate.set()


async def test_an_actor_that_overrides_receive_sees_the_sender_and_may_answer_later():
    class Clerk(Actor):
        def __init__(self):
            self.waiting = []

        async def receive(self, delivery):
            if delivery.message == "flush":
                for reply_to in self.waiting:
                    reply_to.answer(delivery.sender)
                return None
            self.waiting.append(delivery.reply_to)
            return LATER

    async with system() as running:
        clerk = await running.spawn(Clerk, "clerk")
        counter = await running.spawn(Counter, "counter")
        answers = []

        async def ask():
            answers.append(await clerk.ask("wait"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            clerk.tell("flush", sender=counter)
        assert answers == [counter]


async def test_a_delivery_told_on_is_answered_by_the_last():
    class Front(Actor):
        async def receive(self, delivery):
            self.system.find("counter").tell(delivery)
            return LATER

    async with system() as running:
        await running.spawn(Counter, "counter")
        front = await running.spawn(Front, "front")
        assert await front.ask(Add(4)) == 4
