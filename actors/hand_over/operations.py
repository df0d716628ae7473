"""How a call to a user's migratable actor, and what came of it, look in a log: plain bytes that live long."""

from typing import Any

import msgspec

from atoll.actors.hand_over.messages import OPERATION_BYTES_MAX
from atoll.actors.runtime.errors import AskFailed, ask_failure
from atoll.actors.runtime.messages import FAULT_CHARACTERS_MAX
from atoll.transport.codec import decode_payload, encode_payload
from atoll.transport.errors import MalformedFrame, UsageError


class Operation(msgspec.Struct, frozen=True, array_like=True):
    """What was asked: the name of the message's type, and its fields."""

    name: str
    payload: bytes


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What came of it: a value, or the kind of an `AskFailed` and its text."""

    kind: str
    payload: bytes


_operations = msgspec.msgpack.Decoder(Operation)
_outcomes = msgspec.msgpack.Decoder(Outcome)


def encode_operation(message: Any) -> bytes:
    """Encode what is asked.

    Raises:
        UsageError: It has no plain form, or is too long.
    """
    data = msgspec.msgpack.encode(Operation(type(message).__name__, encode_payload(message)))
    if len(data) > OPERATION_BYTES_MAX:
        raise UsageError(
            f"{type(message).__name__} has {len(data)} bytes, and a migratable actor takes {OPERATION_BYTES_MAX} at "
            "once: send it in parts"
        )
    return data


def decode_operation(data: bytes) -> Operation:
    """Read what is asked.

    Raises:
        MalformedFrame: It is no operation (the caller's fault).
    """
    return _decoded(_operations, data)  # type: ignore[no-any-return]


def encode_value(value: Any) -> bytes:
    """Encode what a handler gave.

    Raises:
        UsageError: It has no plain form, or is too long to be kept.
    """
    data = msgspec.msgpack.encode(Outcome("", encode_payload(value)))
    if len(data) > OPERATION_BYTES_MAX:
        raise UsageError(f"the reply has {len(data)} bytes, and {OPERATION_BYTES_MAX} can be kept: give it in parts")
    return data


def encode_failure(error: AskFailed) -> bytes:
    """Encode that there is no value, and why."""
    return msgspec.msgpack.encode(Outcome(error.kind, str(error)[:FAULT_CHARACTERS_MAX].encode()))


def decode_outcome(data: bytes, kind: Any) -> Any:
    """Give the value, as `kind`.

    Raises:
        AskFailed: There is none.
        MalformedFrame: It cannot be read.
    """
    outcome: Outcome = _decoded(_outcomes, data)
    if outcome.kind:
        raise ask_failure(outcome.kind, outcome.payload.decode(errors="replace"))
    return decode_payload(outcome.payload, kind)


def _decoded(decoder: "msgspec.msgpack.Decoder[Any]", data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedFrame(f"not what is in a log of operations: {error}") from error
