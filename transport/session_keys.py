"""The keys of one session, all of them: what it seals with, what it opens with, and how both are made fresh. No I/O.

    made of a handshake --seal, open, key frames--> phases and epochs (`records.py`, `rehandshake.py`) --erase--> gone

Nobody else holds a key of the session: who lets go of this object has erased it before. It never reads a clock.
"""

from typing import ClassVar

from atoll.transport.noise import Handshake
from atoll.transport.records import Fault, Opener, Sealer
from atoll.transport.rehandshake import Bond, Rehandshake, Step


class SessionKeys:
    """One end's keys; times are monotonic seconds."""

    rehandshake_kind: ClassVar[type[Rehandshake]] = Rehandshake
    sealer_kind: ClassVar[type[Sealer]] = Sealer
    opener_kind: ClassVar[type[Opener]] = Opener

    __slots__ = ("opener", "rehandshake", "sealer")

    def __init__(self, session_id: bytes, handshake: Handshake, now: float) -> None:
        """Take what a complete handshake gives."""
        sending, receiving, root = handshake.split()
        self.sealer = self.sealer_kind(session_id, sending, now)
        self.opener = self.opener_kind(receiving, now)
        bond = Bond(
            initiator=handshake.initiator,
            static=handshake.static,
            peer_static=handshake.peer or b"",
            root=bytearray(root),
            transcript=handshake.binding,
        )
        self.rehandshake = self.rehandshake_kind(bond, self.sealer, self.opener, now)

    @property
    def worn(self) -> bool:
        """Tell whether they are used up: only a goodbye is still sealed."""
        return self.sealer.worn

    def seal(self, plain: bytes, path: int, now: float, *, goodbye: bool = False) -> bytes:
        """Make the record that carries `plain` over `path`.

        Raises:
            Expired: They are worn, and this is no goodbye.
        """
        return self.sealer.seal(plain, path, now, goodbye=goodbye)

    def open(self, record: bytes, now: float) -> bytes | Fault:
        """Give what the record carries, or why it is not opened; a fault changes nothing here."""
        plain = self.opener.open(record, now)
        if not isinstance(plain, Fault) and self.rehandshake.step is not Step.RESTING:
            self.rehandshake.opened(now)
        return plain

    def begin_rehandshake(self, now: float) -> None:
        """Agree on fresh ones now, and not only when these are old; `key_frames` gives the first frame."""
        self.rehandshake.begin(now)

    def key_frames(self, now: float) -> list[bytes]:
        """Give what the peer is to be told of fresh keys now, over every connection."""
        if self.sealer.phase:
            # It has sealed as many records as one key may.
            self.rehandshake.begin(now)
        return self.rehandshake.outgoing()

    def receive(self, verb: int, epoch: int, piece: memoryview, now: float) -> None:
        """Take what the peer says of fresh keys.

        Raises:
            MalformedFrame: It breaks the rules, or has other keys; the session must end.
        """
        self.rehandshake.receive(verb, epoch, piece, now)

    def forget_old(self, now: float) -> None:
        """Erase the key of the phase before, if its time has come."""
        self.opener.forget_old(now)

    def tick(self, now: float) -> str:
        """Renew what is old; gives why the session must end, or an empty string."""
        self.rehandshake.tick(now)
        return self.rehandshake.reason_to_end(now)

    @property
    def deadline(self) -> float:
        """When `forget_old` or `tick` want to be called, at the latest."""
        forget_at, renew_at = self.opener.deadline, self.rehandshake.deadline
        return renew_at if forget_at is None else min(forget_at, renew_at)

    @property
    def counts(self) -> dict[str, int]:
        """Re-handshakes, and their frames that came to nothing."""
        return self.rehandshake.counts

    def erase(self) -> None:
        """Overwrite all of them: nothing can be sealed or opened any more."""
        for each in (self.sealer, self.opener, self.rehandshake):
            each.erase()
