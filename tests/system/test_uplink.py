"""The Uplink: what it asks of the cloud, the grant it keeps, and a cloud that refuses, is away and comes back."""

import contextlib
import os
import stat
import time
from random import Random

import anyio
import pytest
from waiting import until

from atoll.actors.cloud import messages as cloud_messages
from atoll.actors.cloud.directory import Directory
from atoll.actors.cloud.doors import DirectoryDoor, EnrolmentDoor
from atoll.actors.cloud.messages import DIRECTORY, ENROLMENT, GrantIssued, GrantRequest, ListNodes, LookUp, NodeList
from atoll.actors.cloud.signaling import Signaling
from atoll.actors.cloud.store import CloudStore
from atoll.actors.router.messages import LetGo, Reach
from atoll.actors.router.routes import Route, Way
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem, Declined
from atoll.actors.runtime.actor import LATER
from atoll.actors.runtime.errors import AskDeclined, AskFailed, AskRefused, AskUnreachable
from atoll.actors.uplink import uplink as module
from atoll.actors.uplink.messages import AskCloud, CloudSeen, GrantWanted
from atoll.actors.uplink.uplink import Uplink
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.errors import Expired, PeerError, Unreachable
from atoll.transport.keys import NodeKey
from atoll.transport.tokens import check_grant, issue_grant

pytestmark = pytest.mark.anyio

CODEC = Codec([*RUNTIME_MESSAGES, *cloud_messages.MESSAGES])
PATIENCE_S = 20


class Dials(Actor):
    """Stands where the Router stands: reaches the cloud when the test lets it."""

    def __init__(self, world):
        self.world = world

    async def receive(self, delivery):
        match delivery.message:
            case Reach():
                self.world.reaches += 1
                if self.world.why_not:
                    raise Declined(self.world.why_not)
                return Route(Way.DIRECT, "an authenticated link is up (cloud)")
            case LetGo() as message:
                self.world.let_go.append(message)
        return LATER


class Witness(Actor):
    def __init__(self):
        self.seen = []

    async def started(self):
        self.system.subscribe(CloudSeen, self.ref)

    async def receive(self, delivery):
        self.seen.append(delivery.message)
        return LATER


class Mute(Actor):
    """An actor of the cloud that never answers."""

    open_to = frozenset({Standing.GRANTED})

    def __init__(self):
        self.asked = 0

    async def receive(self, delivery):
        self.asked += 1
        return LATER


class World:
    """A cloud's actors and a node's Uplink, each in a system of its own; envelopes go from one to the other."""

    def __init__(self, folder):
        self.cloud, self.node = NodeKey.generate(), NodeKey.generate()
        self.grant_file = folder / "state" / "grant.jwt"
        self.store = CloudStore(None)
        self.standing = Standing.GRANTED
        self.why_not = ""
        self.gone = False
        self.reaches = 0
        self.let_go = []
        self.systems = {}

    def enrol(self):
        secret = os.urandom(32)
        self.store.expect(secret, kind="node", site="home", name="tv")
        assert self.store.enrol(self.node.node_id, secret)

    def outlet(self, envelope):
        if self.gone:
            raise Unreachable("the link to the cloud went down")
        self.systems[envelope.header.target_node].deliver(envelope, self.standing)

    @contextlib.asynccontextmanager
    async def running(self, *, grant_file=True, cloud=True):
        signaling = Signaling(self.store, self.cloud, time.time)
        directory = Directory(self.store, signaling, time.time)
        own = self.node.node_id
        async with ActorSystem(self.cloud.node_id, CODEC, self.outlet) as there:
            self.systems[self.cloud.node_id] = there
            await there.spawn(lambda: DirectoryDoor(self.store, directory), DIRECTORY)
            await there.spawn(lambda: EnrolmentDoor(self.store, self.cloud), ENROLMENT)
            await there.spawn(Mute, "mute")
            async with ActorSystem(own, CODEC, self.outlet) as here:
                self.systems[own] = here
                await here.spawn(Witness, "witness")
                await here.spawn(lambda: Dials(self), "router")
                await here.spawn(
                    lambda: Uplink(
                        own,
                        self.cloud.node_id if cloud else None,
                        self.grant_file if grant_file else None,
                        Random(1),
                    ),
                    "uplink",
                )
                yield here

    def grant(self, *, subject=None, life_s=3600.0, issuer=None):
        return issue_grant(
            issuer or self.cloud,
            subject=(subject or self.node).node_id,
            audience="atoll",
            scopes=["atoll:call"],
            site="home",
            life_s=life_s,
            now=time.time(),
        )

    def keep(self, data):
        self.grant_file.parent.mkdir(parents=True, exist_ok=True)
        self.grant_file.write_bytes(data)

    def is_good(self, grant):
        own = self.node.node_id
        with contextlib.suppress(PeerError, Expired):
            return check_grant(grant, issuer=self.cloud.node_id, bearer=own, audience="atoll", now=time.time())
        return None


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ENROL_AGAIN_S_MIN", 0.02)
    world = World(tmp_path)
    with world.store:
        yield world


