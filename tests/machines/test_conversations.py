"""Conversations: how they open, speak, change their path and end."""

import pytest
from conversing_nodes import World, established
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.router import conversations as module
from atoll.actors.router.conversation import Ended, Moved, Opened, Said
from atoll.actors.router.routes import Way
from atoll.transport import path_set
from atoll.transport.base import SILENCE_S, Standing
from atoll.transport.errors import Congested, Unreachable
from atoll.transport.session import HANDSHAKE_S, IDLE_S, RESEND_S
from atoll.transport.session_reset import RESETS_PER_S


def forget(node, conversation):
    node.conversations._by_id.pop(conversation.session.session_id)


def test_a_conversation_opens_at_both_ends_speaks_and_ends(world, caller, callee):
    path = world.path(caller, callee)
    conversation = caller.dial(callee, path)
    assert (conversation.dialled, conversation.established) == (True, False)
    world.now += 0.05
    world.carry()
    answered = callee.conversations.with_peer(caller.id)
    assert (answered.peer, answered.dialled, answered.standing) == (caller.id, False, Standing.GRANTED)
    assert conversation.standing is Standing.NEIGHBOUR
    assert conversation.round_trip_s == pytest.approx(0.05)
    caller.conversations.send(conversation, b"question", world.now)
    world.carry()
    callee.conversations.send(answered, b"answer", world.now)
    world.carry()
    caller.conversations.end(conversation, "enough", world.now)
    caller.conversations.end(conversation, "enough said", world.now)
    world.carry()
    assert caller.kinds() == ["Opened", "Said", "Ended"]
    assert callee.kinds() == ["Opened", "Said", "Ended"]
    assert (caller.said(), callee.said()) == ([b"answer"], [b"question"])
    assert (caller.last().reason, callee.last().reason) == ("enough", "enough")
    assert not caller.last().lost
    assert not callee.last().lost
    assert path.closed
    assert path.other.closed
    assert len(caller.conversations) == len(callee.conversations) == 0


def test_what_is_sent_before_the_session_stands_arrives_once_it_does(world, caller, callee):
    conversation = caller.dial(callee, world.path(caller, callee))
    caller.conversations.send(conversation, b"early", world.now)
    world.carry()
    assert callee.said() == [b"early"]


def test_nothing_can_be_said_after_the_end(world, caller, callee):
    conversation, _ = established(world, caller, callee)
    caller.conversations.end(conversation, "enough", world.now)
    with pytest.raises(Unreachable, match="closed"):
        caller.conversations.send(conversation, b"late", world.now)


def test_a_session_that_is_never_answered_ends_in_words_and_gives_its_path_back(world, caller, callee):
    path = world.path(caller, callee)
    caller.dial(callee, path)
    world.wait(HANDSHAKE_S + 0.5, lost=[path.other])
    assert caller.kinds() == ["Ended"]
    assert "no handshake within 5 s" in caller.last().reason
    assert path.closed
    assert len(path.sent) == pytest.approx(HANDSHAKE_S / RESEND_S, abs=1)
    assert caller.conversations.deadline is None


def test_a_handshake_goes_over_all_paths_and_a_dead_relay_costs_nothing(world, caller, callee):
    dead, alive = (world.path(caller, callee, relay=name) for name in ("relay-1", "relay-2"))
    conversation = caller.dial(callee, dead, alive)
    world.carry(lost=[dead.other])
    assert conversation.established
    assert conversation.relay == "relay-2"
    before = len(dead.sent)
    caller.conversations.send(conversation, b"question", world.now)
    world.carry()
    assert callee.said() == [b"question"]
    assert len(dead.sent) == before


def test_a_handshake_is_answered_over_all_paths_that_it_came_in_on(world, caller, callee):
    deaf, other = (world.path(caller, callee, relay=name) for name in ("relay-1", "relay-2"))
    conversation = caller.dial(callee, deaf, other)
    world.carry(lost=[deaf])
    assert conversation.established


