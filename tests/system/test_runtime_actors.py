"""Actors on one node: messages, asks, time-outs, facts, watching, ending."""

from dataclasses import dataclass

import anyio
import msgspec
import pytest
from waiting import until

from atoll.actors.runtime import (
    LATER,
    MESSAGES,
    Actor,
    ActorSystem,
    Address,
    AskCongested,
    AskCrashed,
    AskDeclined,
    AskNotUnderstood,
    AskTimedOut,
    AskUnreachable,
    Declined,
    MailboxFull,
    Restart,
    StartFailed,
    Terminated,
    handles,
)
from atoll.transport.codec import Codec
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId

pytestmark = pytest.mark.anyio

NODE = NodeId(b"n" * 32)


def system(**more):
    return ActorSystem(NODE, Codec(MESSAGES), **more)


class Add(msgspec.Struct):
    number: int


@dataclass
class Total:
    pass


class Odd(msgspec.Struct):
    pass


class Break(msgspec.Struct):
    pass


class Wait(msgspec.Struct):
    pass


class Counter(Actor):
    """Adds; breaks and waits when told to."""

    def __init__(self, gate=None):
        self.total = 0
        self.gate = gate

    @handles
    async def add(self, message: Add) -> int:
        if message.number < 0:
            raise Declined("only up")
        self.total += message.number
        return self.total

    @handles
    async def tell_total(self, message: Total) -> int:
        return self.total

    @handles
    async def crash(self, message: Break) -> None:
        raise ValueError("broken on purpose")

    @handles
    async def wait(self, message: Wait) -> None:
        if self.gate is None:
            await anyio.sleep_forever()
        await self.gate.wait()


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


async def test_a_watcher_hears_of_the_end_once_and_of_nothing_before():
    heard = []

    class Watcher(Actor):
        @handles
        async def ended(self, message: Terminated) -> None:
            heard.append(message)

    async with system() as running:
        watcher = await running.spawn(Watcher, "watcher")
        ref = await running.spawn(Counter, "counter", restart=Restart.TRANSIENT)
        running.watch(ref, watcher)
        running.watch(ref, watcher)
        with pytest.raises(AskCrashed):
            await ref.ask(Break())
        assert await ref.ask(Total()) == 0
        assert heard == []
        await running.stop(ref)
        await until(lambda: heard)
        running.watch(ref, watcher)
        await until(lambda: len(heard) == 2)
        assert heard == [Terminated("counter", "stopped"), Terminated("counter", "no such actor")]
        with pytest.raises(UsageError, match="another node"):
            running.watch(running.ref(Address(NodeId(b"m" * 32), "counter")), watcher)


async def test_a_temporary_actor_that_crashes_is_gone_and_says_why():
    heard = []

    class Watcher(Actor):
        @handles
        async def ended(self, message: Terminated) -> None:
            heard.append(message)

    async with system() as running:
        watcher = await running.spawn(Watcher, "watcher")
        ref = await running.spawn(Counter, "counter", restart=Restart.TEMPORARY)
        running.watch(ref, watcher)
        ref.tell(Break())
        await until(lambda: heard)
        assert heard == [Terminated("counter", "crashed: broken on purpose")]
        assert running.find("counter") is None


async def test_facts_reach_every_subscriber_once_by_their_type_and_its_bases():
    class Base:
        pass

    class Fact(Base):
        pass

    heard = []

    class Listener(Actor):
        def __init__(self, name):
            self.name = name

        @handles
        async def fact(self, message: Base) -> None:
            heard.append((self.name, message))

    async with system() as running:
        both = await running.spawn(lambda: Listener("both"), "both")
        exact = await running.spawn(lambda: Listener("exact"), "exact")
        running.subscribe(Base, both)
        running.subscribe(Fact, both)
        running.subscribe(Fact, exact)
        fact, base = Fact(), Base()
        running.announce(fact)
        running.announce(base)
        await until(lambda: len(heard) == 3)
        assert sorted(heard, key=str) == sorted([("both", fact), ("exact", fact), ("both", base)], key=str)
        await running.stop(both)
        running.announce(base)
        assert "dead_letters" not in running.statistics()


