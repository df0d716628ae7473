"""Supervision trees that run: order, restarts, escalation, endings, cancellation."""

import threading

import anyio
import anyio.lowlevel
import msgspec
import pytest
from waiting import until

from atoll.actors.runtime import (
    MESSAGES,
    Actor,
    ActorSystem,
    AskCrashed,
    ChildSpec,
    Restart,
    Restarted,
    RestartsExhausted,
    StartFailed,
    Strategy,
    SupervisorSpec,
    handles,
)
from atoll.transport.codec import Codec
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId

pytestmark = pytest.mark.anyio


class Break(msgspec.Struct):
    pass


class Who(msgspec.Struct):
    pass


class Hang(msgspec.Struct):
    pass


class Tracked(Actor):
    """Writes down what happens to it."""

    def __init__(self, diary, name):
        self.diary = diary
        self.name = name

    async def started(self):
        self.diary.append(f"+{self.name}")

    async def stopped(self):
        # A cancelled actor still gets the time to clean up.
        await anyio.lowlevel.checkpoint()
        self.diary.append(f"-{self.name}")

    @handles
    async def crash(self, message: Break) -> None:
        raise ValueError(self.name)

    @handles
    async def who(self, message: Who) -> str:
        return self.name

    @handles
    async def hang(self, message: Hang) -> None:
        self.diary.append(f"~{self.name}")
        await anyio.sleep_forever()


def system(**more):
    return ActorSystem(NodeId(b"n" * 32), Codec(MESSAGES), **more)


def tracked(diary, name, **more):
    return ChildSpec(name=name, factory=lambda: Tracked(diary, name), **more)


async def test_actors_start_in_order_and_stop_last_first():
    diary = []
    async with system() as running:
        await running.supervise(SupervisorSpec(name="node", children=[tracked(diary, each) for each in "abc"]))
        await running.spawn(lambda: Tracked(diary, "d"), "d")
    assert diary == ["+a", "+b", "+c", "+d", "-d", "-c", "-b", "-a"]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.ONE_FOR_ONE, ["-b", "+b"]),
        (Strategy.REST_FOR_ONE, ["-b", "-c", "+b", "+c"]),
        (Strategy.ONE_FOR_ALL, ["-b", "-c", "-a", "+a", "+b", "+c"]),
    ],
)
async def test_a_crash_restarts_whom_the_strategy_says(strategy, expected):
    diary = []
    async with system() as running:
        spec = SupervisorSpec(name="node", strategy=strategy, children=[tracked(diary, each) for each in "abc"])
        await running.supervise(spec)
        diary.clear()
        with pytest.raises(AskCrashed):
            await running.find("b").ask(Break())
        for each in "abc":
            assert await running.find(each).ask(Who()) == each
        assert diary == expected


async def test_restarts_are_announced():
    heard = []

    class Listener(Actor):
        @handles
        async def restarted(self, message: Restarted) -> None:
            heard.append(message)

    async with system() as running:
        running.subscribe(Restarted, await running.spawn(Listener, "listener"))
        ref = await running.spawn(lambda: Tracked([], "a"), "a")
        ref.tell(Break())
        await until(lambda: heard)
        assert heard == [Restarted("a", "a")]


async def test_a_group_that_crashes_too_often_is_restarted_as_a_whole_by_the_one_above():
    diary = []
    async with system() as running:
        inner = SupervisorSpec(name="inner", children=[tracked(diary, "a"), tracked(diary, "b")], intensity=1)
        await running.supervise(SupervisorSpec(name="outer", children=[tracked(diary, "z"), inner]))
        await running.spawn(lambda: Tracked(diary, "late"), "late", under="inner")
        diary.clear()
        for _ in range(2):
            with pytest.raises(AskCrashed):
                await running.find("a").ask(Break())
            await until(lambda: running.find("a") is not None)
        await until(lambda: diary[-2:] == ["+a", "+b"])
        assert diary == ["-a", "+a", "-a", "-late", "-b", "+a", "+b"]
        # Only what its specification names comes back.
        assert running.find("late") is None
        assert await running.find("z").ask(Who()) == "z"


async def test_when_the_root_gives_up_the_error_leaves_the_block_and_everything_is_cleaned_up():
    diary = []
    with pytest.raises(RestartsExhausted, match="a ended, and 1 restarts in 5 s") as caught:  # noqa: PT012 - it leaves the block
        async with system(intensity=1) as running:
            await running.spawn(lambda: Tracked(diary, "first"), "first")
            ref = await running.spawn(lambda: Tracked(diary, "a"), "a")
            ref.tell(Break())
            ref.tell(Break())
            with anyio.fail_after(5):
                await anyio.sleep_forever()
    assert isinstance(caught.value.__cause__, ValueError)
    assert diary == ["+first", "+a", "-a", "+a", "-a", "-first"]


