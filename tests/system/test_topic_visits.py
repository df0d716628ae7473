"""The Topics of nodes with links in memory and streams that are cut: visits, joins, limits, wrong input."""

import contextlib

import anyio
import pytest
from topic_hosts import World, quick, read
from waiting import until

from atoll.actors.runtime import Actor, Address, AskFailed, AskNotUnderstood
from atoll.actors.topics import exchange, topics
from atoll.actors.topics.errors import BadTopic, GateLost, NotLetIn, TooFast, TooMany
from atoll.actors.topics.joins import JoinWanted
from atoll.actors.topics.messages import PATH, Publication, VisitHeard
from atoll.actors.topics.orders import SubscribeActor, UnsubscribeActor, WayFound, WayLost
from atoll.actors.topics.ring import Missed
from atoll.transport.base import Standing
from atoll.transport.record_stream import frame_record

pytestmark = pytest.mark.anyio
OPEN = {"may_subscribe": ("#",), "may_publish": ("#",)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    quick(monkeypatch)


@contextlib.asynccontextmanager
async def world():
    async with anyio.create_task_group() as tasks:
        made = World(tasks)
        yield made
        await made.close()


def numbered(count):
    return [str(number).encode() for number in range(count)]


async def test_a_stream_that_is_cut_loses_doubles_and_reorders_nothing():
    async with world() as made:
        phone, server = await made.host("phone"), await made.host("server", "office", **OPEN)
        desk = await made.host("desk", "office")
        here, there = await phone.subscribe("up/#", source=server), await desk.subscribe("down/#")
        for number, payload in enumerate(numbered(60)):
            if number % 20 == 10:
                await made.cut()
            await desk.publish("up/x", payload)
            await phone.publish("down/x", payload, to=server)
        assert await read(here, 60) == numbered(60)
        assert await read(there, 60) == numbered(60)
        assert (here.missed, here.unsure, there.missed, there.unsure) == (0, False, 0, False)
        here.close()
        there.close()
        await until(lambda: not server.topics.gates.guests and not server.topics.exchange.wants)


@pytest.mark.parametrize("where", ["here", "there"])
async def test_a_subscription_whose_asker_has_gone_is_closed_when_it_comes(monkeypatch, where):
    async with world() as made:
        tv, server = await made.host("tv"), await made.host("server", "office", **OPEN)
        box = await made.host("box")
        # Neither does the member say that it knows, nor the gate that it lets us in.
        box.congested = server.congested = True
        go_on, opened = anyio.Event(), tv._open

        async def open_later(peer):
            await go_on.wait()
            return await opened(peer)

        monkeypatch.setattr(tv.topics._remote, "_open_stream", open_later)
        lasting = tv.topics._lasting

        async def ask():
            await tv.subscribe("#", source=server if where == "there" else None)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: lasting.here or lasting.there)
            tasks.cancel_scope.cancel()
        box.congested = server.congested = False
        go_on.set()
        await until(lambda: not (lasting.here or lasting.there or tv.topics.exchange.subscribers))
        await until(lambda: not server.topics.gates.guests)


async def test_of_a_gate_that_was_killed_a_reader_is_told_that_something_may_be_missing():
    async with world() as made:
        phone, server = await made.host("phone"), await made.host("server", "office", **OPEN)
        here = await phone.subscribe("#", source=server)
        await server.publish("a", b"1")
        assert await read(here, 1) == [b"1"]
        await server.kill()
        await made.cut()
        with anyio.fail_after(10):
            assert isinstance(await here.next(), WayLost)
        await server.start()
        await until(lambda: server.topics.gates.guests)
        await server.publish("a", b"2")
        assert await read(here, 1) == [b"2"]
        assert here.unsure


async def test_word_of_the_way_comes_to_whoever_reads_events():
    async with world() as made:
        phone, server = await made.host("phone"), await made.host("server", "office", **OPEN)
        here = await phone.subscribe("#", source=server)
        await made.cut()
        with anyio.fail_after(10):
            assert [type(await here.next()) for _ in range(2)] == [WayLost, WayFound]


