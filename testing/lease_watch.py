"""Finds contradictions in what the nodes of a site say of their supernode, from outside and without their clocks.

    looks (asked at, told at, who says whom) --take-->  contradictions, in sentences

A look is an instant somewhere between question and answer. What can be told from looks alone:
- one epoch, two confirmed supernodes: never, whoever says it;
- a reign goes on without a gap: who was seen to hold epoch 7 twice held it all the time between. So two nodes that
  each say of themselves that they are confirmed, at times that certainly overlap, held two leases at once.
What cannot: a lease that nobody asked for, or two that overlap by less than the time between two looks. No lease can be
seen to run on in a process that is dead; how soon its successor comes says something of it, and is counted elsewhere.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

CLAIMS_MAX = 64
"""Reigns that are kept in mind; older ones are long over."""
EPOCHS_MAX = 4096
CONTRADICTIONS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Look:
    """What one node said of its site's supernode, at some instant between two times of the one who asked."""

    node: str
    """Who says it."""
    asked_at: float
    told_at: float
    supernode: str
    """Empty: none is known."""
    epoch: int = 0
    confirmed: bool = False
    why: str = ""

    @property
    def names(self) -> bool:
        """A confirmed supernode is named."""
        return self.confirmed and bool(self.supernode)


@dataclass(slots=True)
class _Claim:
    """One reign, as its holder tells of it."""

    first: Look
    last: Look

    def overlaps(self, other: "_Claim") -> bool:
        begin, end = max(self.first.told_at, other.first.told_at), min(self.last.asked_at, other.last.asked_at)
        return begin <= end or self.spans(other.first) or self.spans(other.last) or other.spans(self.first)

    def spans(self, look: Look) -> bool:
        return self.first.told_at <= look.asked_at and look.told_at <= self.last.asked_at


@dataclass(slots=True)
class LeaseWatch:
    """All looks at one site, in the order in which they were answered."""

    looks: int = 0
    contradictions: list[str] = field(default_factory=list)
    _named: "OrderedDict[int, Look]" = field(default_factory=OrderedDict)
    _claims: "OrderedDict[tuple[str, int], _Claim]" = field(default_factory=OrderedDict)

    def take(self, look: Look) -> None:
        """Count a look, and note what it contradicts."""
        self.looks += 1
        if not look.names:
            return
        named = self._named.setdefault(look.epoch, look)
        if named.supernode != look.supernode:
            self._contradict(
                f"epoch {look.epoch}: {look.node} names {look.supernode}, {named.node} named {named.supernode}"
            )
        _shorten(self._named, EPOCHS_MAX)
        if look.supernode == look.node:
            self._take_claim(look)

    def _take_claim(self, look: Look) -> None:
        claim = self._claims.setdefault((look.node, look.epoch), _Claim(look, look))
        claim.last = look
        for (node, epoch), other in self._claims.items():
            if node != look.node and claim.overlaps(other):
                self._contradict(
                    f"{look.node} held epoch {look.epoch} from {claim.first.told_at:.3f} to {look.asked_at:.3f} s, "
                    f"{node} held epoch {epoch} from {other.first.told_at:.3f} to {other.last.asked_at:.3f} s"
                )
        _shorten(self._claims, CLAIMS_MAX)

    def _contradict(self, what: str) -> None:
        if len(self.contradictions) < CONTRADICTIONS_MAX and what not in self.contradictions[-8:]:
            self.contradictions.append(what)


def _shorten(table: "OrderedDict[int, Look] | OrderedDict[tuple[str, int], _Claim]", most: int) -> None:
    while len(table) > most:
        table.popitem(last=False)
