"""The state of a migratable actor: its data, and what it answered to whom.

Both are one thing: they are snapshotted together, moved together and rebuilt together from a log. A retried sequence
gets the reply that it got first, wherever the actor lives by then.

The table of answers holds CLIENTS_MAX clients. When it is full, the client that has been silent for longest is
forgotten, if it has been silent for `FORGET_S`; otherwise the new one has to wait. A client gives up its operation
long before that (`client.GIVE_UP_S`), so nobody who is forgotten still retries. Who was forgotten stands in the log,
so that every host forgets the same.

An actor that begins empty, because the one before was removed, or was soft and died, knows none of the clients of that
one. So the state says in which generation it began, and a call whose client is older belongs to the one before: else a
late copy of a client's first call, answered long ago, would be a new one.
"""

import msgspec

from atoll.actors.hand_over.messages import Call, CallRefused, Entry, Generation, Kind, Nonce, Operation
from atoll.actors.runtime.machine import Seconds
from atoll.transport.errors import MalformedFrame

CLIENTS_MAX = 4096
FORGET_S = 120.0
"""Four times what a client retries for: clocks drift, and messages take their time."""


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """The newest operation of a client, and its reply."""

    client: Nonce
    sequence: int
    reply: Operation


class ActorState(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot holds; the table of answers from the client silent for longest on."""

    kind: Kind
    data: bytes
    answers: tuple[Answered, ...]
    began: Generation = 0
    """In which generation the actor began empty; 0 where it was written by who did not say so."""


_decoder = msgspec.msgpack.Decoder(ActorState)


def encode_state(state: ActorState) -> bytes:
    """Turn a state into the bytes of a snapshot."""
    return msgspec.msgpack.encode(state)


def decode_state(data: bytes) -> ActorState:
    """Read the bytes of a snapshot.

    Raises:
        MalformedFrame: They are none (whoever sent or kept them is at fault).
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedFrame(f"not the state of an actor: {error}") from error


def stranger(call: Call, began: int) -> CallRefused | None:
    """Refuse a call to the actor that had this name before `began`; no later one takes it either."""
    if not 0 < call.since < began:
        return None
    why = f"it was asked of generation {call.since}, and this actor began in {began}"
    return CallRefused(call.actor, call.client, call.sequence, why, unknown=True, began=began)


class Answers:
    """The table of answers of one actor, at its owner."""

    __slots__ = ("_clients_max", "_heard", "table")

    def __init__(self, clients_max: int = CLIENTS_MAX) -> None:
        self._clients_max = clients_max
        self.table: dict[int, Answered] = {}
        """Ordered by when each client was heard last."""
        self._heard: dict[int, Seconds] = {}

    def restore(self, answers: tuple[Answered, ...], now: Seconds) -> None:
        """Begin with a table; how long each was silent elsewhere is not known, so all count as heard now."""
        self.table = {each.client: each for each in answers}
        self._heard = dict.fromkeys(self.table, now)

    def known(self, client: int) -> Answered | None:
        """Give the newest answer to a client."""
        return self.table.get(client)

    def room_for(self, client: int, now: Seconds) -> int | None:
        """Say whom to forget for this client: 0 for nobody; None where nobody may be forgotten yet."""
        if client in self.table or len(self.table) < self._clients_max:
            return 0
        silent = next(iter(self.table))
        return silent if now - self._heard[silent] >= FORGET_S else None

    def note(self, entry: Entry, now: Seconds) -> None:
        """Take over what an entry says."""
        if entry.forgets:
            self.table.pop(entry.forgets, None)
            self._heard.pop(entry.forgets, None)
        self.table.pop(entry.client, None)
        self.table[entry.client] = Answered(entry.client, entry.sequence, entry.reply)
        self._heard[entry.client] = now

    def snapshot(self) -> tuple[Answered, ...]:
        """Give the table, in order."""
        return tuple(self.table.values())
