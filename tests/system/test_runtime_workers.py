"""Tasks that actors borrow: how many, and what one actor leaves of itself to the next that has its task."""

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
        with anyio.fail_after(5):
            assert await other.ask(Add(1)) == 1
        assert running.statistics()["tasks"] == 50
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


class Seat:
    """Stands in for a cell: waits in its handler."""

    was_torn_down = False

    async def work(self, tasks) -> bool:
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