async def test_a_start_that_fails_reaches_the_spawner_and_leaves_nothing():
    diary = []

    class Stubborn(Tracked):
        async def started(self):
            await super().started()
            raise OSError("port in use")

    async with system() as running:
        with pytest.raises(StartFailed, match="stubborn did not start: OSError: port in use") as caught:
            await running.spawn(lambda: Stubborn(diary, "stubborn"), "stubborn")
        assert isinstance(caught.value.__cause__, OSError)
        # `stopped` runs for a half-started actor too.
        assert diary == ["+stubborn", "-stubborn"]
        assert running.find("stubborn") is None
        diary.clear()
        children = [tracked(diary, "a"), ChildSpec(name="s", factory=lambda: Stubborn(diary, "s"))]
        with pytest.raises(StartFailed, match="group did not start: StartFailed: s did not start"):
            await running.supervise(SupervisorSpec(name="group", children=children))
        assert diary == ["+a", "+s", "-s", "-a"]
        assert running.find("a") is None
        # The names are free again.
        await running.supervise(SupervisorSpec(name="group", children=[tracked(diary, "a")]))


async def test_a_restart_that_fails_counts_against_the_budget():
    starts = []

    class Unlucky(Actor):
        async def started(self):
            starts.append(1)
            if len(starts) > 1:
                raise OSError("still in use")

        @handles
        async def crash(self, message: Break) -> None:
            raise ValueError

    with pytest.raises(RestartsExhausted) as caught:  # noqa: PT012 - it leaves the block
        async with system(intensity=3) as running:
            ref = await running.spawn(Unlucky, "unlucky")
            ref.tell(Break())
            with anyio.fail_after(5):
                await anyio.sleep_forever()
    assert len(starts) == 4
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_failing_background_task_crashes_its_actor_and_its_other_tasks_end_first():
    diary = []

    class Worker(Tracked):
        async def started(self):
            await super().started()
            self.tasks.start_soon(self.linger)
            if len(diary) == 1:
                self.tasks.start_soon(self.fail)

        async def fail(self):
            raise ValueError("in the background")

        async def linger(self):
            try:
                await anyio.sleep_forever()
            finally:
                diary.append("task")

    with anyio.fail_after(3):
        async with system() as running:
            ref = await running.spawn(lambda: Worker(diary, "w"), "w")
            await until(lambda: running.statistics()["mailboxes"]["w"]["starts"] == 2)
            assert await ref.ask(Who()) == "w"
    assert diary == ["+w", "task", "-w", "+w", "task", "-w"]


async def test_cancelling_the_block_cancels_handlers_but_still_cleans_up_last_first():
    diary = []
    with anyio.fail_after(5):
        with anyio.CancelScope() as scope:
            async with system() as running:
                for each in "abc":
                    ref = await running.spawn(lambda each=each: Tracked(diary, each), each)
                    ref.tell(Hang())
                await until(lambda: sum(line[0] == "~" for line in diary) == 3)
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
    assert diary[-3:] == ["-c", "-b", "-a"]


async def test_an_error_in_the_block_comes_out_as_it_is():
    diary = []
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - it leaves the block
        async with system() as running:
            await running.spawn(lambda: Tracked(diary, "a"), "a")
            raise KeyError("mine")
    assert diary == ["+a", "-a"]


async def test_a_cancelled_spawn_ends_the_half_started_actor():
    diary = []

    class Slow(Tracked):
        async def started(self):
            await super().started()
            await anyio.sleep_forever()

    async with system() as running:
        with anyio.move_on_after(0.01):
            await running.spawn(lambda: Slow(diary, "slow"), "slow")
        assert diary == ["+slow", "-slow"]
        assert running.find("slow") is None
        children = [tracked(diary, "a"), ChildSpec(name="slow", factory=lambda: Slow(diary, "slow"))]
        diary.clear()
        with anyio.move_on_after(0.01):
            await running.supervise(SupervisorSpec(name="group", children=children))
        assert diary == ["+a", "+slow", "-slow", "-a"]
        await running.spawn(lambda: Tracked(diary, "slow"), "slow")


