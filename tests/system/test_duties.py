"""Duties on real loops: who holds registrar and proxy, what every member learns, and what goes to the cloud."""

import contextlib

import anyio
import pytest
from duty_site import DUTIES, PATIENCE_S, RELAYS, World
from waiting import until

from atoll.actors.cloud.messages import NodeRecord, OfferedService
from atoll.actors.discoverer.messages import MemberDied, MemberLeft
from atoll.actors.duties import board
from atoll.actors.duties import registrar as registrar_module
from atoll.actors.duties.messages import (
    PATH,
    PROXY,
    REGISTRAR,
    Drain,
    MemberHere,
    SiteRoll,
    StateWanted,
)
from atoll.actors.duties.offer import Offer
from atoll.actors.elector.messages import DrainWanted, Resign, SupernodeLost
from atoll.actors.hand_over.messages import HOSTING
from atoll.actors.router.messages import PeerDown
from atoll.actors.runtime import Actor, Address, Declined
from atoll.actors.runtime.actor import LATER
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.tunnel_relay.messages import ServeSite, SiteServed, StopServing
from atoll.transport.base import Standing

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(board, "REPORT_S", 0.2)
    monkeypatch.setattr("atoll.actors.duties.proxy.READY_S", 0.01)
    monkeypatch.setattr(registrar_module, "ANNOUNCE_S", 0.2)
    return World()


async def test_only_the_supernode_holds_the_duties_and_every_member_knows_the_site(world):
    async with world.node("tv") as tv, world.node("phone") as phone, world.node("desk") as desk:
        world.link(tv, phone, desk)
        world.elect(tv, phone, desk)
        for node in (tv, phone, desk):
            await until(lambda node=node: node.names() == ["desk", "phone", "tv"])
            await until(lambda node=node: node.holders() == dict.fromkeys(DUTIES, tv.id))
            assert node.known().supernode == tv.id
            described = await node.described()
            assert (described.records, described.places) == (node.known().records, node.known().places)
        await until(lambda: tv.held == set(DUTIES))
        assert (tv.held, phone.held, desk.held) == (set(DUTIES), set(), set())
        assert phone.announced == desk.announced == []
        assert phone.told == desk.told == []


async def test_the_proxy_labels_every_member_and_the_registrar_announces_them_where_the_site_is(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: tv.told and set(tv.told[-1].labels) == {tv.id, phone.id})
        labels = tv.told[-1].labels
        assert tv.told[-1].site == "home"
        assert all(len(label) == 16 for label in labels.values())
        assert len(set(labels.values())) == 2
        # Who was there before keeps its label: callers hold it.
        assert tv.told[0].labels == {tv.id: labels[tv.id]}
        await until(lambda: tv.announced and len(tv.announced[-1].nodes) == 2)
        assert tv.announced[-1].labels == ()
        tv.system.announce(SiteServed(RELAYS))
        await until(lambda: tv.announced[-1].labels)
        assert {(each.node, each.relay, each.label) for each in tv.announced[-1].labels} == {
            (node, relay, labels[node]) for node in (tv.id, phone.id) for relay in RELAYS
        }
        tv.system.announce(SiteServed(RELAYS[:1]))
        await until(lambda: {each.relay for each in tv.announced[-1].labels} == {RELAYS[0]})
        world.cut.add(frozenset((tv.id, phone.id)))
        tv.system.announce(MemberDied(phone.id, "silent though suspected"))
        await until(lambda: set(tv.told[-1].labels) == {tv.id})
        await until(lambda: [each.node for each in tv.announced[-1].nodes] == [tv.id])
        assert {each.node for each in tv.announced[-1].labels} == {tv.id}
        # It was no death: who calls the phone still holds its label.
        world.cut.clear()
        world.link(tv, phone)
        await until(lambda: set(tv.told[-1].labels) == {tv.id, phone.id})
        assert tv.told[-1].labels == labels


async def test_duties_are_held_on_while_no_supernode_is_known_and_stay_where_they_are_under_the_next(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: phone.names() == ["phone", "tv"] and tv.held == set(DUTIES))
        proxy = tv.actor("proxy")
        for node in (tv, phone):
            node.system.announce(SupernodeLost(tv.id, 1, "the lease ran out"))
        await until(lambda: phone.known().supernode is None and tv.known().supernode is None)
        world.elect(phone, tv, epoch=2)
        await until(lambda: {place.epoch for place in tv.known().places} == {2})
        assert tv.holders() == dict.fromkeys(DUTIES, tv.id)
        assert tv.actor("proxy") is proxy
        assert phone.held == set()
        assert not [each for each in tv.told if isinstance(each, StopServing)]


