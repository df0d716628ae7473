"""Tasks that actors borrow: how many, and what one actor leaves of itself to the next that has its task."""

import gc
import weakref
from contextvars import ContextVar

import anyio
import pytest
from counter_actor import Add, Counter, Total, Wait, system
from waiting import until

from atoll.actors.runtime import Actor, handles
from atoll.actors.runtime.workers import FREE_MAX, Workers
from atoll.transport.parking import promise_factory

pytestmark = pytest.mark.anyio

whose: ContextVar[str] = ContextVar("whose", default="nobody's")


async def test_many_actors_that_have_messages_at_once_need_few_tasks():
    async with system() as running:
        refs = [await running.spawn(Counter, f"counter-{number}") for number in range(200)]
        before, most = len(anyio.get_running_tasks()), 0
        for ref in refs:
            ref.tell(Add(1))
        while await refs[-1].ask(Total()) != 1 or most == 0:
            most = max(most, len(anyio.get_running_tasks()))
        assert [await ref.ask(Total()) for ref in refs] == [1] * 200
        assert len(anyio.get_running_tasks()) - before <= 3
        assert most - before <= 3


async def test_an_actor_that_waits_in_a_handler_holds_up_nobody_and_the_tasks_that_needs_go_again():
    gate = anyio.Event()
    async with system() as running:
        before = len(anyio.get_running_tasks())
        waiting = [await running.spawn(lambda: Counter(gate), f"waiting-{number}") for number in range(50)]
        other = await running.spawn(Counter, "other")
        for ref in waiting:
            ref.tell(Wait())
        try:
            with anyio.fail_after(5):
                assert await other.ask(Add(1)) == 1
            assert running.statistics()["tasks"] == 50
        finally:
            # Also after a failure: an actor that no task comes to cannot be stopped.
            gate.set()
            await until(lambda: running.statistics()["tasks"] == 0)
        await until(lambda: len(anyio.get_running_tasks()) - before <= FREE_MAX)
        assert await waiting[0].ask(Add(2)) == 2


class Setter(Actor):
    @handles
    async def set(self, message: Add) -> None:
        whose.set("the setter's")


class Getter(Actor):
    @handles
    async def get(self, message: Add) -> str:
        return whose.get()


async def test_what_a_handler_leaves_in_its_context_is_not_seen_by_other_actors():
    async with system() as running:
        setter = await running.spawn(Setter, "setter")
        getter = await running.spawn(Getter, "getter")
        for _ in range(3):
            await setter.ask(Add(1))
            assert await getter.ask(Add(1)) == "nobody's"


async def test_an_actor_does_not_see_the_context_of_whoever_told_the_first_message():
    async with system() as running:
        getter = await running.spawn(Getter, "getter")
        token = whose.set("the asker's")
        try:
            assert await getter.ask(Add(1)) == "nobody's"
        finally:
            whose.reset(token)


class Blob:
    """Something that can be seen to be forgotten."""


class Keeper(Actor):
    """Notes which tasks run it, and in which order it is told what; waits at a gate when told to."""

    def __init__(self, gate=None):
        self.gate = gate
        self.is_waiting = False
        self.tasks_seen = []
        self.told = []

    @handles
    async def add(self, message: Add) -> int:
        self.tasks_seen.append(anyio.get_current_task().id)
        self.told.append(message.number)
        return message.number

    @handles
    async def wait(self, message: Wait) -> None:
        self.is_waiting = True
        await self.gate.wait()
        self.is_waiting = False

    @handles
    async def blob(self, message: Blob) -> Blob:
        return message


async def rested(running):
    await until(lambda: running.statistics()["tasks"] == 0)


async def test_a_task_stays_with_its_actor_while_nobody_else_needs_it():
    async with system() as running:
        refs = [await running.spawn(Keeper, f"keeper-{number}") for number in range(2)]
        keepers = [running.cell(ref.address.path).actor for ref in refs]
        # Told at once, they need two tasks, and each keeps one.
        for ref in refs:
            ref.tell(Add(0))
        await rested(running)
        for number in range(1, FREE_MAX + 5):
            for ref in refs:
                assert await ref.ask(Add(number)) == number
        assert [len(set(keeper.tasks_seen[1:])) for keeper in keepers] == [1, 1]
        assert keepers[0].tasks_seen[-1] != keepers[1].tasks_seen[-1]