async def test_whoever_subscribes_again_is_not_told_of_losses_that_there_were_none():
    async with world() as made:
        tv, phone = await made.host("tv"), await made.host("phone")
        for payload in numbered(3):
            here = await phone.subscribe("#")
            await tv.publish("a", payload)
            assert await read(here, 1) == [payload]
            assert (here.missed, here.unsure) == (0, False)
            here.close()
            await until(lambda: not tv.topics.exchange.wanting)


async def test_a_reader_that_is_too_slow_loses_the_oldest_and_is_told_how_many(monkeypatch):
    monkeypatch.setattr(exchange, "WAITING_MAX", 5)
    async with world() as made:
        tv = await made.host("tv")
        slow, quick_one = await tv.subscribe("#"), await tv.subscribe("#")
        for payload in numbered(12):
            await tv.publish("a", payload)
            assert await read(quick_one, 1) == [payload]
        assert await slow.next() == Missed(7)
        assert await read(slow, 5) == numbered(12)[7:]
        assert (slow.missed, quick_one.missed) == (7, 0)
        assert [each.lost for each in (await tv.described()).subscribers] == [7, 0]


async def test_a_link_that_takes_nothing_for_a_while_loses_nothing_and_holds_up_nobody_else():
    async with world() as made:
        tv, phone = await made.host("tv"), await made.host("phone")
        far, near = await phone.subscribe("#"), await tv.subscribe("#")
        tv.congested = True
        for payload in numbered(300):
            await tv.publish("a", payload)
        assert await read(near, 300) == numbered(300)
        assert tv.topics.counts["congested"]
        tv.congested = False
        assert await read(far, 300) == numbered(300)
        assert far.missed == 0


async def flood(host):
    for _ in range(100):
        await host.publish("a", bytes(1000))


async def test_a_publisher_that_is_too_fast_is_told(monkeypatch):
    monkeypatch.setattr(topics, "PUBLISH_BYTES_S", 10_000)
    async with world() as made:
        tv = await made.host("tv")
        with pytest.raises(TooFast, match="a second at most"):
            await flood(tv)
        assert tv.topics.counts["too_fast"] == 1


async def test_sites_in_a_circle_of_joins_hear_each_message_once():
    async with world() as made:
        hosts = [await made.host(site, site, **OPEN) for site in ("a", "b", "c")]
        for host, other in zip(hosts, [*hosts[1:], hosts[0]], strict=True):
            await host.kill()
            host.settings = topics.TopicSettings(joins=(JoinWanted(other.id, ("#",), comes=True, goes=True),), **OPEN)
        for host in hosts:
            await host.start()
        await until(lambda: all(len(host.topics.gates.guests) == 1 for host in hosts))
        await until(lambda: all(host.topics._joins[0].seen().there for host in hosts))
        readers = [await host.subscribe("#") for host in hosts]
        for number in range(20):
            for host in hosts:
                await host.publish("a", str(number).encode())
        for reader in readers:
            assert sorted(await read(reader, 60)) == sorted(numbered(20) * 3)
            assert reader.missed == 0
        for host in hosts:
            (join,) = (await host.described()).joins
            assert (join.why, join.missed, join.direction) == ("", 0, "both")
            assert host.topics.counts["looped"] == host.topics.counts["broken_rules"] == 0


async def test_what_is_not_allowed_is_refused_in_words_and_nothing_of_it_is_done():
    async with world() as made:
        phone, server = await made.host("phone"), await made.host("server", "office", may_subscribe=("a/#",))
        with pytest.raises(NotLetIn, match=r'pubsub.subscribe = \["#"\]'):
            await phone.subscribe("#", source=server)
        with pytest.raises(NotLetIn, match=r'pubsub.publish = \["a/b"\]'):
            await phone.publish("a/b", b"", to=server)
        assert server.topics.counts["refused"] == 2
        assert not server.topics.gates.guests
        assert not (await phone.described()).subscribers