async def test_the_duties_of_a_supernode_that_died_are_done_by_the_next_one(world, monkeypatch):
    monkeypatch.setattr("atoll.actors.duties.roll.RECORD_S", 1.5)
    async with world.node("phone") as phone, contextlib.AsyncExitStack() as stack:
        tv = await stack.enter_async_context(world.node("tv"))
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: phone.names() == ["phone", "tv"] and tv.held == set(DUTIES))
        await stack.aclose()
        phone.system.announce(PeerDown(tv.id, "gone"))
        world.elect(phone, epoch=2)
        await until(lambda: phone.held == set(DUTIES) and phone.names() == ["phone"])
        await until(lambda: phone.announced and [each.node for each in phone.announced[-1].nodes] == [phone.id])


async def test_a_drained_node_gives_its_duties_on_with_the_labels_that_callers_hold(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: tv.held == set(DUTIES) and tv.told and set(tv.told[-1].labels) == {tv.id, phone.id})
        labels = tv.told[-1].labels
        tv.system.announce(DrainWanted(draining=True))
        await until(lambda: (tv.held, phone.held) == (set(), set(DUTIES)))
        assert phone.told[0].labels == labels
        # The proxy is gone before anybody has read the last thing it said.
        await until(lambda: isinstance(tv.told[-1], StopServing))
        began, ended = (phone.id, phone.told[0]), (tv.id, tv.told[-1])
        assert world.told.index(began) < world.told.index(ended), "not before the other one has taken over"
        await until(lambda: all(place.source is None for place in tv.known().places))
        phone.system.announce(SiteServed(RELAYS))
        await until(lambda: phone.announced and len(phone.announced[-1].labels) == 4)
        assert {each.label for each in phone.announced[-1].labels} == set(labels.values())


async def test_draining_says_what_moved_where_to_and_without_a_pause(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: tv.held == set(DUTIES))
        tv.system.subscribe(Resign, tv.system.find("witness"))
        drained = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answered, tv, Drain(), drained)
            # The Elector, which this test stands for, hands over when it is asked to, and not before.
            await until(lambda: any(isinstance(each, Resign) for each in tv.actor("witness").seen))
            assert (tv.held, phone.held) == (set(), set(DUTIES))
            world.elect(phone, tv, epoch=2)
        (answer,) = drained
        assert [(each.what, each.to) for each in answer.moved] == [
            ("proxy", phone.id),
            ("registrar", phone.id),
            ("supernode", phone.id),
        ]
        assert [each.pause_s for each in answer.moved][:2] == [0.0, 0.0]
        assert answer.moved[2].pause_s > 0
        assert answer.stayed == ()
        assert phone.told[0].labels


async def test_a_node_that_drains_alone_says_what_stays(world):
    async with world.node("tv") as tv:
        tv.elect(tv)
        await until(lambda: tv.held == set(DUTIES))
        answer = await tv.system.ask(tv.system.find(PATH), Drain())
        assert answer.moved == ()
        assert [(each.what, each.why) for each in answer.stayed] == [
            (what, "no other member could take it") for what in (PROXY, REGISTRAR, "supernode")
        ]
        assert (await tv.described()).draining
        assert not (await tv.system.ask(tv.system.find(PATH), Drain(draining=False))).draining
        await until(lambda: not tv.actor(PATH).board.describe().draining)


class Declines(Actor):
    async def receive(self, _delivery):
        raise Declined("not now")


async def test_a_drain_that_cannot_ask_for_hosted_actors_says_so(world):
    async with world.node("tv") as tv:
        await tv.system.spawn(Declines, HOSTING)
        answer = await tv.system.ask(tv.system.find(PATH), Drain())
        assert [each.what for each in answer.stayed] == ["hosted actors"]
        assert "not now" in answer.stayed[0].why


class Silent(Actor):
    async def receive(self, _delivery):
        return LATER


