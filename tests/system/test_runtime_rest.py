"""Actors that stop themselves, that are busy, and that rest and give up their task."""

import anyio
import pytest
from counter_actor import Add, Break, Counter, Total, Wait, system
from waiting import until

from atoll.actors.runtime import (
    Actor,
    AskCrashed,
    Restart,
    handles,
)
from atoll.transport.errors import UsageError

pytestmark = pytest.mark.anyio


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


async def test_an_idle_actor_gives_up_its_task_and_takes_it_again_with_its_state():
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


async def test_an_actor_with_background_tasks_or_a_message_in_hand_keeps_its_task():
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


async def test_an_actor_that_stops_itself_while_it_rests_is_stopped():
    async with system() as running:
        ref = await running.spawn(Counter, "counter")
        await ref.ask(Add(1))
        cell = running.cell("counter")
        await until(lambda: not cell.running)
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
