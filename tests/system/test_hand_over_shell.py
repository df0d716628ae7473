"""The shells of the hand-over: questions to the placement, ways to nodes without a link, logs that are lost."""

import os
import threading
import time

import anyio
import pytest
from waiting import until

from atoll.actors.elector import messages as elector
from atoll.actors.hand_over import messages as hand_over
from atoll.actors.hand_over.hosting_actor import HostingActor, stores_among
from atoll.actors.hand_over.log_store_actor import LogStoreActor
from atoll.actors.hand_over.messages import (
    HOSTING,
    LOG_STORE,
    Append,
    Appended,
    Call,
    NotSealed,
    Position,
    Seal,
    Sealed,
)
from atoll.actors.hand_over.repertoire import Repertoire
from atoll.actors.hand_over.shell import SiteShell
from atoll.actors.placement import messages as placement
from atoll.actors.placement.messages import FindPlace, Placed, PlaceFound, PlaceSwapped, SwapPlace
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import DescribeRoutes, LinkSeen, PeerDown, PeerUp, Reach, RoutesDescribed
from atoll.actors.runtime import LATER, MESSAGES, Actor, ActorSystem, Declined, machine_actor
from atoll.actors.runtime.machine import Address, Received, Send, Told
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.envelope import Envelope
from atoll.transport.identity import NodeId

pytestmark = pytest.mark.anyio
CODEC = Codec([*MESSAGES, *elector.MESSAGES, *placement.MESSAGES, *hand_over.MESSAGES])
HERE, LINKED, FAR, GONE = (NodeId(bytes([number]) * 32) for number in range(4))


class Script:
    """Sends what it is told to, and notes what comes in."""

    def __init__(self):
        self.events = []

    def start(self, restored, now):
        return []

    def handle(self, event, now):
        self.events.append(event)
        return [event.fact] if isinstance(event, Told) and isinstance(event.fact, Send) else []

    def check(self):
        pass


class Places(Actor):
    """Stands where the placement stands; answers when it is told to."""

    def __init__(self):
        self.asked = []

    async def receive(self, delivery):
        self.asked.append(delivery)
        return LATER


class Ways(Actor):
    """Stands where the Router stands: `FAR` can be reached, `GONE` cannot."""

    def __init__(self):
        self.reached = []

    async def receive(self, delivery):
        match delivery.message:
            case DescribeRoutes():
                return RoutesDescribed((LinkSeen(LINKED, Standing.MEMBER, "", "", 0.0),), (), {})
            case Reach(peer):
                self.reached.append(peer)
                if peer == GONE:
                    raise Declined("it is gone")
                return "a way"
        return LATER


class World:
    def __init__(self, system, sent):
        self.system = system
        self.sent = sent

    def actor(self, path):
        return self.system.cell(path).actor

    @property
    def told(self):
        return [(each.header.target_node, CODEC.decode(each.body)) for each in self.sent]


@pytest.fixture
async def world(anyio_backend):
    sent: list[Envelope] = []
    async with ActorSystem(HERE, CODEC, sent.append) as system:
        await system.spawn(Places, placement.PATH)
        await system.spawn(Ways, ROUTER)
        yield World(system, sent)


@pytest.fixture
async def shell(world):
    machine = Script()
    ref = await world.system.spawn(lambda: SiteShell(machine), "shell")
    world.send = lambda target, message, path="": ref.tell(Send(target, message, path))
    world.machine = machine
    return world


CALL = Call("ledger", 1, 1, b"")