def test_when_the_path_in_use_is_lost_another_carries_on_and_it_is_told(world, caller, callee):
    paths = [world.path(caller, callee, relay=name) for name in ("relay-1", "relay-2")]
    conversation, answered = established(world, caller, callee, *paths)
    used = conversation.in_use
    other = next(path for path in paths if path is not used)
    caller.conversations.path_lost(other, "relay killed", world.now)
    assert caller.kinds() == ["Opened"]
    other = world.path(caller, callee, relay="relay-3")
    assert caller.conversations.path_found(used, other, world.now)
    world.carry()
    caller.conversations.path_lost(used, "relay killed", world.now)
    assert caller.last() == Moved(conversation, f"relay-3, because {used.relay} was lost: relay killed")
    assert conversation.relay == "relay-3"
    caller.conversations.send(conversation, b"question", world.now)
    world.carry()
    assert callee.said() == [b"question"]
    assert answered.relay == "relay-3"
    callee.conversations.send(answered, b"answer", world.now)
    world.carry()
    assert caller.said() == [b"answer"]


def test_a_lost_path_of_a_handshake_is_nothing_to_tell_while_another_is_left(world, caller, callee):
    first, second = world.path(caller, callee), world.path(caller, callee, relay="relay-2")
    conversation = caller.dial(callee, first, second)
    caller.conversations.path_lost(first, "gone", world.now)
    assert caller.turns == []
    assert conversation.relay == "relay-2"
    world.carry()
    assert conversation.established


def test_when_the_last_path_is_lost_the_conversation_ends_and_a_new_dial_resumes(world, caller, callee):
    path = world.path(caller, callee)
    conversation, _ = established(world, caller, callee, path)
    caller.conversations.path_lost(path, "reset", world.now)
    assert caller.last() == Ended(conversation, "reset", lost=True)
    caller.conversations.path_lost(path, "reset", world.now)
    assert caller.kinds() == ["Opened", "Ended"]
    assert caller.conversations.with_peer(callee.id) is None
    again, answered = established(world, caller, callee)
    caller.conversations.send(again, b"here again", world.now)
    world.carry()
    assert callee.said() == [b"here again"]
    # The callee was told nothing of the loss; the new session is the one it answers in.
    assert callee.conversations.with_peer(caller.id) is answered
    assert len(callee.conversations) == 2


def test_a_bearer_that_leads_nowhere_any_more_is_given_up_while_an_answer_is_due(world, caller, callee):
    bearer = world.path(caller, callee, way=Way.BEP, relay="frozen")
    conversation, _ = established(world, caller, callee, bearer)
    world.wait(10 * SILENCE_S, lost=[bearer.other])
    assert conversation.established, "nobody waits for anything"
    caller.conversations.send(conversation, b"question", world.now)
    world.wait(SILENCE_S - 0.25, lost=[bearer.other])
    assert conversation.established
    world.wait(1.0, lost=[bearer.other])
    assert caller.last() == Ended(conversation, "nothing came back through frozen for 3 s", lost=True)
    assert bearer.abandoned, "so that its other half knows it for lost, and dials the spare"
    assert caller.conversations.counts["silent"] == 1


@pytest.mark.parametrize("streams", [False, True])
def test_a_session_that_the_peer_knows_no_more_is_over_as_soon_as_anything_is_said(world, caller, callee, streams):
    paths = [world.path(caller, callee, relay=name) for name in ("relay-1", "relay-2")]
    conversation, answered = established(world, caller, callee, *paths)
    if streams:
        conversation.session.streams.open("echo")
    world.wait(60)
    # As a peer that was started again, whose site stays at the same relays under the same labels.
    forget(callee, answered)
    caller.conversations.send(conversation, b"question", world.now)
    world.carry()
    reason = "the peer was started again, and knows the session no more"
    assert caller.last() == Ended(conversation, reason, lost=True)
    assert all(path.closed for path in paths)
    assert (caller.conversations.counts["forgotten"], callee.conversations.counts["resets"]) == (1, 1)
    again, _ = established(world, caller, callee)
    caller.conversations.send(again, b"question", world.now)
    world.carry()
    assert callee.said() == [b"question"]