async def ask(system, message, timeout_s=PATIENCE_S):
    return await system.ask(system.find("uplink"), message, timeout_s=timeout_s)


def seen(system):
    return [(each.reachable, each.reason) for each in system._cells["witness"].actor.seen]


async def test_a_question_is_answered_by_the_cloud_and_its_no_is_an_answer(world):
    world.enrol()
    async with world.running() as system:
        assert await ask(system, AskCloud(DIRECTORY, ListNodes())) == NodeList(())
        with pytest.raises(AskDeclined, match="the directory knows no node"):
            await ask(system, AskCloud(DIRECTORY, LookUp("home/tv", ())))
        assert seen(system) == [(True, "it answered")]


async def test_the_node_enrols_by_itself_and_keeps_its_grant_for_itself_alone(world):
    world.enrol()
    async with world.running():
        await until(world.grant_file.exists)
        assert world.is_good(world.grant_file.read_bytes())
        assert stat.S_IMODE(world.grant_file.stat().st_mode) == 0o600
        assert [each.name for each in world.grant_file.parent.iterdir()] == ["grant.jwt"]


async def test_a_kept_grant_serves_while_the_cloud_is_away(world):
    kept = world.grant()
    world.keep(kept)
    world.why_not = "nobody answers there"
    async with world.running() as system:
        assert await ask(system, GrantWanted()) == kept
        assert world.reaches == 0


async def test_a_grant_that_ends_soon_is_renewed_and_shown_to_its_last_second_if_that_fails(world):
    world.enrol()
    old = world.grant(life_s=300)
    world.keep(old)
    world.why_not = "nobody answers there"
    async with world.running() as system:
        assert await ask(system, GrantWanted()) == old
        assert world.reaches >= 1
        world.why_not = ""
        await until(lambda: world.grant_file.read_bytes() != old)
        assert await ask(system, GrantWanted()) == world.grant_file.read_bytes()


@pytest.mark.parametrize(
    "damage",
    ["truncated", "empty", "binary", "huge", "anothers", "another cloud's", "run out", "a folder"],
)
async def test_a_grant_on_disk_that_is_no_good_is_not_used_and_a_new_one_replaces_it(world, damage, caplog):
    world.enrol()
    good = world.grant()
    if damage == "a folder":
        world.grant_file.mkdir(parents=True)
    else:
        world.keep(
            {
                "truncated": good[:-10],
                "empty": b"",
                "binary": os.urandom(500),
                "huge": good + b"x" * 100_000,
                "anothers": world.grant(subject=NodeKey.generate()),
                "another cloud's": world.grant(issuer=NodeKey.generate()),
                "run out": world.grant(life_s=-3600),
            }[damage]
        )
    async with world.running() as system:
        assert "grant" in caplog.text
        assert world.is_good(await ask(system, GrantWanted()))
        if damage == "a folder":
            await until(lambda: "could not be kept" in caplog.text)
        else:
            await until(lambda: world.is_good(world.grant_file.read_bytes()))


async def test_a_node_that_is_not_enrolled_is_told_so_and_gets_its_grant_once_it_is(world):
    async with world.running() as system:
        with pytest.raises(AskDeclined, match="your key is not enrolled here"):
            await ask(system, GrantWanted())
        # The cloud did answer.
        assert seen(system)[0][0] is True
        world.standing = Standing.NEIGHBOUR
        with pytest.raises(AskRefused, match="not open to a neighbour"):
            await ask(system, AskCloud(DIRECTORY, ListNodes()))
        world.standing = Standing.GRANTED
        assert not world.grant_file.exists()
        world.enrol()
        await until(world.grant_file.exists)


async def test_a_refused_enrolment_is_said_in_the_clouds_words(world):
    world.why_not = (
        "the cloud at cloud.example:8087 cannot be reached: the other end refused: this enrolment secret is not known"
    )
    async with world.running() as system:
        with pytest.raises(AskUnreachable, match="this enrolment secret is not known"):
            await ask(system, GrantWanted())
        assert seen(system) == [(False, world.why_not)]