async def test_what_is_sent_to_the_placement_is_asked_and_one_question_once_at_a_time(shell):
    for _ in range(3):
        shell.send(HERE, FindPlace("ledger"), placement.PATH)
    shell.send(HERE, SwapPlace("ledger", None, Placed(1, HERE)), placement.PATH)
    asked = shell.actor(placement.PATH).asked
    await until(lambda: len(asked) == 2)
    answers = {FindPlace: PlaceFound("ledger", None), SwapPlace: PlaceSwapped("ledger", True, Placed(1, HERE))}
    for delivery in asked:
        delivery.reply_to.answer(answers[type(delivery.message)])
    await until(lambda: len(shell.machine.events) == 6)
    received = [each for each in shell.machine.events if isinstance(each, Received)]
    assert len(received) == 2
    assert all(Received(HERE, answer, placement.PATH) in received for answer in answers.values())
    shell.send(HERE, FindPlace("ledger"), placement.PATH)
    await until(lambda: len(asked) == 3)


async def test_a_node_with_a_link_is_told_at_once_and_another_when_there_is_a_way(shell):
    shell.send(LINKED, CALL, HOSTING)
    shell.send(FAR, CALL, HOSTING)
    shell.send(GONE, CALL, HOSTING)
    await until(lambda: len(shell.sent) == 2 and shell.system.statistics().get("unreachable"))
    assert set(shell.told) == {(LINKED, CALL), (FAR, CALL)}
    assert set(shell.actor(ROUTER).reached) == {FAR, GONE}


async def test_links_that_come_and_go_are_kept_account_of(shell):
    shell.system.announce(PeerUp(FAR, Standing.MEMBER, "", ""))
    shell.system.announce(PeerDown(LINKED, "gone"))
    shell.send(FAR, CALL, HOSTING)
    shell.send(LINKED, CALL, HOSTING)
    await until(lambda: len(shell.sent) == 2)
    assert shell.actor(ROUTER).reached == [LINKED]


async def test_a_store_keeps_what_it_acknowledged_and_says_which_log_it_lost(world, tmp_path, caplog):
    fence = ("ledger", 1, 7)

    async def started(what):
        ref = await world.system.spawn(lambda: LogStoreActor(journal=tmp_path / "logs"), LOG_STORE)
        world.sent.clear()
        world.system.tell(ref, what)
        return ref

    await started(Seal(*fence, founds=True))
    host = world.actor(LOG_STORE).ref.address
    await until(lambda: world.system.dead_letters)  # The answer to this node's hosting, which is not there.
    assert host.node == HERE
    sealed = world.system.dead_letters[-1].message
    assert (type(sealed), sealed.voice) == (Sealed, True)
    entry = hand_over.Entry(1, 1, operation=b"Ledger")
    ref = world.actor(LOG_STORE).ref
    world.system.tell(ref, Append(*fence, sealed.memory, Position(), (entry,)))
    await until(lambda: isinstance(world.system.dead_letters[-1].message, Appended))
    await world.system.stop(ref)
    await started(Seal(*fence))
    again = await until(lambda: [e.message for e in world.system.dead_letters if isinstance(e.message, Sealed)][1:])
    assert (again[0].memory, again[0].last) == (sealed.memory, Position(1, 1))
    assert world.actor(LOG_STORE).statistics() == {
        "bytes": 70,
        "dropped": 0,
        "fenced": 0,
        "ignored": 0,
        "logs": 1,
        "without_voice": 0,
    }
    await world.system.stop(world.actor(LOG_STORE).ref)
    (tmp_path / "logs" / "ledger.log").unlink()
    await started(Append(*fence, sealed.memory, Position(), (entry,)))
    await until(lambda: isinstance(world.system.dead_letters[-1].message, NotSealed))
    assert "the operation log of ledger is damaged (its file is gone): it counts for nothing" in caplog.text
    assert world.actor(LOG_STORE).statistics()["without_voice"] == 1