def test_a_node_that_knows_a_session_no_more_says_so_so_often_a_second_and_no_more(world, caller, callee):
    conversation, answered = established(world, caller, callee)
    forget(callee, answered)
    (path,) = conversation.paths
    strange = conversation.session.session_id[::-1] + bytes(200)
    for _ in range(2 * RESETS_PER_S):
        callee.conversations.take(path.other, strange, world.now)
    assert callee.conversations.counts["resets"] == RESETS_PER_S
    world.carry()
    assert conversation.established, "they were of another session"
    callee.conversations.take(path.other, strange, world.now + 1)
    assert callee.conversations.counts["resets"] == RESETS_PER_S + 1


@pytest.mark.parametrize(("streams", "limit_s"), [(False, SILENCE_S), (True, module.LAST_SILENCE_S)])
def test_a_session_whose_peer_is_gone_is_over_after_its_time_whatever_paths_are_opened(
    world, caller, callee, streams, limit_s
):
    paths = [world.path(caller, callee, relay=name) for name in ("relay-1", "relay-2")]
    conversation, _ = established(world, caller, callee, *paths)
    if streams:
        conversation.session.streams.open("echo")
    world.wait(60)
    gone = [end for path in paths for end in (path, path.other)]
    began = world.now
    caller.conversations.send(conversation, b"question", world.now)
    world.wait(path_set.SILENCE_S, gone)
    assert isinstance(caller.last(), Moved)
    caller.conversations.send(conversation, b"question", world.now)
    while not conversation.ended:
        assert world.now < began + limit_s + 2 * path_set.SILENCE_S
        world.wait(0.25, gone)
        if len(conversation.paths) <= 2 and not conversation.ended:
            another = world.path(caller, callee, relay="another")
            gone += [another, another.other]
            caller.conversations.add(conversation, another, world.now)
    assert world.now >= began + limit_s
    assert caller.last() == Ended(conversation, f"nothing came back over any path for {limit_s:g} s", lost=True)
    assert caller.conversations.counts["silent_sessions"] == 1


def test_a_session_with_streams_is_not_given_up_so_soon(world, caller, callee):
    paths = [world.path(caller, callee, relay=name) for name in ("relay-1", "relay-2")]
    conversation, _ = established(world, caller, callee, *paths)
    number = conversation.session.streams.open("echo")
    conversation.session.streams.write(number, b"bytes")
    caller.conversations.flush(conversation, world.now)
    silent = [end for path in paths for end in (path, path.other)]
    world.wait(4 * SILENCE_S, lost=silent)
    assert conversation.established


def test_a_session_leaves_a_silent_path_for_another_and_says_so(world, caller, callee):
    paths = [world.path(caller, callee, relay=name) for name in ("frozen", "other")]
    conversation, _ = established(world, caller, callee, *paths)
    in_use = conversation.in_use
    other = next(path for path in conversation.paths if path is not in_use)
    caller.conversations.send(conversation, b"question", world.now)
    world.wait(path_set.SILENCE_S + 0.5, lost=[in_use, in_use.other])
    reason = f"{other.relay}, because nothing came back through {in_use.relay} for 1 s"
    assert caller.last() == Moved(conversation, reason)
    world.wait(SILENCE_S, lost=[in_use, in_use.other])
    assert (in_use.closed, conversation.established) == (True, True)
    caller.conversations.send(conversation, b"once more", world.now)
    world.wait(2 * SILENCE_S, lost=[in_use, in_use.other])
    assert callee.said() == [b"once more"]
    assert (conversation.established, in_use in conversation.paths) == (True, False)


