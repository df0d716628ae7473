"""A node inside a program: opened, used and closed on asyncio, uvloop and trio, wrong input included."""

import contextlib
import logging
import os
import runpy
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import ClassVar

import anyio
import anyio.lowlevel
import msgspec
import pytest
from ports import free_port

from atoll import Actor, Node, handles
from atoll.actors.discoverer.messages import PATH as DISCOVERER
from atoll.actors.discoverer.messages import ListSeen
from atoll.actors.runtime import ActorSystem, Address, AskCrashed, StartFailed, Terminated
from atoll.actors.tunnel_relay.open_relay import open_relay
from atoll.cluster_specs import Materials, Seat, SpecInvalid, plan, read_spec
from atoll.cluster_specs.config import BeaconConfig, GatewayConfig, LinksConfig, NodeConfig, SiteConfig
from atoll.cluster_specs.reading import Secret
from atoll.node import open_cloud
from atoll.transport.base import Standing
from atoll.transport.errors import Expired, Unreachable, UsageError
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "embedding.py"
WITHIN_S = 30
"""On a loaded host; what is waited for usually takes less than a second."""


@pytest.fixture
def folder(tmp_path_factory):
    """A folder whose path is short enough for a unix socket."""
    return tmp_path_factory.mktemp("n")


def config(folder, name="one", *, beacon_port=0, voters=(), **more):
    """Say what a node of the site `home` is told that has every port to itself."""
    beacon = BeaconConfig(enabled=beacon_port > 0, port=beacon_port or 1, interfaces=("lo",))
    told = {
        "gateway": GatewayConfig(port=-1),
        "links": LinksConfig(host="127.0.0.1", port=0),
        "beacon": beacon,
        "site": SiteConfig(name="home", secret=Secret(b"s" * 32), voters=tuple(voters)),
    }
    return NodeConfig(name=name, state_dir=folder / name, run_dir=folder / name / "run", **{**told, **more})


class SetTarget(msgspec.Struct):
    celsius: float


class Target(msgspec.Struct):
    celsius: float
    asked: int


class Wait(msgspec.Struct):
    pass


class Break(msgspec.Struct):
    pass


class Unknown(msgspec.Struct):
    pass


