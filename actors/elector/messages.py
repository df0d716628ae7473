"""What Electors say to each other, what they keep on disk, and the facts that go in and come out.

Ask (`PreVote`) → stand (`VoteRequest`) → preside (`Heartbeat` to voters, `Presiding` to everybody else) → `Release`.
A change of the roster: `RosterProposed` → `RosterSigned` → `RosterChain`. Messages name the sender's roster by version
and incarnation; version 0 says nothing of it, except in a `Fitness`, where it says that none is known.
"""

from typing import Annotated, Any, TypeAlias

import msgspec

from atoll.actors.elector.roster import (
    FIRST_INCARNATION,
    REASON_CHARACTERS_MAX,
    VERSION_MAX,
    Mark,
    Roster,
    Version,
)
from atoll.actors.elector.score import Score
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

PATH = "elector"
EPOCH_MAX = VERSION_MAX
"""No honest site gets there: one election a second takes 285 million years."""
ROSTERS_MAX = 64
"""More than a chain has here, so that a later version may keep longer ones."""

Epoch: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=EPOCH_MAX)]
Nonce: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**52)]
Reason: TypeAlias = Annotated[str, msgspec.Meta(max_length=REASON_CHARACTERS_MAX)]


class PreVote(Message, frozen=True, array_like=True, tag="elector.prevote"):
    """Would you vote for me in this epoch? Binds nobody and raises no epoch."""

    epoch: Epoch
    roster_version: Version
    score: Score
    incarnation: Version = FIRST_INCARNATION


class PreVoteReply(Message, frozen=True, array_like=True, tag="elector.prevote_reply"):
    """The answer; `refusal` is empty for yes."""

    asked: Epoch
    refusal: Reason
    epoch: Epoch
    """The answering voter's own epoch."""
    score: Score


class VoteRequest(Message, frozen=True, array_like=True, tag="elector.vote_request"):
    """Vote for me in this epoch."""

    epoch: Epoch
    roster_version: Version
    incarnation: Version = FIRST_INCARNATION


class Vote(Message, frozen=True, array_like=True, tag="elector.vote"):
    """The answer; a grant (empty `refusal`) promises to vote for nobody else for one lease."""

    asked: Epoch
    refusal: Reason
    epoch: Epoch
    """The answering voter's own epoch."""
    pending: Roster | None = None
    """With a grant: the roster that this voter signed last and does not know to be final; its epoch is that of then."""


class Heartbeat(Message, frozen=True, array_like=True, tag="elector.heartbeat"):
    """The supernode asks its voters to renew their promise."""

    epoch: Epoch
    sequence: int
    reason: Reason
    """Why this node is supernode, for those who show it."""
    roster_version: Version = 0
    incarnation: Version = FIRST_INCARNATION


class HeartbeatAck(Message, frozen=True, array_like=True, tag="elector.heartbeat_ack"):
    """The promise is renewed for one lease from now."""

    epoch: Epoch
    sequence: int
    roster_version: Version = 0
    incarnation: Version = FIRST_INCARNATION


class Outdated(Message, frozen=True, array_like=True, tag="elector.outdated"):
    """A heartbeat came from an epoch that this voter has left behind."""

    epoch: Epoch


class Release(Message, frozen=True, array_like=True, tag="elector.release"):
    """The sender will never again lead in this epoch: promises made to it pass to `successor`, or end."""

    epoch: Epoch
    successor: NodeId | None = None


class Recall(Message, frozen=True, array_like=True, tag="elector.recall"):
    """This voter's journal was damaged: which epoch are you in, which roster have you, which have you signed?"""

    nonce: Nonce
    roster_version: Version = 0
    incarnation: Version = FIRST_INCARNATION


class Recalled(Message, frozen=True, array_like=True, tag="elector.recalled"):
    """The answer to the `Recall` of that nonce; the answering voter signs nothing more in its epoch."""

    nonce: Nonce
    epoch: Epoch
    sure: bool
    """False: the answering voter's own journal is damaged too, so that its epoch proves nothing."""
    roster_version: Version = 0
    incarnation: Version = FIRST_INCARNATION
    pending: Roster | None = None
    """The roster that this voter signed last and does not know to be final."""


class RosterProposed(Message, frozen=True, array_like=True, tag="elector.roster_proposed"):
    """The supernode asks its voters to sign what shall follow the roster in force; the node to be added is told too."""

    epoch: Epoch
    proposal: Roster


class RosterSigned(Message, frozen=True, array_like=True, tag="elector.roster_signed"):
    """The signature, on disk before it is sent; or why there is none."""

    epoch: Epoch
    version: Version
    signature: Annotated[bytes, msgspec.Meta(max_length=64)]
    refusal: Reason = ""
    fenced: Epoch = 0
    """Up to this epoch the voter signs nothing any more: a voter with a damaged journal relies on it."""


class RosterChain(Message, frozen=True, array_like=True, tag="elector.roster_chain"):
    """Rosters that follow each other, the one in force last; on disk too."""

    rosters: Annotated[tuple[Roster, ...], msgspec.Meta(max_length=ROSTERS_MAX)] = ()


class Leaving(Message, frozen=True, array_like=True, tag="elector.leaving"):
    """The sender leaves its site for good, or for long: it should vote no more."""

    reason: Reason


