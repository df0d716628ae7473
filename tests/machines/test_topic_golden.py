"""The bytes of the messages about topics: nodes of different versions send to each other."""

from pathlib import Path

import pytest

from atoll.actors.topics.filters import FILTERS_MAX, TOPIC_BYTES_MAX
from atoll.actors.topics.messages import (
    BATCH_MAX,
    GAP_MAX,
    HOPS_MAX,
    MESSAGES,
    NODE_FILTERS_MAX,
    NUMBER_MAX,
    PAYLOAD_BYTES_MAX,
    Lost,
    Publication,
    TopicMessages,
    TopicsTaken,
    TopicsWanted,
    VisitBegins,
    VisitHeard,
    VisitMessage,
    VisitPublish,
    VisitRefused,
    VisitTaken,
    VisitWelcome,
)
from atoll.transport.codec import Codec
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

GOLDEN = Path(__file__).parent.parent / "golden" / "topics.txt"
CODEC = Codec(MESSAGES)
NODE, BOOT, SITE, KEY = NodeId(bytes(range(32))), b"bootboot", b"sitesite", bytes(range(16))
HERE = Publication("sensors/kitchen", b"21.5", NODE, BOOT, 7, 1_700_000_000_000)
AWAY = Publication("sensors/kitchen", b"21.5", NODE, BOOT, 7, 1_700_000_000_000, (SITE,))
EXAMPLES = (
    TopicsWanted(BOOT, 3, ("sensors/+", "doors/#")),
    TopicsTaken(BOOT, 3),
    TopicMessages(BOOT, BOOT[::-1], 1, 5, (HERE, Lost(3), AWAY)),
    VisitBegins(KEY, SITE, True, ("sensors/#",), ("doors",), BOOT, 17, 4),
    VisitWelcome(SITE, BOOT, 4),
    VisitRefused("not that", again=True),
    VisitMessage(18, Lost(None, (SITE,))),
    VisitHeard(21),
    VisitPublish(5, AWAY),
    VisitTaken(5),
)


def golden():
    return dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())


def test_every_message_about_topics_has_its_golden_bytes():
    assert {type(message) for message in EXAMPLES} == set(MESSAGES)
    assert {type(message).__name__: CODEC.encode(message).hex() for message in EXAMPLES} == golden()


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_golden_bytes_are_read_as_what_was_written(message):
    assert CODEC.decode(bytes.fromhex(golden()[type(message).__name__])) == message


def publication(**changes):
    fields = {name: getattr(HERE, name) for name in HERE.__struct_fields__} | changes
    return VisitPublish(1, Publication(**fields))


HOSTILE = {
    "no topic": publication(topic=""),
    "endless topic": publication(topic="x" * (TOPIC_BYTES_MAX + 1)),
    "endless payload": publication(payload=bytes(PAYLOAD_BYTES_MAX + 1)),
    "short boot": publication(boot=b"boot"),
    "sequence of nothing": publication(sequence=0),
    "endless sequence": publication(sequence=NUMBER_MAX + 1),
    "endless way": publication(via=(SITE,) * (HOPS_MAX + 1)),
    "site of another length": publication(via=(b"site",)),
    "too many filters of a node": TopicsWanted(BOOT, 1, ("a",) * (NODE_FILTERS_MAX + 1)),
    "too many messages": TopicMessages(BOOT, BOOT, 1, 1, (HERE,) * (BATCH_MAX + 1)),
    "no messages": TopicMessages(BOOT, BOOT, 1, 1, ()),
    "messages from nothing on": TopicMessages(BOOT, BOOT, 1, 0, (HERE,)),
    "short key": VisitBegins(KEY[1:], SITE, True, ("a",), (), b"", 0, 0),
    "too many filters of a visit": VisitBegins(KEY, SITE, True, ("a",) * (FILTERS_MAX + 1), (), b"", 0, 0),
    "a loss of nothing": VisitMessage(1, Lost(0)),
    "a loss of more than can be": VisitMessage(1, Lost(GAP_MAX + 1)),
    "negative number": VisitHeard(-1),
    "endless reason": VisitRefused("x" * 501),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_beyond_the_limits_is_no_message(name):
    with pytest.raises(MalformedFrame):
        CODEC.decode(CODEC.encode(HOSTILE[name]))
