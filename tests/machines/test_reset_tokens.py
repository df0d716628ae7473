"""Who sees a session's id before the session stands does not get the token that resets it."""

from atoll.transport.session_reset import ENDED_MAX, GOODBYE_S, TOLD_MAX, TOLD_S, Resets, is_reset


def told(world):
    """Take the resets from the wire."""
    resets = [record for _, record in world.wire if is_reset(record)]
    for each in [each for each in world.wire if is_reset(each[1])]:
        world.wire.remove(each)
    return resets


def test_a_relay_that_asks_for_the_token_before_message_1_comes_cannot_end_the_session(world, caller, callee):
    theirs, other = (world.path(caller, callee, relay=name) for name in ("relay-1", "relay-2"))
    conversation = caller.dial(callee, theirs, other)
    callee.conversations.take(theirs.other, conversation.session.session_id + bytes(100), world.now)
    (reset,) = told(world)
    world.carry()
    assert conversation.established
    world.wait(2 * TOLD_S)
    caller.conversations.take(theirs, reset, world.now)
    assert conversation.established
    caller.conversations.send(conversation, b"still here", world.now)
    world.carry()
    assert callee.said() == [b"still here"]


def test_a_stranger_who_opens_a_session_under_the_same_id_first_cannot_end_it(world, caller, callee, monkeypatch):
    conversation = caller.dial(callee, world.path(caller, callee))
    held, stranger = list(world.wire), world.nodes[2]
    world.wire.clear()
    monkeypatch.setattr("os.urandom", lambda _count: conversation.session.session_id)
    strange = stranger.dial(callee, world.path(stranger, callee))
    monkeypatch.undo()
    world.carry()
    token = strange.session._reset_token
    stranger.conversations.end(strange, "I know enough", world.now)
    world.carry()
    world.wire += held
    world.carry()
    assert conversation.established
    (path,) = conversation.paths
    caller.conversations.take(path, conversation.session.session_id + b"\xff\x03" + token, world.now)
    assert conversation.established


def test_what_was_told_is_forgotten_after_its_time_and_no_more_is_told_than_is_kept_in_mind(callee):
    resets = Resets(callee.key)
    ids = [number.to_bytes(8) for number in range(TOLD_MAX + 1)]
    assert all(resets.begins(each, 1.0) for each in ids[:TOLD_MAX])
    assert not resets.begins(ids[0], 1.0)
    assert not resets.begins(ids[-1], 1.0)
    assert resets.answer(ids[-1] + bytes(100), 1.0) is None
    assert resets.answer(ids[0] + bytes(100), 1.0) is not None, "its session may just be over"
    assert resets.begins(ids[-1], 1.0 + TOLD_S)
    assert not resets.begins(ids[-1], 1.0 + TOLD_S)


def test_a_refusal_is_not_overtaken_by_a_reset_over_another_path(world, caller, callee):
    paths = [world.path(caller, callee, relay=name) for name in ("relay-1", "relay-2")]
    conversation = caller.dial(callee, *paths, grant=b"bad")
    # Message 1 over the second path is lost, so the callee does not know that path when message 3 comes over both.
    world.wire.pop()
    for _ in range(2):
        end, record = world.wire.popleft()
        end.node.conversations.take(end, record, world.now)
    proofs = list(world.wire)
    world.wire.clear()
    for end, record in proofs:
        end.node.conversations.take(end, record, world.now)
    assert not told(world)
    world.carry()
    assert (conversation.ended, conversation.lost) == ("this grant is none", False)


def test_a_session_that_ended_is_reset_after_a_while_when_its_goodbye_was_lost(callee):
    resets, record = Resets(callee.key), bytes(100)
    resets.ends(record[:8], 1.0)
    assert resets.answer(record, 1.0 + GOODBYE_S - 0.01) is None
    assert resets.answer(record, 1.0 + GOODBYE_S) is not None


def test_no_more_ended_sessions_are_kept_in_mind_than_that(callee):
    resets = Resets(callee.key)
    for number in range(ENDED_MAX + 1):
        resets.ends(number.to_bytes(8), 1.0)
    assert resets.answer((0).to_bytes(8) + bytes(100), 1.0) is not None
    assert resets.answer((1).to_bytes(8) + bytes(100), 1.0) is None
