"""Conversations among strangers: refused grants, forged records, too many of anything."""

import os

from conversing_nodes import established

from atoll.actors.router import conversations as module
from atoll.actors.router.conversation import RANKS, Ended
from atoll.actors.router.routes import Way
from atoll.transport.base import SILENCE_S
from atoll.transport.session import HANDSHAKE_S
from atoll.transport.session_opening import SESSION_ID_BYTES


def test_a_refused_grant_ends_the_session_at_both_ends_with_the_reason(world, caller, callee):
    conversation = caller.dial(callee, world.path(caller, callee), grant=b"forged")
    caller.conversations.send(conversation, b"secret", world.now)
    world.carry()
    assert callee.said() == []
    assert callee.kinds() == ["Ended"]
    assert "Opened" not in caller.kinds()
    assert "this grant is none" in caller.last().reason
    assert callee.last().conversation.peer is None


def test_an_established_bearer_comes_before_signaling_and_one_under_way_after(world, caller, callee):
    signaling, _ = established(world, caller, callee)
    bearer = caller.dial(callee, world.path(caller, callee, way=Way.BEP))
    assert caller.conversations.with_peer(callee.id) is signaling
    world.carry()
    assert caller.conversations.with_peer(callee.id) is bearer
    assert caller.conversations.with_peer(callee.id, Way.SEP) is signaling
    assert caller.conversations.with_peer(caller.id) is None


def test_records_cannot_be_longer_than_the_narrowest_path_takes(world, caller, callee):
    wide = world.path(caller, callee, record_bytes_max=65_536)
    narrow = world.path(caller, callee, record_bytes_max=1024, relay="relay-2")
    conversation, _ = established(world, caller, callee, wide, narrow)
    caller.conversations.send(conversation, b"x" * 5000, world.now)
    world.carry()
    assert callee.said() == [b"x" * 5000]


def test_forged_records_move_nothing_and_push_no_path_out(world, caller, callee):
    paths = [world.path(caller, callee, relay=name) for name in ("relay-1", "relay-2")]
    conversation, answered = established(world, caller, callee, *paths)
    used = list(answered.paths)
    session_id = conversation.session.session_id
    for number in range(10):
        evil = world.path(world.nodes[2], callee, relay=f"evil-{number}")
        for forged in (b"\xff\x00" + b"x" * 32, b"\xff\x02" + b"x" * 96, b"\x00" * 10 + b"x" * 40):
            callee.conversations.take(evil.other, session_id + forged, world.now)
    assert answered.paths == used
    assert callee.kinds() == ["Opened"]


def test_nothing_is_kept_of_connections_that_brought_forged_records_only(world, caller, callee):
    conversation, answered = established(world, caller, callee)
    known = dict(answered._vias)
    for number in range(100):
        evil = world.path(world.nodes[2], callee, relay=f"evil-{number}")
        callee.conversations.take(evil.other, conversation.session.session_id + b"\xff\x02" + b"x" * 96, world.now)
    assert answered._vias == known


def test_a_path_that_the_peer_opens_over_a_connection_that_was_let_go_does_no_harm(world, caller, callee):
    """Its records were on their way when the connection was let go, and the number is given to another one later."""
    first, second = (world.path(caller, callee, relay=name, way=Way.BEP) for name in ("relay-1", "relay-2"))
    conversation, answered = established(world, caller, callee, first, second)
    caller.conversations.retire(conversation, first, "drained", world.now)
    world.carry()
    callee.conversations.let_go(answered, first.other, "drained", world.now)
    assert first.other in answered.closed
    number = conversation.session.add_path(RANKS[Way.BEP], "relay-1", world.now)
    conversation.numbers[number] = first
    caller.conversations.flush(conversation, world.now)
    world.carry()
    assert set(answered.numbers.values()) <= set(answered.paths)
    world.wait(2 * SILENCE_S, lost=(first, first.other))
    callee.conversations.path_lost(first.other, "gone", world.now)
    caller.conversations.send(conversation, b"still there?", world.now)
    world.carry()
    assert callee.said() == [b"still there?"]


