"""Runs: several messages under one header, which is what an actor says to another in one turn of the loop.

    told, asked or answered, one after the other, with the same outside --Run--> one envelope
    run --split--> the envelopes there would have been without it

A run is an envelope whose header says `run`, and whose body is msgpack `[ids, [message, ...]]`: the correlation ids
one behind the other (none for tells) and the messages as binaries, so that one of them that cannot be read harms no
other. It says nothing that its messages would not say one by one; whoever takes a shorter way with it must come to the
same end.
"""

import msgspec

from atoll.transport.envelope import CORRELATION_BYTES, Envelope, Header, Kind, encode_header
from atoll.transport.errors import MalformedFrame

RUN_MESSAGES_MAX = 256
RUN_BYTES_MAX = 64 * 1024
"""What a run's messages weigh together; more would keep the loop from its turn for long."""
RUN_MESSAGE_BYTES_MAX = 4096
"""Longer messages go by themselves: a header is little beside them."""
ITEM_BYTES = CORRELATION_BYTES + 5
"""What a message costs in a run beside its own bytes, at most: its id, and its length."""
HEAD_BYTES = 256
"""What a header is counted as before it is written."""
_BODY_BYTES_MAX = RUN_BYTES_MAX + RUN_MESSAGES_MAX * ITEM_BYTES

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]])


def may_join(envelope: Envelope) -> bool:
    """Tell whether an envelope is one for runs."""
    return envelope.shared is not None and len(envelope.body) <= RUN_MESSAGE_BYTES_MAX


def weight_of(envelope: Envelope) -> int:
    """Tell what an envelope is counted as before it is written."""
    return HEAD_BYTES + ITEM_BYTES + len(envelope.body)


class Run:
    """Envelopes that follow one another and have their header in common, all but the correlation id."""

    __slots__ = ("_bodies", "_ids", "_room", "bytes", "shared")

    def __init__(self, envelope: Envelope) -> None:
        """Begin with an envelope that `may_join`."""
        header = envelope.header
        self.shared = envelope.shared
        self._ids = [header.correlation] if header.correlation else []
        self._bodies = [envelope.body]
        self._room = RUN_BYTES_MAX - len(envelope.body)
        self.bytes = weight_of(envelope)
        """What it is counted as while it grows."""

    def __len__(self) -> int:
        return len(self._bodies)

    def take(self, envelope: Envelope) -> int:
        """Add one that `may_join`, and tell what it weighs; 0 when it has another header, or there is no room."""
        bodies, body = self._bodies, envelope.body
        length = len(body)
        if envelope.shared is not self.shared or length > self._room or len(bodies) >= RUN_MESSAGES_MAX:
            return 0
        self._room -= length
        bodies.append(body)
        if self._ids:
            self._ids.append(envelope.header.correlation)
        length += ITEM_BYTES
        self.bytes += length
        return length

    def encode(self) -> bytes:
        """Write it."""
        assert self.shared is not None  # noqa: S101 - `may_join` said so; for mypy
        header = msgspec.structs.replace(self.shared, run=True)
        return encode_header(header) + _encoder.encode((b"".join(self._ids), self._bodies))


def read_run(envelope: Envelope) -> tuple[bytes, list[bytes]]:
    """Give the ids, one behind the other, and the messages of a run.

    Raises:
        MalformedFrame: It is none, is too long, or its ids are not one for each message (the sender's fault).
    """
    if len(envelope.body) > _BODY_BYTES_MAX:
        raise MalformedFrame(f"a run is longer than {_BODY_BYTES_MAX} bytes")
    try:
        ids, bodies = _decoder.decode(envelope.body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedFrame(f"not the body of a run: {error}") from error
    if not 1 <= len(bodies) <= RUN_MESSAGES_MAX:
        raise MalformedFrame(f"a run has 1 to {RUN_MESSAGES_MAX} messages, not {len(bodies)}")
    wanted = 0 if envelope.header.kind is Kind.TELL else CORRELATION_BYTES * len(bodies)
    if len(ids) != wanted or envelope.header.correlation:
        raise MalformedFrame(f"a run of {len(bodies)} messages has {len(ids)} bytes of ids, not {wanted}")
    return ids, bodies


def split_run(header: Header, ids: bytes, bodies: list[bytes]) -> list[Envelope]:
    """Give the envelopes that a run stands for, from its header and what `read_run` gave."""
    if not ids:
        header = msgspec.structs.replace(header, run=False)
        return [Envelope(header, body) for body in bodies]
    return [
        Envelope(
            Header(
                header.version,
                header.kind,
                header.source_node,
                header.source_path,
                header.target_node,
                header.target_path,
                ids[start : start + CORRELATION_BYTES],
                header.deadline_ms,
                header.traceparent,
                header.fence,
                header.offers_bearer,
            ),
            body,
        )
        for start, body in zip(range(0, len(ids), CORRELATION_BYTES), bodies, strict=True)
    ]