class Boiler(Actor):
    """Counts what it is asked since it was started, last or again."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER, Standing.GRANTED})

    def __init__(self):
        self.asked = 0

    @handles
    async def set_target(self, message: SetTarget) -> Target:
        self.asked += 1
        return Target(message.celsius, self.asked)

    @handles
    async def wait(self, _message: Wait) -> None:
        await anyio.sleep(0.2)

    @handles
    async def crash(self, _message: Break) -> None:
        raise RuntimeError("out of water")


class Heir(Actor):
    """Learns of the end of others."""

    def __init__(self):
        self.heard = []
        self.any = anyio.Event()

    @handles
    async def ended(self, message: Terminated) -> None:
        self.heard.append(message.path)
        self.any.set()


async def found(node, name, **where):
    """Find an actor as soon as its node has told of it."""
    with anyio.fail_after(WITHIN_S):
        while True:
            with contextlib.suppress(Unreachable):
                return await node.find(name, **where)
            await anyio.sleep(0.05)


# One node


async def test_the_example_runs(folder, monkeypatch, capsys):
    settings = {"STATE_DIR": folder, "RUN_DIR": folder / "run", "GATEWAY_PORT": -1, "LINKS_PORT": 0}
    for name, value in (settings | {"BEACON_PORT": free_port(socket.SOCK_DGRAM)}).items():
        monkeypatch.setenv(f"ATOLL_{name}", str(value))
    await runpy.run_path(str(EXAMPLE))["main"]()
    assert capsys.readouterr().out == "21.0\n"


async def test_actors_answer_by_type_and_fail_alone(folder):
    async with Node.open(config(folder)) as node:
        ref = await node.spawn(Boiler, name="boiler")
        assert await node.find("boiler") == ref
        assert await ref.ask(SetTarget(21.0)) == Target(21.0, 1)
        with pytest.raises(Expired):
            await ref.ask(Wait(), timeout_s=0.05)
        ref.tell(SetTarget(1.0))
        assert await ref.ask(SetTarget(2.0)) == Target(2.0, 3)
        with pytest.raises(UsageError):
            await ref.ask(Unknown())
        with pytest.raises(AskCrashed, match="out of water"):
            await ref.ask(Break())
        assert await ref.ask(SetTarget(3.0)) == Target(3.0, 1), "a fresh one after the crash"


async def test_who_watches_is_told_of_the_end(folder):
    async with Node.open(config(folder)) as node:
        heir = Heir()
        watcher = await node.spawn(lambda: heir, name="heir")
        boiler = await node.spawn(Boiler, name="boiler")
        node.system.watch(boiler, watcher)
        await node.system.stop(boiler)
        with anyio.fail_after(WITHIN_S):
            await heir.any.wait()
        assert heir.heard == ["boiler"]
        with pytest.raises(Unreachable):
            await boiler.ask(SetTarget(1.0))


async def test_a_name_is_given_once_and_never_the_nodes_own(folder):
    async with Node.open(config(folder)) as node:
        await node.spawn(Boiler, name="boiler")
        for name in ("boiler", "router", "gateway", "", "a b", "/"):
            with pytest.raises(UsageError):
                await node.spawn(Boiler, name=name)
        with pytest.raises(StartFailed):
            await node.spawn(lambda: Boiler(1), name="other")
        for name in ("router", "gateway", "nobody"):
            with pytest.raises(Unreachable, match="no node of this site offers"):
                await node.find(name)
        with pytest.raises(UsageError, match="say site or account"):
            await node.find("boiler", scope="universe")
        with pytest.raises(Unreachable, match="no cloud"):
            await node.find("nobody", scope="account")


# Several nodes


async def test_an_actor_of_another_node_of_the_site_is_found_and_asked(folder):
    port = free_port(socket.SOCK_DGRAM)
    keys = {name: NodeKey.generate() for name in ("one", "two")}
    voters = [key.node_id for key in keys.values()]
    one, two = (config(folder, name, beacon_port=port, voters=voters) for name in keys)
    async with Node.open(one, key=keys["one"]) as here, Node.open(two, key=keys["two"]) as there:
        await there.spawn(Boiler, name="boiler")
        boiler = await found(here, "boiler")
        assert boiler.address == Address(there.id, "boiler")
        assert await boiler.ask(SetTarget(21.0), timeout_s=5) == Target(21.0, 1)
        boiler.tell(SetTarget(1.0))
        assert await boiler.ask(SetTarget(22.0), timeout_s=5) == Target(22.0, 3)
        with pytest.raises(Expired):
            await boiler.ask(Wait(), timeout_s=0.05)
        await here.spawn(Heir, name="boiler")
        own = await here.find("boiler")
        assert own.address.node == here.id, "who is here comes first"
    async with Node.open(one, key=keys["one"]) as here:
        with pytest.raises(Unreachable):
            await here.find("boiler", timeout_s=0.5)


async def test_an_actor_of_another_site_is_found_through_the_cloud(folder):
    ports = {each: free_port() for each in ("cloud", "sep", "bearer")}
    (folder / "x.toml").write_text(
        'name = "x"\n[[cloud]]\nname = "cloud"\n[[relay]]\nname = "relay"\n'
        '[[site]]\nname = "home"\n[[site.node]]\nname = "tv"\n[[site]]\nname = "office"\n[[site.node]]\nname = "desk"\n'
    )
    spec = read_spec(str(folder / "x.toml"))
    own = {"gateway": 0, "links": 0, **ports}
    seats = {
        name: Seat(folder / str(number), ports=own | {"beacon": free_port(socket.SOCK_DGRAM)})
        for number, name in enumerate(spec.process_names())
    }
    planned = {each.name: each for each in plan(spec, Materials.generate(spec), seats)}
    for each in planned.values():
        each.write(seats[each.name].directory)
    async with (
        open_cloud(planned["cloud"].config) as cloud,
        open_relay(planned["relay"].config),
        Node.open(planned["home/tv"].config) as tv,
        Node.open(planned["office/desk"].config) as desk,
    ):
        assert cloud.port == ports["cloud"]
        await desk.spawn(Boiler, name="boiler")
        boiler = await found(tv, "boiler", scope="account")
        assert boiler.address.node == desk.id
        assert await boiler.ask(SetTarget(21.0), timeout_s=10) == Target(21.0, 1)
        with pytest.raises(Unreachable, match="no node of this site"):
            await tv.find("boiler")


async def test_two_nodes_without_a_config_find_each_other(folder, monkeypatch, anyio_backend):
    port = free_port(socket.SOCK_DGRAM)

    def unconfigured(name):
        # Only what two nodes of one host cannot share; on two hosts there is nothing to say.
        settings = {"STATE_DIR": folder / name, "RUN_DIR": folder / name, "GATEWAY_PORT": -1, "LINKS_PORT": 0}
        for setting, value in (settings | {"BEACON_PORT": port}).items():
            monkeypatch.setenv(f"ATOLL_{setting}", str(value))
        return Node.open()

    async with unconfigured("one") as one, unconfigured("two") as two:
        began = anyio.current_time()
        with anyio.fail_after(WITHIN_S):
            while True:
                seen = [
                    await each.system.ask(Address(each.id, DISCOVERER), ListSeen(), timeout_s=5) for each in (one, two)
                ]
                if all(any(node.standing for node in each.nodes) for each in seen):
                    break
                await anyio.sleep(0.01)
        sys.stdout.write(f"found each other after {anyio.current_time() - began:.2f} s on {anyio_backend[0]}\n")
        assert [node.standing for node in seen[0].nodes if node.node == two.id] == ["neighbour"]
        assert [node.standing for node in seen[1].nodes if node.node == one.id] == ["neighbour"]


# How it begins and ends


def held():
    """Count what this process holds: open files and sockets by kind, and its child processes."""
    kinds = Counter()
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            kinds[os.readlink(file).partition(":[")[0]] += 1  # noqa: PTH115 - most of these are no paths
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            kinds["child"] += len((task / "children").read_text().split())
    return +kinds


async def released(before):
    """Wait until the process holds no more than it did; a killed child takes a moment."""
    with anyio.move_on_after(5):
        while held() - before:  # noqa: ASYNC110 - the system tells nobody
            await anyio.sleep(0.02)
    assert held() - before == {}


@pytest.fixture
def linux():
    if not sys.platform.startswith("linux"):
        pytest.skip("open files are counted in /proc")


@pytest.mark.usefixtures("linux")
async def test_a_closed_node_leaves_nothing_but_its_state(folder):
    told = config(folder, beacon_port=free_port(socket.SOCK_DGRAM))
    async with Node.open(told):
        pass
    before = held()
    async with Node.open(told) as node:
        own = node.id
        await node.spawn(Boiler, name="boiler")
        assert told.api_socket.is_socket()
        assert held() - before, "otherwise nothing is measured"
    await released(before)
    assert not told.api_socket.exists()
    with pytest.raises(UsageError, match="does not run"):
        await node.spawn(Boiler, name="late")
    async with Node.open(told) as again:
        assert again.id == own, "its key stays"


@pytest.mark.usefixtures("linux")
async def test_an_error_in_the_body_comes_out_as_it_is_and_closes_the_node(folder):
    async with Node.open(config(folder)):
        pass
    before = held()
    with pytest.raises(KeyError, match="mine"):
        async with Node.open(config(folder)):
            raise KeyError("mine")
    await released(before)


class Cut:
    """Cancels a scope before and within the step of that number; steps are starts of actors and supervisors."""

    def __init__(self):
        self.at = self.steps = self.entered = 0
        self.scope = None

    def around(self, method):
        async def cut(system, *arguments, **named):
            self.steps += 1
            if self.steps == self.at:
                self.scope.cancel()
            return await method(system, *arguments, **named)

        return cut


@pytest.mark.usefixtures("linux")
async def test_a_node_that_is_cancelled_at_any_moment_leaves_nothing(folder, monkeypatch):
    told = config(folder, beacon_port=free_port(socket.SOCK_DGRAM))
    async with Node.open(told):
        pass
    before = held()
    cut = Cut()
    for name in ("spawn", "supervise"):
        monkeypatch.setattr(ActorSystem, name, cut.around(getattr(ActorSystem, name)))
    for cut.at in range(1, 12):
        cut.steps = 0
        with anyio.CancelScope() as cut.scope:
            async with Node.open(told):
                cut.entered += 1
                cut.scope.cancel()
                await anyio.sleep_forever()
        assert cut.scope.cancelled_caught
        await released(before)
    assert 0 < cut.entered < 5, "some were cut while they started, some after"
    async with Node.open(told) as node:
        assert await (await node.spawn(Boiler, name="boiler")).ask(SetTarget(1.0)) == Target(1.0, 1)


async def test_an_embedded_node_installs_no_signal_handler_and_touches_no_log(folder):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    handlers, level = list(logging.getLogger().handlers), logging.getLogger("atoll").level
    async with Node.open(config(folder)):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        assert logging.getLogger().handlers == handlers
        assert logging.getLogger("atoll").level == level
        assert logging.getLogger("atoll").handlers == []


# What cannot be


@pytest.mark.usefixtures("linux")
async def test_what_cannot_be_opened_is_said_in_words_and_leaves_nothing(folder):
    async with Node.open(config(folder)):
        pass
    before = held()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for change, words in (
            ({"links": LinksConfig(host="127.0.0.1", port=port)}, f"port {port} on 127.0.0.1 is in use"),
            ({"gateway": GatewayConfig(port=port)}, f"port {port} on 127.0.0.1 is in use"),
            ({"gateway": GatewayConfig(host="192.0.2.1", port=0)}, "cannot listen on 192.0.2.1"),
        ):
            with pytest.raises(UsageError, match=words):
                async with Node.open(config(folder, **change)):
                    pass
    (folder / "file").write_text("")
    for where, words in (
        ({"state_dir": folder / "file" / "x"}, "the state directory .* cannot be used: Not a directory"),
        ({"run_dir": folder / "file" / "x"}, "cannot listen on .*Not a directory"),
        ({"run_dir": folder / ("x" * 120)}, "is too long for a unix socket"),
    ):
        with pytest.raises(UsageError, match=words):
            async with Node.open(msgspec.structs.replace(config(folder), **where)):
                pass
    (folder / "one" / "node.key").write_bytes(b"short")
    with pytest.raises(UsageError, match=r"node\.key is not a node key: 5 bytes instead of 32; move it away"):
        async with Node.open(config(folder)):
            pass
    await released(before)


async def test_two_nodes_in_one_state_directory_are_one_too_many(folder):
    async with Node.open(config(folder)):
        with pytest.raises(UsageError, match=r"another process uses .*: stop it, or give this one its own"):
            async with Node.open(config(folder)):
                pass
    async with Node.open(config(folder)):
        pass


async def test_a_node_is_opened_once(folder):
    node = Node.open(config(folder))
    async with node:
        with pytest.raises(UsageError, match="is open already"):
            async with node:
                pass
        assert await (await node.spawn(Boiler, name="boiler")).ask(SetTarget(1.0)) == Target(1.0, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = 'x", "not TOML"),
        ("nme = 'x'", "there is no key 'nme' here"),
        ("name = 'No Good'", "a name has 1 to 32 of a-z"),
        ("[gateway]\nport = 99999", "gateway.port"),
        ("[gateway]\nport = 'x'", "gateway.port"),
        ("[site]\nsecret = 'abc'", "a secret is 64 hexadecimal digits"),
        ("[cloud]\nhost = 'x'", "cloud"),
        ("[links]\nport = -1", "links.port"),
    ],
)
def test_a_wrong_config_is_named_before_anything_starts(tmp_path, text, words):
    path = tmp_path / "node.toml"
    path.write_text(text)
    with pytest.raises(SpecInvalid, match=words) as failed:
        Node.open(path)
    assert str(path) in str(failed.value)
    with pytest.raises(SpecInvalid, match=r"gone\.toml: No such file"):
        Node.open(str(tmp_path / "gone.toml"))