def test_forged_records_during_the_handshake_push_no_genuine_path_out(world, caller, callee):
    paths = [world.path(caller, callee, relay=name) for name in ("relay-1", "relay-2")]
    conversation = caller.dial(callee, *paths)
    for number in range(10):
        evil = world.path(world.nodes[2], caller, relay=f"evil-{number}")
        caller.conversations.take(evil.other, conversation.session.session_id + b"\xff\x01" + b"x" * 48, world.now)
    assert conversation.paths[:2] == paths
    assert len(conversation.unbound()) <= module.UNBOUND_MAX
    world.carry()
    assert conversation.established
    assert conversation.paths[0] in paths


def test_who_proves_itself_is_answered_where_it_proved_itself(world, caller, callee):
    """Not where the last stranger's record came from."""
    path = world.path(caller, callee)
    conversation = caller.dial(callee, path)
    evil = world.path(world.nodes[2], callee, relay="evil")
    end, first = world.wire.popleft()
    callee.conversations.take(end, first, world.now)
    callee.conversations.take(evil.other, first[:SESSION_ID_BYTES] + b"\xff\x00" + b"x" * 40, world.now)
    world.carry()
    assert conversation.established
    assert callee.conversations.with_peer(caller.id).relay == "relay-1"
    assert callee.conversations.with_peer(caller.id).paths[0] is path.other


def test_records_after_the_end_and_of_nobody_are_counted_and_open_nothing(world, caller, callee):
    path = world.path(caller, callee)
    conversation, _ = established(world, caller, callee, path)
    caller.conversations.send(conversation, b"question", world.now)
    kept = list(path.sent)
    caller.conversations.end(conversation, "enough", world.now)
    world.carry()
    told = len(callee.kinds())
    for record in kept[1:]:
        callee.conversations.take(path.other, record, world.now)
    assert callee.conversations.counts["unknown_session"] == len(kept) - 1
    for record in (b"", b"short", bytes(SESSION_ID_BYTES)):
        callee.conversations.take(path.other, record, world.now)
    assert callee.conversations.counts["malformed"] == 3
    assert len(callee.conversations) == 0
    # The first message again begins a handshake that nobody can finish.
    callee.conversations.take(path.other, kept[0], world.now)
    world.wire.clear()
    world.wait(HANDSHAKE_S + 0.5, lost=[path])
    assert len(callee.conversations) == 0
    assert callee.said() == [b"question"]
    assert callee.kinds()[told:] == ["Ended"]


def test_a_bearer_outlives_a_strangers_handshake_on_it(world, caller, callee):
    path = world.path(caller, callee, way=Way.BEP)
    conversation, _ = established(world, caller, callee, path)
    callee.conversations.take(path.other, b"stranger" + b"\xff\x00" + b"x" * 40, world.now)
    world.wait(HANDSHAKE_S + 0.5)
    assert len(callee.conversations) == 1
    assert not path.other.closed
    caller.conversations.send(conversation, b"still here", world.now)
    world.carry()
    assert callee.said() == [b"still here"]


def test_strangers_handshakes_displace_each_other_and_no_honest_caller(world, caller, callee, monkeypatch):
    monkeypatch.setattr(module, "ANSWERING_MAX", 8)
    evil = world.path(world.nodes[2], callee)

    def flood(count):
        for _ in range(count):
            world.now += 0.001
            callee.conversations.take(evil.other, os.urandom(8) + b"\xff\x00" + bytes(32), world.now)

    flood(50)
    assert callee.conversations.counts["handshakes_displaced"] == 42
    conversation = caller.dial(callee, world.path(caller, callee))
    end, first = world.wire.popleft()
    callee.conversations.take(end, first, world.now)
    flood(5)
    world.carry()
    assert conversation.established
    assert len(callee.conversations) == 8


def test_the_conversation_used_least_recently_gives_way(world, caller, callee, monkeypatch):
    monkeypatch.setattr(module, "CONVERSATIONS_MAX", 3)
    third = world.nodes[2]
    opened = [established(world, caller, callee)[0] for _ in range(3)]
    callee.conversations.send(callee.conversations.all()[0], b"news", world.now)
    world.carry()
    assert caller.turns[-1].conversation is opened[0]
    first = next(each for each in caller.conversations.all() if each is not caller.turns[-1].conversation)
    fourth = third.dial(caller, world.path(third, caller))
    world.carry()
    assert fourth.established
    assert len(caller.conversations) == 3
    assert first not in caller.conversations.all()
    assert first is opened[1]
    assert caller.conversations.counts["displaced"] == 1
    ended = next(turn for turn in callee.turns if isinstance(turn, Ended))
    assert "too many sessions" in ended.reason