async def test_facts_pass_a_full_mailbox_up_to_a_bound_of_their_own():
    gate = anyio.Event()
    async with system() as running:
        ref = await running.spawn(lambda: Counter(gate), "counter", mailbox_max=2)
        ref.tell(Wait())
        await until(lambda: running.statistics()["mailboxes"]["counter"]["waiting"] == 0)
        running.subscribe(Add, ref)
        ref.tell(Total())
        ref.tell(Total())
        for _ in range(7):
            running.announce(Add(1))
        assert running.statistics()["dead_letters"] == 1
        gate.set()
        await until(lambda: running.statistics()["mailboxes"]["counter"]["waiting"] == 0)
        assert await ref.ask(Total()) == 6


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


async def test_an_actor_that_stops_itself_is_restarted_only_if_it_is_permanent():
    class Once(Actor):
        @handles
        async def go(self, message: Add) -> None:
            self.stop()

    async with system() as running:
        transient = await running.spawn(Once, "transient", restart=Restart.TRANSIENT)
        permanent = await running.spawn(Once, "permanent")
        await transient.ask(Add(1))
        await permanent.ask(Add(1))
        await until(lambda: running.find("transient") is None)
        await permanent.ask(Add(1))
        await until(lambda: running.statistics()["mailboxes"]["permanent"]["starts"] == 3)


async def test_a_base_class_message_type_handles_its_subclasses_and_an_override_keeps_the_mark():
    class More(Add):
        pass

    class Doubler(Counter):
        async def add(self, message: Add) -> int:
            return 2 * message.number

    async with system() as running:
        ref = await running.spawn(Doubler, "doubler")
        assert await ref.ask(More(4)) == 8


def test_handlers_that_cannot_work_are_refused_where_they_are_written():
    with pytest.raises(UsageError, match="async def"):

        @handles
        def plain(self, message: Add):
            pass

    with pytest.raises(UsageError, match="annotate `message`"):

        class Bare(Actor):
            @handles
            async def bare(self, message):
                pass

    with pytest.raises(UsageError, match="two handlers for messages named Add"):

        class Twice(Actor):
            @handles
            async def one(self, message: Add):
                pass

            @handles
            async def two(self, message: Add):
                pass


class Early(Actor):
    @handles
    async def go(self, message: "Below") -> int:
        return message.number


class Below(msgspec.Struct):
    number: int


async def test_a_message_type_may_stand_below_the_actor():
    async with system() as running:
        ref = await running.spawn(Early, "early")
        assert await ref.ask(Below(3)) == 3


async def test_a_message_type_that_does_not_exist_fails_the_spawn():
    class Lost(Actor):
        @handles
        async def go(self, message: "Nowhere") -> int:  # noqa: F821
            return 1

    async with system() as running:
        with pytest.raises(StartFailed, match="Nowhere"):
            await running.spawn(Lost, "lost")
        assert running.find("lost") is None


@pytest.mark.parametrize("name", ["", "a b", "a//b", "/a", "é", "x" * 201])
async def test_what_is_not_a_name_is_refused(name):
    async with system() as running:
        with pytest.raises(UsageError, match="not a name"):
            await running.spawn(Counter, name)


async def test_misuse_is_said():
    with pytest.raises(UsageError, match="MESSAGES"):
        ActorSystem(NODE, Codec(MESSAGES[:1]))
    closed = system()
    with pytest.raises(UsageError, match="async with"):
        await closed.spawn(Counter, "counter")
    async with system() as running:
        ref = await running.spawn(Counter, "counter")
        with pytest.raises(UsageError, match="lives here already"):
            await running.spawn(Counter, "counter")
        with pytest.raises(StartFailed, match="not an Actor"):
            await running.spawn(lambda: 5, "five")
        with pytest.raises(UsageError, match="no supervisor is named x"):
            await running.spawn(Counter, "other", under="x")
        with pytest.raises(UsageError, match="attempts"):
            await running.ask(ref, Total(), attempts=0)
        assert await ref.ask(Total()) == 0
    with pytest.raises(UsageError, match="runs once"):
        async with running:
            pass