async def test_a_handler_that_does_not_end_is_cancelled_after_the_patience(monkeypatch):
    monkeypatch.setattr("atoll.actors.runtime.cell.STOP_S", 0.01)
    diary = []
    async with system() as running:
        ref = await running.spawn(lambda: Tracked(diary, "a"), "a")
        ref.tell(Hang())
        await until(lambda: "~a" in diary)
        with anyio.fail_after(5):
            await running.stop(ref)
        assert diary == ["+a", "~a", "-a"]


async def test_a_stopped_that_hangs_or_raises_is_bounded_and_counted(monkeypatch):
    monkeypatch.setattr("atoll.actors.runtime.cell.STOPPED_S", 0.01)

    class Hanging(Actor):
        async def stopped(self):
            await anyio.sleep_forever()

    class Raising(Actor):
        async def stopped(self):
            raise ValueError("while cleaning up")

    with anyio.fail_after(5):
        async with system() as running:
            await running.spawn(Hanging, "hanging")
            await running.spawn(Raising, "raising")
    assert running.statistics()["stopped_failed"] == 2


async def test_stopping_a_group_member_is_not_a_crash():
    diary = []
    async with system() as running:
        spec = SupervisorSpec(
            name="g", strategy=Strategy.ONE_FOR_ALL, children=[tracked(diary, "a"), tracked(diary, "b")]
        )
        await running.supervise(spec)
        await running.stop(running.find("a"))
        assert diary == ["+a", "+b", "-a"]
        assert await running.find("b").ask(Who()) == "b"


async def test_a_temporary_child_of_a_group_ends_without_the_group():
    diary = []
    async with system() as running:
        children = [tracked(diary, "a"), tracked(diary, "b", restart=Restart.TEMPORARY)]
        await running.supervise(SupervisorSpec(name="g", strategy=Strategy.ONE_FOR_ALL, children=children))
        running.find("b").tell(Break())
        await until(lambda: running.find("b") is None)
        assert diary == ["+a", "+b", "-b"]


async def test_doubled_names_of_supervisors_are_refused():
    async with system() as running:
        await running.supervise(SupervisorSpec(name="g"))
        with pytest.raises(UsageError, match="named g runs here already"):
            await running.supervise(SupervisorSpec(name="g"), under="g")
        assert await running.ask((await running.spawn(lambda: Tracked([], "a"), "a", under="g")), Who()) == "a"


async def test_embedding_starts_no_thread():
    before = threading.active_count()
    async with system() as running:
        ref = await running.spawn(lambda: Tracked([], "a"), "a")
        await ref.ask(Who())
        assert threading.active_count() == before


async def test_actors_may_spawn_and_stop_others():
    class Parent(Actor):
        @handles
        async def who(self, message: Who) -> str:
            child = await self.system.spawn(lambda: Tracked([], "child"), "child")
            name = await child.ask(Who())
            await self.system.stop(child)
            return name

    async with system() as running:
        ref = await running.spawn(Parent, "parent")
        with anyio.fail_after(5):
            assert await ref.ask(Who()) == "child"
        assert running.find("child") is None


async def test_two_that_crash_together_cost_one_restart_of_their_group():
    diary = []
    async with system() as running:
        spec = SupervisorSpec(
            name="g",
            strategy=Strategy.ONE_FOR_ALL,
            intensity=1,
            children=[tracked(diary, "a"), tracked(diary, "b")],
        )
        await running.supervise(spec)
        a, b = running.find("a"), running.find("b")
        diary.clear()
        a.tell(Break())
        b.tell(Break())
        assert await b.ask(Who()) == "b"
        assert await a.ask(Who()) == "a"
        await anyio.wait_all_tasks_blocked()
        assert running.statistics()["crashes"] == 2
        assert running.statistics()["restarts"] == 2
        assert sorted(diary[:2]) == ["-a", "-b"]
        assert diary[2:] == ["+a", "+b"]


async def test_when_everything_is_torn_down_at_once_each_actor_still_cleans_up():
    class Abort(BaseException):
        pass

    class Bomb(Actor):
        @handles
        async def crash(self, message: Break) -> None:
            raise Abort

    diary = []
    with pytest.raises(Abort):  # noqa: PT012 - it leaves the block
        async with system() as running:
            await running.spawn(lambda: Tracked(diary, "a"), "a")
            (await running.spawn(Bomb, "bomb")).tell(Break())
            with anyio.fail_after(5):
                await anyio.sleep_forever()
    assert diary == ["+a", "-a"]