def test_what_comes_late_over_a_path_that_was_let_go_does_not_bring_it_back(world, caller, callee):
    sep, bearer = world.path(caller, callee), world.path(caller, callee, way=Way.BEP, relay="relay-2")
    talk, answered = established(world, caller, callee, sep, bearer)
    world.wait(25.0)
    assert talk.in_use is bearer
    caller.conversations.retire(talk, bearer, "its ticket expires", world.now)
    world.wait(2.0)
    assert talk.in_use is sep
    assert answered.in_use is sep.other
    late = list(bearer.other.sent)
    answered.session.paths._send_probe(answered.session.paths.get(2), world.now)
    callee.conversations.flush(answered, world.now)
    world.wire.clear()
    late = bearer.other.sent[len(late) :]
    assert late
    caller.conversations.let_go(talk, bearer, "its ticket expires", world.now)
    assert bearer.closed
    for record in late:
        caller.conversations.take(bearer, record, world.now)
    assert talk.paths == [sep]


def test_a_path_found_for_nobody_is_not_taken(world, caller, callee):
    conversation, _ = established(world, caller, callee)
    used = conversation.paths[0]
    caller.conversations.end(conversation, "enough", world.now)
    assert not caller.conversations.path_found(used, world.path(caller, callee), world.now)


def test_dials_that_cross_give_two_sessions_and_both_carry(world, caller, callee):
    there = caller.dial(callee, world.path(caller, callee))
    back = callee.dial(caller, world.path(callee, caller))
    world.carry()
    assert there.established
    assert back.established
    assert len(caller.conversations) == len(callee.conversations) == 2
    caller.conversations.send(there, b"one", world.now)
    callee.conversations.send(back, b"two", world.now)
    world.carry()
    assert (caller.said(), callee.said()) == ([b"two"], [b"one"])


def test_dials_that_cross_on_one_path_give_two_sessions_and_the_end_of_one_leaves_it_to_the_other(
    world, caller, callee
):
    path = world.path(caller, callee, way=Way.BEP)
    there = caller.dial(callee, path)
    back = callee.dial(caller, path.other)
    world.carry()
    caller.conversations.end(there, "enough", world.now)
    world.carry()
    assert not path.closed
    assert not path.other.closed
    callee.conversations.send(back, b"still here", world.now)
    world.carry()
    assert caller.said() == [b"still here"]
    callee.conversations.end(back, "enough", world.now)
    assert path.other.closed


def test_a_full_path_loses_the_record_and_counts_it_and_a_dead_one_leaves_it_to_the_next(world, caller, callee):
    paths = [world.path(caller, callee, relay=name) for name in ("relay-1", "relay-2")]
    conversation, _ = established(world, caller, callee, *paths)
    used = conversation.in_use
    other = next(path for path in conversation.paths if path is not used)
    used.trouble = Congested("full")
    caller.conversations.send(conversation, b"lost", world.now)
    assert caller.conversations.counts["congested"] == 1
    used.trouble = Unreachable("gone")
    caller.conversations.send(conversation, b"found", world.now)
    world.carry()
    assert caller.conversations.counts["unreachable"] == 1
    assert callee.said() == [b"found"]
    assert other.sent


def test_too_much_for_one_session_is_refused_and_not_queued(world, caller, callee):
    conversation = caller.dial(callee, world.path(caller, callee))
    for _ in range(16):
        caller.conversations.send(conversation, b"x" * 1_000_000, world.now)
    with pytest.raises(Congested):
        caller.conversations.send(conversation, b"x" * 1_000_000, world.now)


def test_a_silent_conversation_ends_after_its_time(world, caller, callee):
    established(world, caller, callee)
    world.now += IDLE_S - 1
    caller.conversations.tick(world.now)
    assert len(caller.conversations) == 1
    world.now += 2
    caller.conversations.tick(world.now)
    assert "nothing was heard" in caller.last().reason
    assert not caller.last().lost