async def test_one_busy_actor_does_not_starve_another():
    class Busy(Actor):
        @handles
        async def again(self, message: Add) -> None:
            self.ref.tell(message)

    async with system() as running:
        busy = await running.spawn(Busy, "busy")
        other = await running.spawn(Counter, "counter")
        busy.tell(Add(0))
        with anyio.fail_after(5):
            assert await other.ask(Add(1)) == 1
        assert running.statistics()["mailboxes"]["busy"]["handled"] >= 1


async def test_an_idle_actor_gives_up_its_task_and_takes_it_again_with_its_state(monkeypatch):
    monkeypatch.setattr("atoll.actors.runtime.system.LOOK_FOR_IDLE_S", 0.005)
    async with system() as running:
        ref = await running.spawn(Counter, "counter")
        assert running.statistics()["tasks"] == 0
        for total in range(1, 20):
            assert await ref.ask(Add(1)) == total
            await until(lambda: running.statistics()["tasks"] == 0)
        assert running.statistics()["mailboxes"]["counter"]["starts"] == 1
        with pytest.raises(AskCrashed):
            await ref.ask(Break())
        assert await ref.ask(Add(1)) == 1
        await until(lambda: running.statistics()["tasks"] == 0)
        await running.stop(ref)
        assert running.find("counter") is None


async def test_an_actor_with_background_tasks_or_a_message_in_hand_keeps_its_task(monkeypatch):
    monkeypatch.setattr("atoll.actors.runtime.system.LOOK_FOR_IDLE_S", 0.001)
    gate = anyio.Event()
    ticks = []

    class Ticker(Actor):
        @handles
        async def go(self, message: Add) -> None:
            self.tasks.start_soon(self.tick)

        async def tick(self):
            await gate.wait()
            ticks.append(1)

    async with system() as running:
        ticker = await running.spawn(Ticker, "ticker")
        counter = await running.spawn(lambda: Counter(gate), "counter")
        with pytest.raises(UsageError, match="before it is started"):
            running.cell("ticker").actor.tasks.start_soon(anyio.sleep, 0)
        await ticker.ask(Add(1))
        counter.tell(Wait())
        await anyio.sleep(0.03)
        assert running.statistics()["tasks"] == 2
        gate.set()
        await until(lambda: ticks)
        assert await counter.ask(Add(1)) == 1
        await until(lambda: running.statistics()["tasks"] == 1)


async def test_an_actor_that_stops_itself_while_it_is_about_to_rest_is_stopped():
    async with system() as running:
        ref = await running.spawn(Counter, "counter")
        await ref.ask(Add(1))
        cell = running.cell("counter")
        await until(lambda: cell.mailbox.parked is not None)
        cell.look()
        cell.look()
        cell.actor.stop()
        await until(lambda: running.statistics()["mailboxes"]["counter"]["starts"] == 2)
        assert await ref.ask(Total()) == 0


async def test_whoever_waits_for_room_goes_on_when_the_actor_ends():
    gate = anyio.Event()
    async with system() as running:
        ref = await running.spawn(lambda: Counter(gate), "counter", mailbox_max=1)
        ref.tell(Wait())
        await until(lambda: running.statistics()["mailboxes"]["counter"]["waiting"] == 0)
        ref.tell(Add(1))
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ref.wait_room)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(running.stop, ref)
                await anyio.wait_all_tasks_blocked()
                gate.set()
        ref.tell(Add(1))
        assert running.statistics()["dead_letters"] == 2