async def test_a_slow_disk_holds_up_its_store_and_nobody_else(world, tmp_path, monkeypatch):
    ref = await world.system.spawn(lambda: LogStoreActor(journal=tmp_path / "logs"), LOG_STORE)
    disk, real, slow_s = threading.Event(), os.fsync, machine_actor.SLOW_WRITE_S * 2

    def slow(descriptor):
        time.sleep(slow_s)
        real(descriptor)

    def stuck(descriptor):
        assert disk.wait(30)
        real(descriptor)

    def sealed():
        return [letter.message for letter in world.system.dead_letters if isinstance(letter.message, Sealed)]

    monkeypatch.setattr(os, "fsync", slow)
    world.system.tell(ref, Seal("first", 1, 7, founds=True))
    await until(sealed)
    monkeypatch.setattr(os, "fsync", stuck)
    for actor in ("ledger", "books"):
        world.system.tell(ref, Seal(actor, 1, 7, founds=True))
    await until(lambda: "ledger" in world.actor(LOG_STORE).store.logs)
    with anyio.fail_after(10):
        await world.system.ask(Address(HERE, ROUTER), DescribeRoutes(), timeout_s=5)
    assert len(sealed()) == 1, "acknowledged before it is durable"
    assert "books" not in world.actor(LOG_STORE).store.logs, "one after the other"
    disk.set()
    await until(lambda: len(sealed()) == 3)
    assert [each.actor for each in sealed()] == ["first", "ledger", "books"]


async def test_an_answer_of_the_placement_waits_for_the_write_before_it(world, tmp_path, monkeypatch):
    ref = await world.system.spawn(lambda: LogStoreActor(HERE, journal=tmp_path / "logs"), LOG_STORE)
    disk, real, loop_thread = threading.Event(), os.fsync, threading.current_thread()
    inside, overlaps = [], []

    def slow(descriptor):
        time.sleep(machine_actor.SLOW_WRITE_S * 2)
        real(descriptor)

    def stuck(descriptor):
        if threading.current_thread() is loop_thread:
            overlaps.extend(inside)
        else:
            inside.append(descriptor)
            assert disk.wait(30)
            inside.clear()
        real(descriptor)

    def sealed():
        return [letter.message for letter in world.system.dead_letters if isinstance(letter.message, Sealed)]

    monkeypatch.setattr(os, "fsync", slow)
    world.system.tell(ref, Seal("old", 1, 7, founds=True))
    await until(sealed)
    asked = world.actor(placement.PATH).asked
    await until(lambda: asked)
    monkeypatch.setattr(os, "fsync", stuck)
    world.system.tell(ref, Seal("old", 2, 7))
    await until(lambda: inside)
    asked[0].reply_to.answer(PlaceFound("old", None, first=5))
    await until(lambda: not world.actor(LOG_STORE)._asking)
    assert "old" in world.actor(LOG_STORE).store.logs, "removed while it is written"
    disk.set()
    await until(lambda: "old" not in world.actor(LOG_STORE).store.logs)
    assert overlaps == []
    await world.system.stop(ref)
    await world.system.spawn(lambda: LogStoreActor(HERE, journal=tmp_path / "logs"), LOG_STORE)
    assert not world.actor(LOG_STORE)._logs.damage


async def test_a_host_that_knows_no_class_and_no_voters_takes_nothing(world, tmp_path):
    await world.system.spawn(lambda: HostingActor(HERE, Repertoire(), journal=tmp_path / "arrivals"), HOSTING)
    world.system.tell(world.actor(HOSTING).ref, CALL)
    await until(lambda: world.actor(placement.PATH).asked)
    assert world.actor(placement.PATH).asked[0].message == FindPlace("ledger")
    assert world.actor(HOSTING).statistics() == {"arriving": 0, "diverged": 0, "hosted": 0, "ignored": 0}


def test_logs_are_kept_here_first_then_by_voters_in_reach():
    voters = (LINKED, FAR, GONE)
    assert stores_among(voters, HERE, frozenset()) == (LINKED, FAR, GONE)
    assert stores_among((*voters, HERE), HERE, frozenset({GONE, FAR})) == (HERE, FAR, GONE)
    assert stores_among((HERE,), HERE, frozenset()) == (HERE,)
    assert stores_among((), HERE, frozenset()) == ()