async def test_a_node_that_cannot_be_reached_is_said_to_be_so_at_once():
    async with world() as made:
        phone, server = await made.host("phone"), await made.host("server", "office", **OPEN)
        await server.kill()
        with pytest.raises(GateLost, match="no way there"):
            await phone.subscribe("#", source=server)
        with pytest.raises(GateLost, match="no way there"):
            await phone.publish("a", b"", to=server)
        for bad in ((), ("a/#/b",), ("",)):
            with pytest.raises(BadTopic):
                await phone.subscribe(*bad)
            with pytest.raises(BadTopic):
                await phone.subscribe(*bad, source=server)


async def until_it_ends(stream):
    with anyio.fail_after(10), contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while await stream.receive():
            pass


async def test_a_stream_that_speaks_wrongly_ends_and_the_node_goes_on():
    async with world() as made:
        phone, server = await made.host("phone"), await made.host("server", "office", **OPEN)
        wrong = (b"\xff\xff\xff\xff", frame_record(b"no message"), frame_record(messages_of(VisitHeard(1))))
        for number, data in enumerate(wrong):
            stream = await phone._open(server.id)
            async with stream:
                await stream.send(data)
                await until_it_ends(stream)
            await until(lambda number=number: server.topics.counts["broken_rules"] == number + 1)
        here = await phone.subscribe("#", source=server)
        await server.publish("a", b"1")
        assert await read(here, 1) == [b"1"]


def messages_of(message):
    from atoll.actors.topics.visiting import CODEC  # noqa: PLC0415 - here alone

    return CODEC.encode(message)


async def test_messages_from_outside_the_site_are_not_heard():
    async with world() as made:
        tv, phone = await made.host("tv"), await made.host("phone")
        here = await phone.subscribe("#")
        await tv.publish("a", b"1")
        assert await read(here, 1) == [b"1"]
        outlet = tv.system.outlet
        tv.system.outlet = lambda envelope: phone.system.deliver(envelope, Standing.GRANTED)
        await tv.publish("a", b"2")
        await until(lambda: phone.topics.counts["not_understood"])
        tv.system.outlet = outlet
        await tv.publish("a", b"3")
        assert await read(here, 1) == [b"3"]
        assert here.missed == 1


class Listener(Actor):
    def __init__(self):
        self.heard = []

    async def receive(self, delivery):
        self.heard.append(delivery.message)


async def test_an_actor_is_told_messages_until_it_wants_no_more():
    async with world() as made:
        tv, phone = await made.host("tv"), await made.host("phone")
        ref = await phone.system.spawn(Listener, "listener")
        heard = phone.system.cell("listener").actor.heard
        await phone.ask(SubscribeActor("listener", ("a",)))
        with pytest.raises(TooMany, match="already"):
            await phone.ask(SubscribeActor("listener", ("a",)))
        with pytest.raises(TooMany, match="spawn it first"):
            await phone.ask(SubscribeActor("nobody", ("a",)))
        await tv.publish("a", b"1")
        await until(lambda: heard)
        assert isinstance(heard[0], Publication)
        assert await phone.ask(UnsubscribeActor("listener"))
        assert not await phone.ask(UnsubscribeActor("listener"))
        assert not (await phone.described()).subscribers
        await phone.system.stop(ref)


async def test_whoever_reads_is_told_when_the_topics_end():
    async with world() as made:
        tv = await made.host("tv")
        here = await tv.subscribe("#")
        await tv.kill()
        with pytest.raises(GateLost, match="subscribe again"):
            await here.next()


async def test_a_subscription_outlives_a_crash_of_the_topics_and_is_told_that_something_may_be_missing():
    async with world() as made:
        tv, phone = await made.host("tv"), await made.host("phone")
        here = await phone.subscribe("a/#")
        for payload in (b"1", b"2"):
            await tv.publish("a/b", payload)
        assert await read(here, 1) == [b"1"]
        await until(lambda: here.ring.waits)
        await phone.crash()
        await tv.publish("a/c", b"3")
        # What waited is read, and the word stands where something may be missing.
        with anyio.fail_after(10):
            events = [await here.next() for _ in range(3)]
        assert [each if isinstance(each, Missed) else each.payload for each in events] == [b"2", Missed(None), b"3"]
        assert (here.missed, here.unsure) == (0, True)
        assert [each.filters for each in (await phone.described()).subscribers] == [("a/#",)]
        here.close()
        assert not (await phone.described()).subscribers
        await until(lambda: not tv.topics.exchange.wanting)


