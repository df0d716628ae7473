"""Resets: a node that knows a session no more says so, and nobody else can."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_pair import CALLEE, CALLER, RECORD_BYTES_MAX, Pair, accept

from atoll.transport.keys import RESET_TOKEN_BYTES, NodeKey
from atoll.transport.session import Session
from atoll.transport.session_events import Closed, State
from atoll.transport.session_reset import RESET_BYTES, Resets, is_reset, token_of

FORGOTTEN = Closed("the peer was started again, and knows the session no more", by_peer=True, forgotten=True)


def a_record(pair):
    pair.caller.send(b"question")
    (record,) = pair.outgoing(pair.caller)
    return record


def test_a_node_that_was_started_again_ends_the_session_at_once():
    pair = Pair().carry()
    reset = Resets(NodeKey(CALLEE.seed)).answer(a_record(pair), 0.0)
    assert pair.caller.receive(reset, 1.0) == [FORGOTTEN]
    assert pair.caller.state is State.CLOSED
    assert pair.outgoing(pair.caller) == [], "nobody is left to say goodbye to"


def test_it_ends_while_the_initiator_still_proves_itself():
    pair = Pair()
    for sender, receiver in ((pair.caller, pair.callee), (pair.callee, pair.caller)):
        for record in pair.outgoing(sender):
            receiver.receive(record, 0.0)
    proof, *_ = pair.outgoing(pair.caller)
    assert pair.caller.receive(Resets(CALLEE).answer(proof, 0.0), 0.0) == [FORGOTTEN]


@pytest.mark.parametrize("key", [CALLER, NodeKey(bytes(32))], ids=["the initiator's own", "a stranger's"])
def test_nobody_else_can_make_one(key):
    pair = Pair().carry()
    assert pair.caller.receive(Resets(key).answer(a_record(pair), 0.0), 1.0) == []
    assert pair.caller.statistics()["reset_forged"] == 1
    assert pair.carry().messages(pair.callee) == []
    pair.caller.send(b"still here")
    assert pair.carry().messages(pair.callee) == [b"still here"]


@given(token=st.binary(max_size=2 * RESET_TOKEN_BYTES))
def test_a_guessed_token_changes_nothing(token):
    pair = Pair().carry()
    assert pair.caller.receive(pair.caller.session_id + b"\xff\x03" + token, 1.0) == []
    assert pair.caller.state is State.OPEN
    assert pair.caller.statistics()["reset_forged"] == 1


def test_the_responder_hears_none_and_who_has_no_token_yet_neither():
    pair = Pair()
    empty = pair.caller.session_id + b"\xff\x03"
    for end in (pair.caller, pair.callee, *[pair.carry().callee] * 2):
        assert end.receive(empty, 0.0) == []
        assert end.receive(empty + CALLER.reset_token(pair.caller.session_id), 0.0) == []
        assert end.state is not State.CLOSED


def test_a_responder_from_before_which_gives_no_token_cannot_be_reset():
    caller = Session.dial(key=CALLER, peer=CALLEE.node_id, grant=b"", record_bytes_max=RECORD_BYTES_MAX, now=0.0)
    callee = Session.answer(
        key=CALLEE, judge=accept, session_id=caller.session_id, record_bytes_max=RECORD_BYTES_MAX, now=0.0
    )
    callee._opening.proof = b""
    for _ in range(2):
        for sender, receiver in ((caller, callee), (callee, caller)):
            for _, record in sender.outgoing(0.0):
                receiver.receive(record, 0.0)
    assert caller.state is State.OPEN
    assert caller.receive(caller.session_id + b"\xff\x03", 0.0) == []


def test_a_reset_is_no_longer_than_what_it_answers_and_answers_no_reset():
    resets, pair = Resets(CALLEE), Pair().carry()
    record = a_record(pair)
    reset = resets.answer(record, 0.0)
    assert len(reset) == RESET_BYTES <= len(record)
    assert is_reset(reset)
    assert resets.answer(reset, 0.0) is None
    assert resets.answer(record[: RESET_BYTES - 1], 0.0) is None


def test_tokens_are_of_one_session_and_one_node_and_are_no_secret_of_another():
    first, second = bytes(8), b"\x01" * 8
    tokens = [key.reset_token(each) for key in (CALLER, CALLEE) for each in (first, second)]
    assert len(set(tokens)) == 4
    assert {len(each) for each in tokens} == {RESET_TOKEN_BYTES}
    assert token_of(Resets(CALLER).answer(first + bytes(100), 0.0)) == tokens[0]