def test_a_lost_first_message_is_sent_again(world, caller, callee):
    conversation = caller.dial(callee, world.path(caller, callee))
    world.wire.clear()
    assert caller.conversations.deadline == world.now + RESEND_S
    world.wait(RESEND_S + 0.25)
    assert conversation.established


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.booleans()),
        st.tuples(st.just("lose"), st.integers(0, 3)),
        st.tuples(st.just("find"), st.integers(0, 3)),
        st.tuples(st.just("drop"), st.integers(0, 3)),
        st.tuples(st.just("twice"), st.integers(0, 3)),
        st.tuples(st.just("forge"), st.binary(min_size=1, max_size=60)),
        st.tuples(st.just("redial"), st.just(0)),
        st.tuples(st.just("end"), st.booleans()),
        st.tuples(st.just("wait"), st.sampled_from([0.25, 1.0, 6.0])),
    ),
    max_size=25,
)


@settings(max_examples=examples(60))
@given(STEPS)
def test_whatever_happens_to_paths_messages_arrive_at_most_once_in_order_and_turns_make_sense(steps):
    world = World()
    caller, callee = world.nodes[:2]
    sent = {caller.id: [], callee.id: []}
    paths = []

    def open_path():
        paths.append(world.path(caller, callee, relay=f"relay-{len(paths)}"))
        return paths[-1]

    conversation = caller.dial(callee, open_path(), open_path())
    for number, (kind, value) in enumerate(steps):
        match kind:
            case "say":
                speaker, other = (caller, callee) if value else (callee, caller)
                talk = speaker.conversations.with_peer(other.id)
                if talk is not None:
                    sent[speaker.id].append(b"%d" % number)
                    speaker.conversations.send(talk, b"%d" % number, world.now)
            case "lose":
                path = paths[value % len(paths)]
                path.trouble = path.other.trouble = Unreachable("lost")
                for end in (path, path.other):
                    end.node.conversations.path_lost(end, "lost", world.now)
            case "find":
                caller.conversations.path_found(paths[value % len(paths)], open_path(), world.now)
            case "drop" if world.wire:
                del world.wire[value % len(world.wire)]
            case "twice" if world.wire:
                world.wire.append(world.wire[value % len(world.wire)])
            case "forge":
                for node, end in ((caller, paths[0]), (callee, paths[0].other)):
                    node.conversations.take(end, conversation.session.session_id + value, world.now)
            case "redial" if caller.conversations.with_peer(callee.id) is None:
                conversation = caller.dial(callee, open_path())
            case "end" if value:
                caller.conversations.end(conversation, "enough", world.now)
            case "wait":
                world.wait(value)
        if number % 3 == 0:
            world.carry()
    world.carry()
    for speaker, hearer in ((caller, callee), (callee, caller)):
        heard = iter(sent[speaker.id])
        assert all(data in heard for data in hearer.said()), "at most once, in order"
    for node in (caller, callee):
        begun, over = set(), set()
        for turn in node.turns:
            talk = id(turn.conversation)
            assert talk not in over, "nothing comes after the end"
            match turn:
                case Opened():
                    assert talk not in begun
                    begun.add(talk)
                case Said() | Moved():
                    assert talk in begun
                case Ended():
                    over.add(talk)
        assert not over & {id(each) for each in node.conversations.all()}
        assert all(each.paths for each in node.conversations.all())
        assert all(len(each.unbound()) <= module.UNBOUND_MAX for each in node.conversations.all())


def test_a_session_that_waits_for_another_path_does_not_ask_for_the_clock_when_its_streams_end(world, caller, callee):
    path = world.path(caller, callee)
    conversation, _ = established(world, caller, callee, path)
    stream = conversation.session.streams.open("echo")
    world.wait(1)
    caller.conversations.path_lost(path, "reset", world.now)
    conversation.session.streams.reset(stream, "no more")
    caller.conversations.tick(world.now)
    assert conversation.orphaned_at == world.now
    assert caller.conversations.deadline > world.now