async def test_a_drain_whose_hosted_actors_say_nothing_in_time_says_so(world):
    async with world.node("tv") as tv:
        await tv.system.spawn(Silent, HOSTING)
        answer = await tv.system.ask(tv.system.find(PATH), Drain(within_s=0.2))
        assert [each.what for each in answer.stayed] == ["hosted actors"]
        assert "not known" in answer.stayed[0].why


def without_proxy(node, monkeypatch):
    """Let a node offer nothing but to be the registrar."""
    monkeypatch.delitem(node.actor(PATH)._makers, PROXY)
    node.actor(PATH).board._able = (REGISTRAR,)


async def test_a_duty_that_nobody_takes_keeps_no_other_out_of_what_a_drain_says(world, monkeypatch):
    async with world.node("tv") as tv, world.node("phone") as phone:
        without_proxy(phone, monkeypatch)
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: tv.held == set(DUTIES) and phone.names() == ["phone", "tv"])
        answer = await tv.system.ask(tv.system.find(PATH), Drain(within_s=2.0), timeout_s=PATIENCE_S)
        assert [(each.what, each.to) for each in answer.moved] == [(REGISTRAR, phone.id)]
        assert answer.moved[0].took_s < 2.0
        assert [each.what for each in answer.stayed] == [PROXY, "supernode"]


async def answered(node, message, answers):
    answers.append(await node.system.ask(node.system.find(PATH), message, timeout_s=PATIENCE_S))


async def test_a_registrar_on_another_node_than_the_proxy_announces_its_labels(world, monkeypatch):
    async with world.node("tv") as tv, world.node("phone") as phone:
        without_proxy(phone, monkeypatch)
        world.link(tv, phone)
        world.elect(tv, phone)
        # A proxy that has said what it serves hears where it is served, too.
        await until(lambda: tv.held == set(DUTIES) and phone.names() == ["phone", "tv"] and tv.told)
        tv.system.announce(SiteServed(RELAYS))
        tv.system.announce(DrainWanted(draining=True))
        await until(lambda: (tv.held, phone.held) == ({PROXY}, {REGISTRAR}))
        await until(lambda: phone.announced and len(phone.announced[-1].labels) == 4)
        assert {each.label for each in phone.announced[-1].labels} == set(tv.told[-1].labels.values())


async def test_the_state_of_a_duty_is_for_its_next_holder_only(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: tv.held == set(DUTIES))
        for duty in (PROXY, "none"):
            with pytest.raises(AskFailed, match="does not move from here"):
                await phone.system.ask(Address(tv.id, PATH), StateWanted(duty))


async def test_being_elected_again_starts_nothing_twice(world):
    async with world.node("tv") as tv:
        tv.elect(tv)
        await until(lambda: tv.held == set(DUTIES))
        proxy = tv.actor("proxy")
        tv.elect(tv, epoch=2)
        await tv.described()
        assert tv.actor("proxy") is proxy


@pytest.mark.parametrize("end", [lambda node: MemberDied(node, "silent though suspected"), MemberLeft])
async def test_a_member_that_falls_silent_is_struck_off_and_one_that_dies_or_leaves_at_once(world, end, monkeypatch):
    monkeypatch.setattr("atoll.actors.duties.roll.RECORD_S", 0.6)
    async with world.node("tv") as tv, world.node("phone") as phone, world.node("desk") as desk:
        world.link(tv, phone, desk)
        world.elect(tv, phone, desk)
        await until(lambda: desk.names() == ["desk", "phone", "tv"])
        # A link that is down is a suspicion, and strikes nobody off.
        tv.system.announce(PeerDown(phone.id, "silent for 3 s"))
        await tv.described()
        assert tv.names() == ["desk", "phone", "tv"]
        world.link(tv, phone)
        world.cut.add(frozenset((tv.id, phone.id)))
        tv.system.announce(end(phone.id))
        await until(lambda: desk.names() == ["desk", "tv"])
        world.cut.add(frozenset((tv.id, desk.id)))
        await until(lambda: tv.names() == ["tv"])


async def test_what_a_member_offers_is_known_everywhere_at_once(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: tv.names() == ["phone", "tv"])
        echo = OfferedService("echo", "/echo/v1")
        offer = Offer(phone.system)
        offer.set_services([echo])
        offer.set_actors({"thermostat"})
        for node in (tv, phone):
            await until(
                lambda node=node: (
                    [(each.services, each.actors) for each in node.known().records if each.name == "phone"]
                    == [((echo,), ("thermostat",))]
                )
            )
        await until(lambda: tv.announced and any(each.services == (echo,) for each in tv.announced[-1].nodes))


