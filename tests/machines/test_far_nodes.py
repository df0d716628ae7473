"""What a gateway remembers of nodes of other sites."""

import pytest

from atoll.actors.cloud.messages import NodeRecord
from atoll.actors.gateway.far_nodes import FAR_NODES_MAX, FRESH_S, FarNodes
from atoll.transport.keys import NodeKey


def record(name="server", site="office"):
    return NodeRecord(NodeKey.generate().node_id, name, site)


@pytest.fixture
def far():
    return FarNodes()


def test_a_record_is_fresh_for_a_while_and_then_only_known(far):
    server = record()
    far.remember(server, 100.0)
    for name in (str(server.node), server.node.short, "server", "office/server"):
        assert far.fresh(name, 100.0 + FRESH_S - 0.1) == server
        assert far.fresh(name, 100.0 + FRESH_S) is None
        assert far.called(name) == [server]
    assert far.fresh("home/server", 100.0) is None
    assert far.fresh(str(server.node)[:3], 100.0) is None


def test_two_of_one_name_are_never_fresh_by_it(far):
    one, other = record(), record(site="shop")
    far.remember(one, 1.0)
    far.remember(other, 1.0)
    assert far.fresh("server", 1.0) is None
    assert far.fresh("shop/server", 1.0) == other


def test_a_forgotten_one_is_asked_for_again(far):
    server = record()
    far.remember(server, 1.0)
    far.forget(server.node)
    far.forget(server.node)
    assert far.called("server") == []


def test_the_one_told_longest_ago_makes_room(far):
    records = [record(f"n{number}") for number in range(FAR_NODES_MAX + 1)]
    far.remember(records[0], 0.0)
    far.remember(records[1], 0.0)
    far.remember(records[0], 1.0)
    for each in records[2:]:
        far.remember(each, 2.0)
    assert far.called("n1") == []
    assert far.called("n0") == [records[0]]
    assert len(far.names()) == FAR_NODES_MAX
