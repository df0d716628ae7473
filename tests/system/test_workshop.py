"""The worker processes of a node: who gives up on one ends no work that the next would begin anew."""

import anyio
import anyio.lowlevel
import pytest

from atoll.actors.container_manager import workshop
from atoll.actors.container_manager.runtimes.javascript import WorkerGone
from atoll.actors.container_manager.timers import Timers

pytestmark = pytest.mark.anyio


class Engine:
    """How long engines compile, and the workers that wait for theirs."""

    def __init__(self):
        self.compiled = anyio.Event()
        self.begun = []

    def worker(self, cache):
        made = SlowWorker(self)
        self.begun.append(made)
        return made


class SlowWorker:
    """Stands where a worker process stands: ready when its engine is compiled."""

    def __init__(self, engine):
        self.engine = engine
        self.gone = ""
        self.ended = anyio.Event()

    async def run(self, *, task_status):
        try:
            await self.engine.compiled.wait()
            if self.gone:
                raise WorkerGone(self.gone)
            task_status.started()
            await self.ended.wait()
        finally:
            self.gone = self.gone or "its task ended"

    def kill(self, reason):
        self.gone = reason
        self.ended.set()


@pytest.fixture
def engine(monkeypatch):
    made = Engine()
    monkeypatch.setattr(workshop, "Worker", made.worker)
    return made


@pytest.fixture
async def shop(engine, tmp_path):
    async with anyio.create_task_group() as tasks:
        yield workshop.Workshop(tasks, Timers(), tmp_path)
        tasks.cancel_scope.cancel()


async def given_up(shop, takers):
    """Let so many want a worker at once, and give up while the engine is being compiled."""
    async with anyio.create_task_group() as tasks:
        for _ in range(takers):
            tasks.start_soon(shop.take)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    await anyio.wait_all_tasks_blocked()


async def test_an_engine_that_takes_longer_than_its_callers_patience_is_compiled_once(engine, shop):
    for _ in range(3):
        await given_up(shop, 1)
    engine.compiled.set()
    taken = await shop.take()
    assert engine.begun == [taken]
    assert not taken.gone
    assert shop.alive == 1


async def test_of_several_that_nobody_waits_for_one_stays_as_the_spare(engine, shop):
    await given_up(shop, 3)
    assert sorted(bool(each.gone) for each in engine.begun) == [False, True, True]
    engine.compiled.set()
    await anyio.wait_all_tasks_blocked()
    assert shop.spare_ready
    assert shop.alive == 1


@pytest.mark.parametrize("turns", range(12))
async def test_a_worker_that_comes_as_its_taker_leaves_is_lost_to_nobody(engine, shop, turns):
    taken = []

    async def take():
        taken.append(await shop.take())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        engine.compiled.set()
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    await anyio.wait_all_tasks_blocked()
    assert shop.spare_ready is not bool(taken)
    assert taken or await shop.take() is engine.begun[0]
    assert shop.alive == 1


async def test_who_waits_for_a_worker_that_cannot_be_hears_why(engine, shop):
    refused = []

    async def take():
        with pytest.raises(WorkerGone) as raised:
            await shop.take()
        refused.append(str(raised.value))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        engine.begun[0].gone = "out of memory"
        engine.compiled.set()
    assert refused == ["out of memory"]
    assert shop.alive == 0


async def test_who_wants_a_worker_in_the_same_moment_gets_none_beyond_the_limit(engine, tmp_path):
    refused = []
    async with anyio.create_task_group() as tasks:
        shop = workshop.Workshop(tasks, Timers(), tmp_path, workers_max=2)

        async def take():
            try:
                await shop.take()
            except WorkerGone as error:
                refused.append(str(error))

        for _ in range(4):
            tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        assert len(engine.begun) == shop.alive == 2
        assert refused == ["all 2 workers of this node are busy; try again soon"] * 2
        tasks.cancel_scope.cancel()


async def test_an_engine_that_is_never_compiled_holds_up_nobody_for_ever(engine, tmp_path):
    async with anyio.create_task_group() as tasks:
        shop = workshop.Workshop(tasks, Timers(), tmp_path, make_s=0.5)
        await given_up(shop, 1)
        with anyio.fail_after(5), pytest.raises(WorkerGone, match=r"its worker had no engine within 0\.5 s"):
            await shop.take()
        assert all(each.gone for each in engine.begun)
        assert shop.alive == 0
        tasks.cancel_scope.cancel()
