"""Who votes in a site: a versioned list, never whoever happens to answer.

    founded or reformed, version 1  --one voter more or less, signed by a majority of version n-->  version n + 1

Every roster is sealed under the site secret, so that a member without any can check what it is given. From version 2 on
it carries signatures of a majority of the voters of the version before, all of one epoch: the proof that no other
roster can have its place (`roster_change.py`). A new incarnation is a person's word and begins again with version 1;
the higher one wins everywhere.

It must never be sealed before it is final: who has no roster takes the seal for proof.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from functools import lru_cache
from random import Random
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from atoll.transport.codec import Message
from atoll.transport.errors import MalformedFrame, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.keys import SiteKeys, signature_valid

VOTERS_MAX = 7
"""Seven survive three deaths; more voters make every vote slower and no site safer."""
VERSION_MAX = 2**53
INCARNATION_STEP = 2**32
"""The upper part counts, the lower part is drawn: two people who reform a site at once do not make the same one."""
FIRST_INCARNATION = INCARNATION_STEP
"""Of a site that was founded and never reformed."""
REASON_CHARACTERS_MAX = 300

Mark: TypeAlias = tuple[int, int]
"""Incarnation and version: the later of two rosters has the higher mark."""
Version: TypeAlias = Annotated[int, Meta(ge=0, le=VERSION_MAX)]
Signed: TypeAlias = tuple[NodeId, Annotated[bytes, Meta(max_length=64)]]


class Roster(Message, frozen=True, array_like=True, tag="elector.roster"):
    """The voters of a site; what a vote refers to by its incarnation and version. Unsealed it is a proposal."""

    version: Version = 0
    """0 before any roster is known: such a node has no vote."""
    voters: Annotated[tuple[NodeId, ...], Meta(max_length=VOTERS_MAX + 1)] = ()
    """Sorted, without repetition."""
    seal: Annotated[bytes, Meta(max_length=32)] = b""
    """HMAC-SHA256 of all the rest under the site's roster key."""
    incarnation: Version = 0
    epoch: Version = 0
    """In which it was proposed and signed; of a reformed one, the first epoch of the new incarnation."""
    previous: Annotated[bytes, Meta(max_length=32)] = b""
    """Digest of the version before; empty at version 1."""
    reason: Annotated[str, Meta(max_length=REASON_CHARACTERS_MAX)] = ""
    """Why it differs from the version before."""
    signatures: Annotated[tuple[Signed, ...], Meta(max_length=VOTERS_MAX)] = ()
    """Ed25519, of a majority of the voters of the version before; none at version 1."""

    @classmethod
    def found(cls, site_keys: SiteKeys, voters: Iterable[NodeId]) -> "Roster":
        """Make version 1 of a site; the same voters always give the same roster.

        Raises:
            UsageError: No voter, more than `VOTERS_MAX`, or one named twice (the caller's fault).
        """
        return cls(1, tuple(sorted(voters)), incarnation=FIRST_INCARNATION).first(site_keys.roster_key)

    def reformed(self, own: NodeId, epoch: int, reason: str, *, roster_key: bytes, rng: Random) -> "Roster":
        """Make version 1 of the next incarnation, with `own` as its only voter."""
        count = self.incarnation // INCARNATION_STEP + 1
        incarnation = count * INCARNATION_STEP + rng.randrange(INCARNATION_STEP)
        return Roster(1, (own,), incarnation=incarnation, epoch=epoch, reason=reason).first(roster_key)

    def first(self, roster_key: bytes) -> "Roster":
        """Seal version 1 of an incarnation.

        Raises:
            UsageError: It cannot be one (the caller's fault).
        """
        roster = self.sealed(roster_key)
        if fault := roster.fault(roster_key):
            raise UsageError(f"a roster cannot be founded: {fault}")
        return roster

    @property
    def quorum(self) -> int:
        """How many voters are a majority."""
        return len(self.voters) // 2 + 1

    @property
    def mark(self) -> Mark:
        """Where it stands in the order of rosters."""
        return self.incarnation, self.version

    @property
    def digest(self) -> bytes:
        """What makes it this roster and no other; the epoch does not, since a later leader may have to finish it."""
        return _digest(self.incarnation, self.version, self.voters, self.reason, self.previous)

    def next(self, voters: Iterable[NodeId], epoch: int, reason: str) -> "Roster":
        """Propose what shall follow this one."""
        return Roster(
            self.version + 1,
            tuple(sorted(voters)),
            incarnation=self.incarnation,
            epoch=epoch,
            previous=self.digest,
            reason=reason[:REASON_CHARACTERS_MAX],
        )

    def difference(self, other: "Roster") -> set[NodeId]:
        """Give the voters that only one of the two has."""
        return set(self.voters) ^ set(other.voters)

    def sealed(self, roster_key: bytes) -> "Roster":
        """Seal it; only what is final may be."""
        return replace(self, seal=self._seal(roster_key))

    def _seal(self, roster_key: bytes) -> bytes:
        signed = b"".join(voter + len(signature).to_bytes(1, "big") + signature for voter, signature in self.signatures)
        return hmac.digest(roster_key, b"atoll roster" + self.digest + _u64(self.epoch) + signed, "sha256")

    def shape_fault(self) -> str:
        """Name the first thing wrong with it that needs no key to be seen; empty for none."""
        if self.version < 1:
            return f"its version is {self.version}, the first is 1"
        if self.incarnation < FIRST_INCARNATION:
            return f"its incarnation is {self.incarnation}, the first is {FIRST_INCARNATION}"
        if not 1 <= len(self.voters) <= VOTERS_MAX:
            return f"it names {len(self.voters)} voters, 1 to {VOTERS_MAX} are possible"
        if list(self.voters) != sorted(set(self.voters)):
            return "its voters are not sorted, or one is named twice"
        return ""

    def fault(self, roster_key: bytes) -> str:
        """Name the first thing wrong with this roster; empty when it is the site's."""
        if fault := self.shape_fault():
            return fault
        if not hmac.compare_digest(self.seal, self._seal(roster_key)):
            return "its seal is not made with this site's secret"
        return ""

    def verify(self, roster_key: bytes) -> None:
        """Check that the site's secret sealed it.

        Raises:
            MalformedFrame: Anything is wrong with it (the sender's fault).
        """
        if fault := self.fault(roster_key):
            raise MalformedFrame(f"not a roster of this site: {fault}")


