"""Messages to bytes and back, in one place.

A message is a frozen, tagged, array-like `msgspec.Struct`; its bytes are msgpack. The codec is given the union of all
messages it may meet (by `node.py`) and turns every malformed input into one `MalformedFrame`. Messages hold no maps (a
list of pairs instead), so duplicate keys cannot be written down; users' open payloads can hold maps, and there a
duplicate key is refused.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, cast

import msgpack
import msgspec

from atoll.transport.errors import MalformedFrame, UsageError
from atoll.transport.identity import NodeId

NODE_IDS_MAX = 1024
"""That are kept for the next message that names them."""
PAYLOAD_DEPTH_MAX = 32
"""Nesting that an open payload may have; deeper is refused. Real payloads stay below 10."""


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of every wire message; subclasses give a unique `tag="actor.name"`.

    Fields may only be appended, with defaults: an older reader ignores what follows the fields it knows.
    """


def encode_special(value: Any) -> Any:
    """Lower the types that msgspec does not know: `NodeId` becomes its bytes."""
    if isinstance(value, NodeId):
        return bytes(value)
    raise TypeError(f"{type(value).__name__} cannot be put into a message")


def _decode_special(kind: type, value: Any) -> Any:
    if kind is NodeId:
        return NodeId(value)
    raise TypeError(f"{kind.__name__} cannot be read from a message")


decode_special = cast("Callable[[type, Any], Any]", lru_cache(maxsize=NODE_IDS_MAX)(_decode_special))
"""Raises bytes back to the types that msgspec does not know. Kept, as most messages name the same few nodes."""


class Codec:
    """Encodes and decodes one union of message types."""

    def __init__(self, messages: Iterable[type[Message]]) -> None:
        self.messages = tuple(messages)
        tags: dict[object, type[Message]] = {}
        for kind in self.messages:
            tag = kind.__struct_config__.tag
            if tag is None or tag in tags:
                raise UsageError(f"{kind.__name__} needs a tag of its own; it has {tag!r}")
            tags[tag] = kind
        union: Any = self.messages[0]
        for kind in self.messages[1:]:
            union = union | kind
        self._encoder = msgspec.msgpack.Encoder(enc_hook=encode_special)
        self._decoder = msgspec.msgpack.Decoder(union, dec_hook=decode_special)

    def encode(self, message: Message) -> bytes:
        """Turn a message into msgpack.

        Raises:
            UsageError: A field holds something that has no bytes (the caller's fault).
        """
        try:
            return self._encoder.encode(message)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UsageError(f"{type(message).__name__} cannot be encoded: {error}") from error

    def decode(self, data: bytes | memoryview) -> Message:
        """Turn msgpack into a message of the union.

        Raises:
            MalformedFrame: Anything else (the sender's fault).
        """
        try:
            message: Message = self._decoder.decode(data)
        except (
            msgspec.MsgspecError,
            MalformedFrame,
            RecursionError,
            UnicodeDecodeError,
            ValueError,
        ) as error:
            raise MalformedFrame(f"not a message: {error}") from error
        return message

    def decode_all(self, bodies: list[bytes]) -> list[Message]:
        """Turn each into a message of the union; for many that come together.

        Raises:
            MalformedFrame: One of them is none; `decode` says which.
        """
        decode = self._decoder.decode
        try:
            return [decode(body) for body in bodies]
        except (msgspec.MsgspecError, MalformedFrame, RecursionError, ValueError) as error:
            raise MalformedFrame(f"not all are messages: {error}") from error


def encode_payload(value: Any) -> bytes:
    """Encode a user's value (plain data, structs, dataclasses) as plain msgpack.

    Raises:
        UsageError: It holds something that has no plain form.
    """
    try:
        packed: bytes = msgpack.packb(msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=encode_special))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{type(value).__name__} cannot be sent: {error}") from error
    return packed


def _pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise MalformedFrame("a map names the same key twice")
    return table


def _depth_checked(value: Any, left: int = PAYLOAD_DEPTH_MAX) -> None:
    if left == 0:
        raise MalformedFrame(f"a payload is nested deeper than {PAYLOAD_DEPTH_MAX}")
    if isinstance(value, dict):
        for item in value.values():
            _depth_checked(item, left - 1)
    elif isinstance(value, list):
        for item in value:
            _depth_checked(item, left - 1)


def decode_payload(data: bytes, kind: Any = Any) -> Any:
    """Read a user's payload, as `kind` where one is given.

    Raises:
        MalformedFrame: Not msgpack, a duplicate key, too deep, or not of that kind (the sender's fault).
    """
    try:
        value = msgpack.unpackb(data, object_pairs_hook=_pairs, strict_map_key=False)
        _depth_checked(value)
        return msgspec.convert(value, kind, dec_hook=decode_special)
    except MalformedFrame:
        raise
    except (msgpack.UnpackException, msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise MalformedFrame(f"not a payload of the expected kind: {error}") from error
