"""Publish and subscribe between real nodes of one site: over links, and at each other's gates."""

import contextlib
import socket

import anyio
import pytest
from migration_site import MigrationSite
from ports import free_port
from waiting import until

from atoll import Actor
from atoll.actors.runtime import Address
from atoll.actors.topics.errors import BadTopic
from atoll.actors.topics.messages import PATH, Publication
from atoll.actors.topics.orders import DescribeTopics, SubscribeActor, UnsubscribeActor

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def two_nodes(folder):
    site = MigrationSite(folder, free_port(socket.SOCK_DGRAM), count=2)
    async with site.all_nodes() as nodes:
        await until(lambda: all(len(topics(node).exchange.linked) == 1 for node in nodes))
        yield nodes


def topics(node):
    return node.system.cell(PATH).actor


async def first(subscription, count):
    with anyio.fail_after(10):
        return [await anext(subscription) for _ in range(count)]


async def test_what_one_node_publishes_the_other_gets_in_order_and_nobody_else(tmp_path):
    async with two_nodes(tmp_path) as (one, other):
        async with other.subscribe("sensors/+/temperature") as messages, other.subscribe("doors/#") as doors:
            for number in range(200):
                await one.publish("sensors/kitchen/temperature", str(number))
                await one.publish("sensors/kitchen/humidity", b"x")
            published = await one.publish("doors", b"open")
            assert (published.subscribers, published.members) == (0, 1)
            got = await first(messages, 200)
            assert [each.payload for each in got] == [str(number).encode() for number in range(200)]
            assert {each.node for each in got} == {one.id}
            assert [each.topic for each in await first(doors, 1)] == ["doors"]
            assert (messages.missed, doors.missed, messages.unsure) == (0, 0, False)
        await until(lambda: not topics(one).exchange.wanting)
        assert (await one.publish("doors", b"shut")).members == 0


async def test_a_visit_at_a_member_gets_what_its_site_says_and_publishes_there(tmp_path):
    async with two_nodes(tmp_path) as (one, other), one.subscribe("a/#", source=other.id) as there:
        await other.publish("a/b", b"1")
        await one.publish("a/c", b"2", to=other.id)
        assert {each.payload for each in await first(there, 2)} == {b"1", b"2"}
        assert there.missed == 0


class Listener(Actor):
    def __init__(self):
        self.heard = []

    async def receive(self, delivery):
        self.heard.append(delivery.message)


async def test_an_actor_is_told_messages_until_it_wants_no_more(tmp_path):
    async with two_nodes(tmp_path) as (one, other):
        await other.spawn(Listener, "listener")
        heard = other.system.cell("listener").actor.heard
        await other.system.ask(Address(other.id, PATH), SubscribeActor("listener", ("a",)))
        await one.publish("a", b"1")
        await until(lambda: heard)
        assert isinstance(heard[0], Publication)
        assert await other.system.ask(Address(other.id, PATH), UnsubscribeActor("listener"))
        await until(lambda: not topics(one).exchange.wanting)
        assert not (await other.system.ask(Address(other.id, PATH), DescribeTopics())).subscribers


async def test_what_is_no_topic_and_what_is_too_long_is_refused_in_words(tmp_path):
    async with two_nodes(tmp_path) as (one, _):
        with pytest.raises(BadTopic, match="filters"):
            await one.publish("a/+", b"")
        with pytest.raises(BadTopic, match="262144"):
            await one.publish("a", bytes(262_145))
        with pytest.raises(BadTopic, match="last level"):
            async with one.subscribe("a/#/b"):
                pass