async def test_whoever_waits_for_a_message_in_a_crash_gets_the_next_one():
    async with world() as made:
        tv = await made.host("tv")
        here, heard = await tv.subscribe("#"), []

        async def listen():
            heard.extend(await read(here, 2))

        made.tasks.start_soon(listen)
        await tv.publish("a", b"1")
        await until(lambda: not len(here.ring))
        await tv.crash()
        await tv.publish("a", b"2")
        await until(lambda: heard)
        assert heard == [b"1", b"2"]


async def test_a_subscription_at_another_site_outlives_a_crash_and_leaves_no_visit_behind():
    async with world() as made:
        phone, server = await made.host("phone"), await made.host("server", "office", **OPEN)
        here = await phone.subscribe("#", source=server)
        await server.publish("a", b"1")
        assert await read(here, 1) == [b"1"]
        for payload in (b"2", b"3"):
            epochs = {each.epoch for each in server.topics.gates.guests.values()}
            await phone.crash()
            await until(lambda: {each.epoch for each in server.topics.gates.guests.values() if each.here} - epochs)  # noqa: B023 - waited for at once
            assert len(server.topics.gates.guests) == 1
            await server.publish("a", payload)
            with anyio.fail_after(10):
                events = [await here.next() for _ in range(4)]
            assert {type(each) for each in events} == {WayLost, WayFound, Missed, Publication}
            assert events[-1].payload == payload
        here.close()
        await until(lambda: not server.topics.gates.guests)


async def test_an_actor_is_told_messages_on_after_a_crash():
    async with world() as made:
        tv = await made.host("tv")
        await tv.system.spawn(Listener, "listener")
        heard = tv.system.cell("listener").actor.heard
        await tv.ask(SubscribeActor("listener", ("a",)))
        await tv.crash()
        await tv.publish("a", b"1")
        await until(lambda: len(heard) == 2)
        assert heard[0] == Missed(None)
        assert heard[1].payload == b"1"
        assert await tv.ask(UnsubscribeActor("listener"))
        assert not (await tv.described()).subscribers


async def test_what_is_closed_while_the_topics_are_down_is_wanted_by_nobody():
    async with world() as made:
        tv, phone = await made.host("tv"), await made.host("phone")
        here, gone = await phone.subscribe("a"), await phone.subscribe("b")

        async def stopped():
            await type(phone.topics).stopped(phone.topics)
            gone.close()

        phone.topics.stopped = stopped
        await phone.crash()
        assert [each.filters for each in (await phone.described()).subscribers] == [("a",)]
        assert (await tv.publish("b")).members == 0
        here.close()


async def test_whoever_subscribes_in_a_crash_is_answered_and_nothing_is_left(monkeypatch):
    monkeypatch.setattr(topics, "READY_S", 60.0)
    async with world() as made:
        tv, phone = await made.host("tv"), await made.host("phone")
        # So it waits until this one knows.
        phone.congested, answers = True, []

        async def ask():
            with pytest.raises(AskFailed, match="try again") as refusal:
                await phone.subscribe("a")
            answers.append(refusal)

        made.tasks.start_soon(ask)
        await until(lambda: phone.topics.exchange.wants)
        phone.congested = False
        await phone.crash()
        await until(lambda: answers)
        assert not (await phone.described()).subscribers
        assert (await tv.publish("a")).members == 0


async def test_the_topics_take_nothing_else():
    async with world() as made:
        tv = await made.host("tv")
        with pytest.raises(AskNotUnderstood, match="takes no str"):
            await tv.system.ask(Address(tv.id, PATH), "hello")