async def test_a_cloud_that_is_away_is_asked_ever_more_seldom_and_used_when_it_is_back(world, monkeypatch):
    monkeypatch.setattr(module, "ENROL_AGAIN_S_MAX", 0.3)
    world.enrol()
    world.why_not = "nobody answers there"
    waits, sleep = [], anyio.sleep

    async def quick(delay):
        if 0.75 * module.ENROL_AGAIN_S_MIN <= delay <= 1.25 * module.ENROL_AGAIN_S_MAX:
            waits.append(delay)
        await sleep(min(delay, 0.01))

    monkeypatch.setattr(anyio, "sleep", quick)
    async with world.running() as system:
        await until(lambda: len(waits) >= 8)
        for number, wait_s in enumerate(waits[:8]):
            nominal_s = min(0.02 * 2**number, 0.3)
            assert 0.75 * nominal_s <= wait_s <= 1.25 * nominal_s
        assert len(set(waits[5:8])) == 3
        assert seen(system) == [(False, "nobody answers there")]
        world.why_not = ""
        await until(world.grant_file.exists)
        await until(lambda: seen(system)[1:] == [(True, "it answered")])
        world.gone = True
        with pytest.raises(AskUnreachable, match="the link to the cloud went down"):
            await ask(system, AskCloud(DIRECTORY, ListNodes()))
        world.gone = False
        await ask(system, AskCloud(DIRECTORY, ListNodes()))
        await until(lambda: [reachable for reachable, _ in seen(system)] == [False, True, False, True])


async def test_a_cloud_that_does_not_answer_counts_as_out_of_reach(world):
    world.keep(world.grant())
    async with world.running() as system:
        with pytest.raises(AskFailed, match=r"mute did not answer within 0\.05 s"):
            await ask(system, AskCloud("mute", ListNodes(), timeout_s=0.05))
        (reachable, _), *_ = await until(lambda: seen(system))
        assert not reachable


async def test_one_slow_answer_holds_up_nobody_and_too_many_are_declined(world, monkeypatch):
    monkeypatch.setattr(module, "ASKS_MAX", 3)
    world.keep(world.grant())
    async with world.running() as system, anyio.create_task_group() as group:

        async def wait():
            with contextlib.suppress(AskFailed):
                await ask(system, AskCloud("mute", ListNodes(), timeout_s=60))

        for _ in range(2):
            group.start_soon(wait)
        await until(lambda: world.systems[world.cloud.node_id]._cells["mute"].actor.asked == 2)
        world.enrol()
        assert await ask(system, AskCloud(DIRECTORY, ListNodes())) == NodeList(())
        group.start_soon(wait)
        await until(lambda: world.systems[world.cloud.node_id]._cells["mute"].actor.asked == 3)
        with pytest.raises(AskDeclined, match="3 questions to the cloud are under way already"):
            await ask(system, GrantWanted())
        group.cancel_scope.cancel()


async def test_a_grant_for_somebody_else_is_not_taken_from_the_cloud(world, monkeypatch):
    other = NodeKey.generate()
    monkeypatch.setattr(
        EnrolmentDoor,
        "answer",
        lambda _self, _sender, message: (
            GrantIssued(world.grant(subject=other), 0) if isinstance(message, GrantRequest) else None
        ),
    )
    world.enrol()
    async with world.running() as system:
        with pytest.raises(AskDeclined, match="is its key pinned right"):
            await ask(system, GrantWanted())
        assert not world.grant_file.exists()


async def test_a_node_without_a_cloud_says_what_is_missing(world):
    async with world.running(cloud=False) as system:
        for message in (GrantWanted(), AskCloud(DIRECTORY, ListNodes())):
            with pytest.raises(AskUnreachable, match=r"name one in its config, below \[cloud\]"):
                await ask(system, message)
        assert seen(system) == []


async def test_a_relay_wants_no_grant_and_keeps_none(world):
    world.enrol()
    async with world.running(grant_file=False) as system:
        assert await ask(system, AskCloud(DIRECTORY, ListNodes())) == NodeList(())
        assert world.reaches == 1
        assert not world.grant_file.parent.exists()


async def test_an_idle_link_is_let_go_once_and_a_used_one_is_not(world, monkeypatch):
    monkeypatch.setattr(module, "IDLE_S", 0.2)
    world.enrol()
    world.keep(world.grant())
    async with world.running() as system, anyio.create_task_group() as group:
        # Without a link there is nothing to let go.
        await anyio.sleep(0.3)
        assert world.let_go == []

        async def wait():
            with contextlib.suppress(AskFailed):
                await ask(system, AskCloud("mute", ListNodes(), timeout_s=60))

        group.start_soon(wait)
        await anyio.sleep(0.3)
        assert world.let_go == []
        group.cancel_scope.cancel()
    async with world.running() as system:
        await ask(system, AskCloud(DIRECTORY, ListNodes()))
        await until(lambda: world.let_go)
        assert world.let_go == [LetGo(world.cloud.node_id, "nothing was asked for 0.2 s")]
        await anyio.sleep(0.3)
        assert len(world.let_go) == 1
        await ask(system, AskCloud(DIRECTORY, ListNodes()))
        await until(lambda: len(world.let_go) == 2)
