"""A site of real nodes in one process, on loopback, for tests of migratable actors; and the actors that they host."""

import contextlib

import anyio
import anyio.lowlevel
import msgspec
from waiting import until

from atoll import DurableActor, MigratableActor, Node, handles
from atoll.actors.runtime import Declined
from atoll.cluster_specs.config import BeaconConfig, GatewayConfig, LinksConfig, NodeConfig, SiteConfig
from atoll.cluster_specs.reading import Secret
from atoll.transport.keys import NodeKey

WITHIN_S = 30
"""On a loaded host; what is waited for usually takes less than a second."""


class Add(msgspec.Struct):
    who: str
    number: int = 1


class Tally(msgspec.Struct):
    """After an operation: how many there were in all, and how many of this caller."""

    total: int
    own: int


class Fill(msgspec.Struct):
    size_bytes: int


class Refuse(msgspec.Struct):
    pass


class Break(msgspec.Struct):
    pass


class Wait(msgspec.Struct):
    pass


class Books(msgspec.Struct):
    total: int
    of: dict[str, int]
    ballast: bytes


class Counting:
    """What both kinds do."""

    def __init__(self):
        self.total = 0
        self.of = {}
        self.ballast = b""

    def count(self, message):
        self.total += message.number
        self.of[message.who] = self.of.get(message.who, 0) + 1
        return Tally(self.total, self.of[message.who])

    def snapshot(self) -> Books:
        return Books(self.total, self.of, self.ballast)

    def restore(self, state: Books) -> None:
        self.total, self.of, self.ballast = state.total, state.of, state.ballast


class Ledger(Counting, DurableActor):
    """Counts, and loses nothing."""

    @handles
    async def add(self, message: Add) -> Tally:
        return self.count(message)

    @handles
    async def fill(self, message: Fill) -> int:
        self.ballast = bytes(message.size_bytes)
        return len(self.ballast)

    @handles
    async def refuse(self, message: Refuse) -> None:
        raise Declined("not today")

    @handles
    async def crash(self, message: Break) -> None:
        self.total = -1
        raise ValueError("broken on purpose")

    @handles
    async def wait(self, message: Wait) -> None:
        self.total = -1
        await anyio.lowlevel.checkpoint()


class Tide(Counting, MigratableActor):
    """Counts, as long as its host lives."""

    @handles
    async def add(self, message: Add) -> Tally:
        await anyio.lowlevel.checkpoint()
        return self.count(message)

    @handles
    async def refuse(self, message: Refuse) -> None:
        raise Declined("not today")

    @handles
    async def crash(self, message: Break) -> None:
        raise ValueError("broken on purpose")


class MigrationSite:
    """Up to so many nodes, by name `n0` and so on; all are voters."""

    def __init__(self, folder, beacon_port, count=3):
        self.folder = folder
        self.beacon_port = beacon_port
        self.keys = [NodeKey.generate() for _ in range(count)]
        self.nodes = {}

    def config(self, name):
        voters = tuple(key.node_id for key in self.keys)
        return NodeConfig(
            name=name,
            state_dir=self.folder / name,
            run_dir=self.folder / name / "run",
            gateway=GatewayConfig(port=-1),
            links=LinksConfig(host="127.0.0.1", port=0),
            beacon=BeaconConfig(enabled=True, port=self.beacon_port, interfaces=("lo",)),
            site=SiteConfig(name="home", secret=Secret(b"s" * 32), voters=voters),
        )

    @contextlib.asynccontextmanager
    async def node(self, number, *hosted):
        """Run one node that hosts these classes under their names in small letters."""
        name = f"n{number}"
        async with Node.open(self.config(name), key=self.keys[number]) as node:
            for kind in hosted:
                node.host(kind, kind.__name__.lower())
            self.nodes[name] = node
            try:
                yield node
            finally:
                del self.nodes[name]

    @contextlib.asynccontextmanager
    async def all_nodes(self, *hosted):
        async with contextlib.AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(self.node(each, *hosted)) for each in range(len(self.keys))]
            await self.known()
            yield nodes

    async def known(self):
        """Wait until every node has all others on its roll."""
        others = len(self.nodes) - 1
        await until(lambda: all(len(self.shell(name)._members) == others for name in self.nodes), WITHIN_S)

    def shell(self, name):
        return self.nodes[name].system.cell("hosting").actor

    def hosting(self, name):
        return self.shell(name).hosting

    def host_of(self, actor):
        """Name the node that serves an actor."""
        found = [name for name in self.nodes if (owner := self.hosting(name).owners.get(actor)) and owner.serving]
        return found[-1] if found else None

    def store(self, name):
        return self.nodes[name].system.cell("log_store").actor.store

    def has_voice(self, name, actor):
        """Tell whether the log of that node's store counts."""
        kept = self.store(name).logs.get(actor)
        return kept is not None and kept.voice

    async def filled(self, actor):
        """Wait until all stores have the log: one that was not asked when the actor was founded is filled after that.

        Until then the loss of another one is the loss of two, and stops the actor.
        """
        await until(lambda: all(self.has_voice(name, actor) for name in self.nodes), WITHIN_S)


class CheckingClient:
    """Calls one after the other, and checks every reply against all that was acknowledged before."""

    def __init__(self, ref, who, totals):
        self.ref, self.who, self.totals = ref, who, totals
        self.acknowledged = 0
        self.longest_s = 0.0

    async def call(self):
        highest = max(self.totals, default=0)
        began = anyio.current_time()
        tally = await self.ref.ask(Add(self.who), timeout_s=WITHIN_S)
        self.longest_s = max(self.longest_s, anyio.current_time() - began)
        self.acknowledged += 1
        assert tally.own == self.acknowledged, f"{self.who} was counted {tally.own} times, not {self.acknowledged}"
        assert tally.total not in self.totals, f"two operations are the {tally.total}th: one is lost"
        assert tally.total > highest, f"the {highest}th was acknowledged before the {tally.total}th began"
        self.totals.add(tally.total)

    async def run(self):
        while True:
            await self.call()