@pytest.mark.parametrize("who", ["anothers id", "another site", "insane"])
async def test_a_record_that_is_not_the_senders_own_or_not_sane_is_refused(world, who):
    async with world.node("tv") as tv, world.node("phone") as phone, world.node("desk") as desk:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: tv.names() == ["phone", "tv"])
        record = {
            "anothers id": desk.record,
            "another site": NodeRecord(phone.id, "phone", "office"),
            "insane": NodeRecord(phone.id, "pho\x1bne", "home"),
        }[who]
        phone.say(tv, MemberHere(record))
        await until(lambda: tv.actor(PATH).board.counts["records_refused"] == 1)
        assert tv.names() == ["phone", "tv"]


async def test_a_roll_is_believed_of_the_supernode_only(world):
    async with world.node("tv") as tv, world.node("phone") as phone, world.node("desk") as desk:
        world.link(tv, phone, desk)
        world.elect(tv, phone, desk)
        await until(lambda: phone.names() == ["desk", "phone", "tv"])
        desk.say(phone, SiteRoll((desk.record,), ()))
        await until(lambda: phone.actor(PATH).board.counts["rolls_of_others"] == 1)
        assert phone.names() == ["desk", "phone", "tv"]


async def test_no_stranger_is_heard(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        tv.elect(tv)
        await until(lambda: tv.held)
        for standing in (Standing.NEIGHBOUR, Standing.GRANTED, Standing.CLOUD):
            world.standing = standing
            with pytest.raises(AskFailed, match=f"not open to a {standing.value}"):
                await phone.system.ask(Address(tv.id, PATH), MemberHere(phone.record))
        await until(lambda: tv.names() == ["tv"])


async def test_without_a_cloud_the_supernode_keeps_the_roll_and_holds_nothing(world):
    async with world.node("tv", has_cloud=False) as tv, world.node("phone", has_cloud=False) as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: phone.names() == ["phone", "tv"])
        assert tv.held == set()
        assert phone.known().places == ()
        assert tv.told == tv.announced == []


async def test_a_cloud_that_is_away_holds_nothing_up_and_is_told_when_it_is_back(world, caplog, monkeypatch):
    monkeypatch.setattr("atoll.actors.duties.registrar.ANNOUNCE_S", 0.02)
    world.cloud_away = True
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: phone.names() == ["phone", "tv"])
        await until(lambda: "the site could not be announced to the cloud" in caplog.text)
        tried = world.turned_away
        await until(lambda: world.turned_away >= tried + 3)
        # Said once, not with every attempt.
        assert caplog.text.count("could not be announced") == 1
        world.cloud_away = False
        await until(lambda: tv.announced and len(tv.announced[-1].nodes) == 2)
        world.left_out = ("phone is not enrolled",)
        await until(lambda: "left out by the cloud: phone is not enrolled" in caplog.text)


async def test_a_crashed_proxy_comes_back_with_the_site_it_had(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: tv.told and isinstance(tv.told[-1], ServeSite) and len(tv.told[-1].labels) == 2)
        told = len(tv.told)
        crashed = tv.actor("proxy")
        crashed.tasks.start_soon(crash)
        await until(lambda: tv.actor("proxy") not in (None, crashed))
        await until(lambda: len(tv.told) > told and isinstance(tv.told[-1], ServeSite) and len(tv.told[-1].labels) == 2)
        assert any(isinstance(each, StopServing) for each in tv.told[told:])


async def test_crashed_duties_learn_the_election_again(world):
    class Status:
        supernode, epoch, confirmed, why = None, 1, True, "elected before"

    async with world.node("tv") as tv:
        world.election = Status()
        Status.supernode = tv.id
        crashed = tv.actor(PATH)
        crashed.tasks.start_soon(crash)
        await until(lambda: tv.actor(PATH) not in (None, crashed))
        await until(lambda: tv.held == set(DUTIES))
        await until(lambda: tv.names() == ["tv"])


async def crash():
    raise RuntimeError("crashed on purpose")
