"""Who watches an actor hears of its end; who subscribed hears facts."""

import anyio
import pytest
from counter_actor import Add, Break, Counter, Total, Wait, system
from waiting import until

from atoll.actors.runtime import (
    Actor,
    Address,
    AskCrashed,
    Restart,
    Terminated,
    handles,
)
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId

pytestmark = pytest.mark.anyio


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
