"""Durable actors behind plain bytes: whatever is in a log or a snapshot, it is answered or refused, never worse."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll import DurableActor, handles
from atoll.actors.hand_over.application import OperationFailed
from atoll.actors.hand_over.applications import DurableApplication
from atoll.actors.hand_over.messages import OPERATION_BYTES_MAX
from atoll.actors.hand_over.operations import Operation, decode_outcome, encode_operation
from atoll.actors.hand_over.repertoire import Repertoire
from atoll.actors.hand_over.site_messages import KINDS_MAX
from atoll.actors.runtime import AskDeclined, AskNotUnderstood, Declined
from atoll.transport.codec import encode_payload
from atoll.transport.errors import UsageError


class Put(msgspec.Struct):
    key: str
    value: int


class Get(msgspec.Struct):
    key: str


class Long(msgspec.Struct):
    pass


class Sleep(msgspec.Struct):
    pass


class Nothing:
    def __await__(self):
        yield


class Shelf(DurableActor):
    def __init__(self):
        self.kept: dict[str, int] = {}

    @handles
    async def put(self, message: Put) -> None:
        self.kept[message.key] = message.value

    @handles
    async def get(self, message: Get) -> int:
        if message.key not in self.kept:
            raise Declined(f"there is no {message.key}")
        return self.kept[message.key]

    @handles
    async def long(self, message: Long) -> bytes:
        return bytes(OPERATION_BYTES_MAX)

    @handles
    async def sleep(self, message: Sleep) -> None:
        try:
            await Nothing()
        finally:
            self.kept.clear()

    def snapshot(self) -> dict[str, int]:
        return self.kept

    def restore(self, state: dict[str, int]) -> None:
        self.kept = state


def shelf():
    return DurableApplication(Repertoire().learn(Shelf))


def told(application, message, kind=None):
    return decode_outcome(application.apply(encode_operation(message), 1), kind)


@given(st.dictionaries(st.text(), st.integers(-(2**40), 2**40), max_size=8))
def test_the_state_comes_back_as_it_went(kept):
    application, other = shelf(), shelf()
    for key, value in kept.items():
        told(application, Put(key, value))
    other.restore(application.snapshot())
    assert {key: told(other, Get(key), int) for key in kept} == kept


@given(st.binary(max_size=200))
def test_bytes_that_are_no_operation_are_answered_and_change_nothing(data):
    application = shelf()
    told(application, Put("a", 1))
    for operation in (data, msgspec.msgpack.encode(Operation("Put", data))):
        with pytest.raises(AskNotUnderstood):
            decode_outcome(application.apply(operation, 1), int)
    assert told(application, Get("a"), int) == 1


@given(st.binary(max_size=200))
def test_bytes_that_are_no_state_are_refused(data):
    application = shelf()
    with pytest.raises(OperationFailed):
        application.restore(data + b"?")
    with pytest.raises(OperationFailed):
        application.restore(encode_payload([data]))


def test_no_is_an_answer_and_what_cannot_be_kept_is_an_error():
    application = shelf()
    with pytest.raises(AskDeclined, match="there is no b"):
        told(application, Get("b"))
    with pytest.raises(OperationFailed, match="give it in parts"):
        application.apply(encode_operation(Long()), 1)
    with pytest.raises(OperationFailed, match="must not wait"):
        application.apply(encode_operation(Sleep()), 1)


def test_a_node_knows_so_many_classes_and_no_more():
    repertoire = Repertoire()
    for number in range(KINDS_MAX):
        repertoire.learn(type(f"Shelf{number}", (Shelf,), {}))
    with pytest.raises(UsageError, match="knows as many already"):
        repertoire.learn(Shelf)
    with pytest.raises(UsageError, match="longer than 64 characters"):
        repertoire.learn(type("S" * 65, (Shelf,), {}))