@pytest.mark.parametrize("first", [0, 1])
async def test_an_actor_whose_task_lingers_and_one_without_can_be_told_at_once(first):
    gate = anyio.Event()
    async with system() as running:
        lingering = await running.spawn(Keeper, "lingering")
        without = await running.spawn(lambda: Keeper(gate), "without")
        await lingering.ask(Add(0))
        expected = [0]
        try:
            for number in range(1, 20):
                await rested(running)
                orders = [(lingering, Add(number)), (without, Add(number)), (lingering, Add(-number))]
                for ref, message in orders[first:] + orders[:first]:
                    ref.tell(message)
                expected.extend([number, -number] if first == 0 else [-number, number])
                await until(lambda: running.cell("lingering").actor.told == expected)
                await until(lambda number=number: running.cell("without").actor.told == [*range(1, number + 1)])
            # The task that the waiting actor takes is the one that lingers; who is told after it needs another.
            without.tell(Wait())
            lingering.tell(Add(20))
            with anyio.fail_after(5):
                assert await lingering.ask(Add(21)) == 21
        finally:
            gate.set()
            await rested(running)


async def test_an_actor_whose_task_lingers_can_be_stopped_and_made_anew():
    async with system() as running:
        for number in range(1, 4):
            ref = await running.spawn(Keeper, "keeper")
            assert await ref.ask(Add(number)) == number
            await rested(running)
            first = weakref.ref(running.cell("keeper").actor)
            with anyio.fail_after(1):
                await running.stop(ref)
            assert running.statistics()["tasks"] == 0
            if number == 2:
                await until(lambda: gc.collect() >= 0 and first() is None)  # noqa: B023 - awaited here
            ref = await running.spawn(Keeper, "keeper")
            # Before the task that lingered has heard that it is free.
            ref.tell(Add(-number))
            with anyio.fail_after(1):
                assert await ref.ask(Add(number)) == number
            assert running.cell("keeper").actor.told == [-number, number]
            await rested(running)
            ref.tell(Add(0))
            # It is told, and stopped before its task comes.
            with anyio.fail_after(1):
                await running.stop(ref)
            assert running.statistics()["dead_letters"] == number


async def test_an_actor_whose_task_lingered_finishes_its_message_before_it_is_stopped_and_has_its_background_tasks():
    gate = anyio.Event()
    async with system() as running:
        keeper = await running.spawn(lambda: Keeper(gate), "keeper")
        await keeper.ask(Add(1))
        await rested(running)
        actor = running.cell("keeper").actor
        keeper.tell(Wait())
        try:
            await until(lambda: actor.is_waiting)
            assert running.statistics()["tasks"] == 1
            actor.tasks.start_soon(anyio.sleep_forever)
            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(running.stop, keeper)
                    await anyio.wait_all_tasks_blocked()
                    assert running.find("keeper") is not None
                    gate.set()
        finally:
            gate.set()
        assert not actor.is_waiting


async def test_an_actor_that_stops_itself_as_its_lingering_task_is_called_away_is_stopped():
    async with system() as running:
        keeper = await running.spawn(Keeper, "keeper")
        other = await running.spawn(Keeper, "other")
        await keeper.ask(Add(1))
        await rested(running)
        other.tell(Add(1))
        running.cell("keeper").actor.stop()
        with anyio.fail_after(5):
            assert await other.ask(Add(2)) == 2
            await until(lambda: running.statistics()["mailboxes"]["keeper"]["starts"] == 2)
            assert await keeper.ask(Add(3)) == 3


async def test_an_actor_at_rest_keeps_no_message_and_no_answer():
    async with system() as running:
        keeper = await running.spawn(Keeper, "keeper")
        told, asked = Blob(), Blob()
        forgotten = [weakref.ref(told), weakref.ref(asked)]
        keeper.tell(told)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keeper.ask, asked)
        del told, asked
        await rested(running)
        gc.collect()
        assert [each() for each in forgotten] == [None, None]


class Seat:
    """Stands in for a cell: waits in its handler."""

    was_torn_down = False

    async def work(self, tasks, worker) -> bool:
        await anyio.sleep_forever()
        return True

    def torn_down(self) -> None:
        self.was_torn_down = True


async def test_all_who_are_ready_hear_of_it_when_their_branch_is_torn_down():
    seats = [Seat() for _ in range(5)]
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            workers = Workers(group, promise_factory())
            workers.ready += seats
            workers.call()
            group.cancel_scope.cancel()
    assert all(seat.was_torn_down for seat in seats)
