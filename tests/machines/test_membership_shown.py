"""What membership shows, and the bytes of its messages."""

from pathlib import Path

from membership_bench import HIGH, LOW, OWN, PORT

from atoll.actors.discoverer.messages import (
    MESSAGES,
    Ack,
    Life,
    ListSeen,
    Nack,
    Ping,
    PingRequest,
    Rumour,
    Rumours,
    SeenNode,
    SeenNodes,
)
from atoll.actors.runtime.machine import Received, Reply
from atoll.transport.codec import Codec

GOLDEN = Path(__file__).parent.parent / "golden" / "discoverer.txt"


class Answered:
    pass


def test_list_seen_is_answered_sorted_and_with_the_notes(bench):
    bench.machine.notes = ("no multicast here",)
    bench.hear(HIGH)
    bench.hear(LOW)
    to = Answered()
    (reply,) = bench.machine.handle(Received(OWN, ListSeen(), "", to), bench.now + 0.5)
    assert isinstance(reply, Reply)
    assert reply.to is to
    assert [each.node for each in reply.message.nodes] == [LOW, HIGH]
    assert reply.message.nodes[1] == SeenNode(
        HIGH, "tv", "0.1.0", True, "", (("192.0.2.7", PORT),), 0.5, "dialling 192.0.2.7 port 8085"
    )
    assert reply.message.notes == ("no multicast here",)


def test_a_list_nobody_asked_for_and_other_messages_are_ignored(bench):
    bench._take(bench.machine.handle(Received(HIGH, ListSeen()), bench.now))
    bench._take(bench.machine.handle(Received(HIGH, SeenNodes()), bench.now))
    bench.tell("gossip")
    assert bench.machine.statistics(bench.now)["ignored"] == 3


EXAMPLES = (
    ListSeen(),
    SeenNodes((SeenNode(HIGH, "tv", "0.1.0", True, "member", (("192.0.2.7", 8085),), 0.5, ""),), ("note",)),
    Ping(7, (Rumour(HIGH, Life.SUSPECT, 5, LOW),)),
    PingRequest(8, HIGH, (Rumour(LOW, Life.ALIVE, 6, LOW),)),
    Ack(7, (Rumour(HIGH, Life.DEAD, 5, LOW),)),
    Nack(8),
    Rumours((Rumour(HIGH, Life.LEFT, 5, HIGH),)),
)
CODEC = Codec(MESSAGES)


def test_the_bytes_of_the_messages_stay():
    golden = dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())
    assert {type(message) for message in EXAMPLES} == set(MESSAGES)
    assert {type(message).__name__: CODEC.encode(message).hex() for message in EXAMPLES} == golden
    assert [CODEC.decode(CODEC.encode(message)) for message in EXAMPLES] == list(EXAMPLES)
