"""Publish and subscribe between real nodes of one site: over links, and at each other's gates."""

import socket

import pytest
from migration_site import MigrationSite
from ports import free_port
from topic_hosts import read
from waiting import until

from atoll.actors.topics.errors import BadTopic
from atoll.actors.topics.messages import PATH

pytestmark = pytest.mark.anyio


def topics(node):
    return node.system.cell(PATH).actor


async def test_what_one_node_publishes_the_other_gets_in_order_and_nobody_else(tmp_path):
    site = MigrationSite(tmp_path, free_port(socket.SOCK_DGRAM), count=2)
    async with site.all_nodes() as (one, other):
        await until(lambda: all(len(topics(node).exchange.linked) == 1 for node in (one, other)))
        async with other.subscribe("sensors/+/temperature") as messages, other.subscribe("doors/#") as doors:
            for number in range(100):
                await one.publish("sensors/kitchen/temperature", str(number))
                await one.publish("sensors/kitchen/humidity", b"x")
            published = await one.publish("doors", "open")
            assert (published.subscribers, published.members) == (0, 1)
            assert await read(messages, 100) == [str(number).encode() for number in range(100)]
            assert await read(doors, 1) == [b"open"]
            assert (messages.missed, doors.missed, messages.unsure) == (0, 0, False)
        await until(lambda: not topics(one).exchange.wanting)
        assert (await one.publish("doors", "shut")).members == 0
        async with one.subscribe("a/#", source=other.id) as there:
            await other.publish("a/b", "1")
            await one.publish("a/c", "2", to=other.id)
            assert set(await read(there, 2)) == {b"1", b"2"}
            assert there.missed == 0
        with pytest.raises(BadTopic, match="filters"):
            await one.publish("a/+", b"")
        with pytest.raises(BadTopic, match="262144"):
            await one.publish("a", bytes(262_145))


async def test_a_program_reads_on_after_a_crash_of_its_nodes_topics(tmp_path):
    site = MigrationSite(tmp_path, free_port(socket.SOCK_DGRAM), count=2)
    async with site.all_nodes() as (one, other):
        await until(lambda: all(len(topics(node).exchange.linked) == 1 for node in (one, other)))
        async with other.subscribe("doors/#") as doors:
            await one.publish("doors/front", "open")
            assert await read(doors, 1) == [b"open"]
            earlier = topics(other)

            async def fail():
                raise ZeroDivisionError("a defect")

            earlier.tasks.start_soon(fail)
            await until(lambda: topics(other) is not earlier and topics(other).exchange.linked)
            await until(lambda: topics(other).exchange.settled(topics(other).exchange.version))
            await one.publish("doors/front", "shut")
            assert await read(doors, 1) == [b"shut"]
            assert (doors.missed, doors.unsure) == (0, True)
