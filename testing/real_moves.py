"""Moves a durable actor between processes, kills them now and then, and checks every operation that is acknowledged.

    a driver, a member of the site that hosts nothing: callers, each with one call outstanding; it orders the moves
    lan/n1 .. nN: processes that host the `Ledger`; one at most is away at any time

Promise R6: no acknowledged operation is lost, doubled or answered differently. A reply has the count of all operations
and that of the caller's own. So a total that comes twice is a lost operation, a wrong own count a doubled or lost one,
and a total that is not above all that were acknowledged before the call began is an operation in the wrong order.
Promise R7: how long a planned move pauses, as a caller sees it: the longest call that overlaps it.
"""

import itertools
import statistics
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import anyio
import msgspec
from anyio.abc import TaskGroup

from atoll.actors.hand_over.hosting_actor import STORES
from atoll.actors.hand_over.messages import OPERATION_BYTES_MAX
from atoll.actors.runtime import ActorRef, AskFailed
from atoll.cluster_specs.config import GatewayConfig, LinksConfig, NodeConfig
from atoll.node import Node
from atoll.testing.cluster import Cluster
from atoll.testing.ledger import LEDGER, Add, Fill, Tally
from atoll.transport.errors import TransportError
from atoll.transport.keys import NodeKey

CALLERS = 3
CALL_S = 60.0
"""A killed host is back within some seconds; a call that takes longer is a failure."""
MOVE_S = 20.0
KILL_WITHIN_S = 0.1
"""A kill comes at any time within a move, and around it."""
CALLS_KEPT = 4096


@asynccontextmanager
async def driver_of(cluster: Cluster, site: str, directory: Path) -> AsyncIterator[Node]:
    """Run one more member of a cluster's site, in this process; it hosts nothing."""
    like = next(each.config for name, each in cluster.planned.items() if name.startswith(f"{site}/"))
    if not isinstance(like, NodeConfig):
        raise TypeError(f"{site} has no nodes")
    config = msgspec.structs.replace(
        like,
        name="driver",
        state_dir=directory / "driver",
        run_dir=directory / "driver" / "run",
        links=LinksConfig(host="127.0.0.1", port=0),
        gateway=GatewayConfig(port=-1),
    )
    async with Node.open(config, key=NodeKey.generate()) as node:
        yield node


@dataclass(slots=True)
class Checked:
    """What all callers saw."""

    totals: set[int] = field(default_factory=set)
    highest: int = 0
    acknowledged: int = 0
    violations: list[str] = field(default_factory=list)
    calls: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=CALLS_KEPT))
    """When the last ones began and ended."""

    def longest_s(self, since: float, until: float) -> float:
        """Give the longest call that overlaps that time."""
        return max((end - begin for begin, end in self.calls if end >= since and begin <= until), default=0.0)


class Caller:
    """Calls the ledger, one call after the other, and checks what it hears."""

    def __init__(self, name: str, ledger: ActorRef, checked: Checked) -> None:
        self._name = name
        self._ledger = ledger
        self._checked = checked
        self._own = 0

    async def run(self) -> None:
        """Call until cancelled; ends when an operation's fate is not known."""
        while await self._call():
            pass

    async def _call(self) -> bool:
        checked, began, highest = self._checked, anyio.current_time(), self._checked.highest
        self._own += 1
        who = f"operation {self._own} of {self._name}"
        try:
            tally: Tally = await self._ledger.ask(Add(self._name), timeout_s=CALL_S)
        except AskFailed as error:
            checked.violations.append(f"{who} has no answer: {error}")
            return False
        checked.calls.append((began, anyio.current_time()))
        if tally.own != self._own:
            checked.violations.append(f"{who} is the {tally.own}th of its caller that was applied")
            self._own = tally.own
        if tally.total in checked.totals:
            checked.violations.append(f"{who} is the {tally.total}th, and so was another one, which is lost")
        if tally.total <= highest:
            checked.violations.append(f"{who} is the {tally.total}th, but the {highest}th was acknowledged before")
        checked.totals.add(tally.total)
        checked.highest = max(checked.highest, tally.total)
        checked.acknowledged += 1
        return True