class Presiding(Message, frozen=True, array_like=True, tag="elector.presiding"):
    """The sender is supernode: confirmed by a majority, or provisionally, for the soft duties only."""

    epoch: Epoch
    confirmed: bool
    reason: Reason
    score: Score
    roster_version: Version = 0
    incarnation: Version = FIRST_INCARNATION


class Fitness(Message, frozen=True, array_like=True, tag="elector.fitness"):
    """How fit the sender is; sent when a member comes into reach and when it changes."""

    score: Score
    roster_version: Version
    incarnation: Version = FIRST_INCARNATION


class Ballot(msgspec.Struct, frozen=True, array_like=True, tag="elector.ballot"):
    """On disk before any reply: the highest epoch seen, and the only node that may have this voter's vote in it."""

    epoch: Epoch = 0
    voted_for: NodeId | None = None
    roster_version: int = 0


class Signing(msgspec.Struct, frozen=True, array_like=True, tag="elector.signing"):
    """On disk before the signature is sent: the proposal that this voter signed last, and where it signs no more."""

    proposal: Roster | None = None
    fenced: Epoch = 0


class Amnesia(msgspec.Struct, frozen=True, array_like=True, tag="elector.amnesia"):
    """On disk from when the journal was found damaged until enough voters have told their epochs; then without text."""

    damage: str = ""


MESSAGES: tuple[type[Message], ...] = (
    PreVote,
    PreVoteReply,
    VoteRequest,
    Vote,
    Heartbeat,
    HeartbeatAck,
    Outdated,
    Release,
    Recall,
    Recalled,
    Presiding,
    Fitness,
    RosterProposed,
    RosterSigned,
    RosterChain,
    Leaving,
)
"""Everything an Elector sends, for the codec."""

_MARKED = frozenset((PreVote, VoteRequest, Heartbeat, HeartbeatAck, Recall, Recalled, Presiding))


def mark_of(message: Any) -> Mark | None:
    """Give the mark of the sender's roster, where the message names it."""
    kind = type(message)
    if kind in _MARKED and message.roster_version:
        return message.incarnation, message.roster_version
    if kind is Fitness:
        return (message.incarnation, message.roster_version) if message.roster_version else (0, 0)
    return None


class MemberReachable(msgspec.Struct, frozen=True):
    """Fact in: an authenticated link to a member of this site is up."""

    node: NodeId


class MemberUnreachable(msgspec.Struct, frozen=True):
    """Fact in: that link is down."""

    node: NodeId


class ScoreChanged(msgspec.Struct, frozen=True):
    """Fact in: this node's own fitness is another now."""

    score: Score


class Resign(msgspec.Struct, frozen=True):
    """Fact in: this node should not be supernode any longer (it drains, or leaves); `reason` is shown."""

    reason: str


class Leave(msgspec.Struct, frozen=True):
    """Fact in: this node leaves its site in good order and should vote no more; `reason` is shown."""

    reason: str


class PlacementSettled(msgspec.Struct, frozen=True):
    """Fact in: what the voters keep for the supernode of this epoch is on a majority of that roster's voters."""

    epoch: int
    incarnation: int
    roster_version: int


class Reform(msgspec.Struct, frozen=True):
    """Fact in, by a person's word: begin a new incarnation of the site with this node as its only voter."""

    reason: str


class RosterInForce(msgspec.Struct, frozen=True):
    """Fact out: these vote from now on."""

    incarnation: int
    version: int
    voters: tuple[NodeId, ...]
    reason: str


class DrainWanted(msgspec.Struct, frozen=True):
    """Fact in: this node shall neither preside nor hold duties from now on, or may do so again."""

    draining: bool


class LeaseRenewed(msgspec.Struct, frozen=True):
    """Fact out: this node is the confirmed supernode of that epoch until `until` on its lease clock, or `LeaseEnded`.

    Told each time the lease is renewed, and when the roster in force is another.
    """

    epoch: int
    until: float
    incarnation: int
    roster_version: int
    voters: tuple[NodeId, ...]


class LeaseEnded(msgspec.Struct, frozen=True):
    """Fact out: this node holds the lease of that epoch no longer, whatever was said of its end."""

    epoch: int


class SupernodeElected(msgspec.Struct, frozen=True):
    """Fact out: who is supernode; replaces what was announced before."""

    node: NodeId
    epoch: int
    confirmed: bool
    """False: no majority can be reached, and this one only serves the soft duties; other sides may have another."""
    reason: str


class SupernodeLost(msgspec.Struct, frozen=True):
    """Fact out: the supernode announced last is none any longer, and no other is known yet."""

    node: NodeId
    epoch: int
    reason: str


class ElectionStatus(msgspec.Struct, frozen=True):
    """What `atoll status` shows of the election."""

    role: str
    epoch: int
    supernode: NodeId | None
    confirmed: bool
    lease_remaining_s: float
    """Of this node's own lease; 0 where it has none."""
    why: str
    """Why this supernode, or why none."""
    roster_version: int
    voters: tuple[NodeId, ...]
    voters_in_reach: int
    incarnation: int = 0
    roster_reason: str = ""
    """Why the roster in force differs from the one before."""
    change: str = ""
    """What is being done to the roster, or what stands in the way."""


class ReformSite(msgspec.Struct, frozen=True):
    """Ask this node's Elector, for a person, to begin a new incarnation; the answer is its `ElectionStatus`."""

    reason: str
    force: bool = False
    """Do it although a majority of the voters is in reach."""


class DescribeElection(msgspec.Struct, frozen=True):
    """Ask this node's Elector for its `ElectionStatus`."""