class Notary(msgspec.Struct, frozen=True, kw_only=True):
    """Signs and checks for one node of one site; simulations bring cheaper signatures."""

    roster_key: bytes
    site_tag: bytes
    sign: Callable[[bytes], bytes]
    """The node's own Ed25519 signature of some bytes."""
    verify: Callable[[NodeId, bytes, bytes], bool] = signature_valid

    def statement(self, proposal: Roster) -> bytes:
        """Give the bytes that a voter signs: this roster, in this epoch, for this site."""
        return b"atoll roster vote" + self.site_tag + _u64(proposal.epoch) + proposal.digest

    def signature(self, proposal: Roster) -> bytes:
        """Sign a proposal."""
        return self.sign(self.statement(proposal))

    def signed(self, proposal: Roster, voter: NodeId, signature: bytes) -> bool:
        """Tell whether `voter` signed it."""
        return self.verify(voter, self.statement(proposal), signature)


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


@lru_cache(maxsize=256)
def _digest(incarnation: int, version: int, voters: tuple[NodeId, ...], reason: str, previous: bytes) -> bytes:
    listed = len(voters).to_bytes(1, "big") + b"".join(voters)
    told = reason.encode()
    named = _u64(incarnation) + _u64(version) + listed + len(previous).to_bytes(1, "big") + previous
    return hashlib.sha256(b"atoll roster " + named + told).digest()