@dataclass(frozen=True, slots=True)
class Pauses:
    """A sample of pauses, in milliseconds; percentiles by nearest rank."""

    n: int
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, sample_s: Iterable[float]) -> "Pauses":
        """Sort a sample."""
        ordered = sorted(1000 * each for each in sample_s)
        if not ordered:
            return cls(0, 0.0, 0.0, 0.0)
        nearest = ordered[min(len(ordered) - 1, -(-99 * len(ordered) // 100) - 1)]
        return cls(len(ordered), round(statistics.median(ordered), 1), round(nearest, 1), round(ordered[-1], 1))


class RealMoves:
    """Moves the ledger of a cluster; `driver` calls it."""

    def __init__(self, cluster: Cluster, driver: Node, rng: Random) -> None:
        self.cluster = cluster
        self.driver = driver
        self.checked = Checked()
        self.moves = 0
        self.kills: Counter[str] = Counter()
        """By what the victim was to the move."""
        self.not_moved: Counter[str] = Counter()
        self.paused_s: list[float] = []
        """As the source saw it, of planned moves with nobody killed."""
        self.seen_s: list[float] = []
        """As callers saw it."""
        self.recovered_s: list[float] = []
        """The longest call that overlaps a kill and what came after it, until all callers had answers again."""
        self.replaced_s: list[float] = []
        """The longest call from the death of a host that does not come back."""
        self._rng = rng
        self._names = sorted(name.partition("/")[2] for name in cluster.planned)
        self._host = ""
        self._callers = 0
        self._roles = itertools.cycle(("source", "target", "another"))

    async def prepare(self, state_bytes: int) -> None:
        """Wait for the ledger, let it grow, and wait until all its stores have that."""
        ledger = await self._found()
        left = state_bytes
        while left > 0:
            part = min(left, OPERATION_BYTES_MAX // 2)
            await ledger.ask(Fill(self._rng.randbytes(part)), timeout_s=CALL_S)
            left -= part
        # A majority is enough to begin. A store that was not there in time is taught in the next generation, and until
        # then the loss of another stops the actor.
        with anyio.fail_after(CALL_S):
            while sum(size >= state_bytes for size in self._log_sizes()) < STORES:  # noqa: ASYNC110 - it is on disk
                await anyio.sleep(0.05)

    def _log_sizes(self) -> Iterator[int]:
        for each in self.cluster.planned.values():
            log = each.config.state_dir / "logs" / f"{LEDGER}.log"
            yield log.stat().st_size if log.exists() else 0

    async def _found(self) -> ActorRef:
        with anyio.fail_after(CALL_S):
            while True:
                try:
                    return await self.driver.find(LEDGER)
                except TransportError:
                    await anyio.sleep(0.05)

    async def run(self, moves: int, kill_every: int) -> None:
        """Make so many moves, with a kill at each `kill_every`th; 0 for none."""
        ledger = await self._found()
        async with anyio.create_task_group() as tasks:
            self._call_all(tasks, ledger)
            while self.moves < moves and len(self.checked.violations) < CALLERS:
                if kill_every and self.moves % kill_every == kill_every - 1:
                    await self._move_and_kill()
                else:
                    await self._move()
                await self._answered()
            tasks.cancel_scope.cancel()
        self.checked.calls.clear()

    async def _answered(self) -> None:
        """Wait until every caller has an answer to a call that began now."""
        now = anyio.current_time()
        with anyio.move_on_after(CALL_S):
            while sum(begin >= now for begin, _ in self.checked.calls) < CALLERS:  # noqa: ASYNC110 - counters have no event
                await anyio.sleep(0.002)

    async def lose_host(self) -> str:
        """Kill the ledger's host for good, and wait until every caller is answered by another; gives its name."""
        ledger = await self._found()
        async with anyio.create_task_group() as tasks:
            self._call_all(tasks, ledger)
            while not await self._move():
                pass
            lost = self._host
            killed_at = await self.cluster.kill(self._process(lost))
            await self._answered()
            tasks.cancel_scope.cancel()
        self.replaced_s.append(self.checked.longest_s(killed_at, anyio.current_time()))
        return self._process(lost)

    def _process(self, name: str) -> str:
        return f"{next(iter(self.cluster.planned)).partition('/')[0]}/{name}"

    def _call_all(self, tasks: TaskGroup, ledger: ActorRef) -> None:
        for _ in range(CALLERS):
            self._callers += 1
            tasks.start_soon(Caller(f"caller-{self._callers}", ledger, self.checked).run)

    def _target(self) -> str:
        return self._rng.choice([name for name in self._names if name != self._host])

    async def _move(self) -> bool:
        """Make one planned move; gives whether the ledger moved."""
        target = self._target()
        began = anyio.current_time()
        try:
            ended = await self.driver.move(LEDGER, to=target, timeout_s=MOVE_S)
        except TransportError as error:
            self.not_moved[str(error).partition(":")[0][:80]] += 1
            return False
        self._host = target
        if ended.paused_ms == 0:
            return False  # It was there already.
        self.moves += 1
        over = anyio.current_time()
        await self._answered()
        self.paused_s.append(ended.paused_ms / 1000)
        self.seen_s.append(self.checked.longest_s(began, over))
        return True

    async def _move_and_kill(self) -> None:
        """Order a move, kill somebody meanwhile with SIGKILL, and start it again."""
        source, target, role = self._host, self._target(), next(self._roles)
        others = [name for name in self._names if name not in (source, target)]
        victim = {"source": source, "target": target}.get(role) or self._rng.choice(others)
        process = self._process(victim)

        async def order() -> None:
            try:
                ended = await self.driver.move(LEDGER, to=target, timeout_s=MOVE_S)
            except TransportError as error:
                self.not_moved[f"{role} killed"] += 1
                del error
            else:
                self._host = target
                self.moves += ended.paused_ms > 0

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(order)
            await anyio.sleep(self._rng.random() * KILL_WITHIN_S)
            killed_at = await self.cluster.kill(process)
            self.kills[role] += 1
            await self.cluster.restart(process)
        with anyio.move_on_after(CALL_S):
            await self._answered()
            self.recovered_s.append(self.checked.longest_s(killed_at, anyio.current_time()))

    @property
    def figures(self) -> dict[str, object]:
        """Give what was measured, as plain data."""
        paused, seen, recovered = (Pauses.of(each) for each in (self.paused_s, self.seen_s, self.recovered_s))
        return {
            "moves": self.moves,
            "kills": dict(sorted(self.kills.items())),
            "acknowledged": self.checked.acknowledged,
            "violations": self.checked.violations,
            "not_moved": dict(sorted(self.not_moved.items())),
            "pause_ms": asdict(paused),
            "longest_call_ms": asdict(seen),
            "longest_call_with_a_kill_ms": asdict(recovered),
        }
