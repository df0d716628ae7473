"""What Electors say to each other, what they keep on disk, and the facts that go in and come out.

Ask (`PreVote`) → stand (`VoteRequest`) → preside (`Heartbeat` to voters, `Presiding` to everybody else) → `Release`.
"""

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import msgspec

from atoll.actors.elector.roster import Roster
from atoll.actors.elector.score import Score
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

PATH = "elector"
EPOCH_MAX = 2**53
"""No honest site gets there: one election a second takes 285 million years."""
REASON_CHARACTERS_MAX = 300

Epoch: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=EPOCH_MAX)]
Nonce: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**52)]
Reason: TypeAlias = Annotated[str, msgspec.Meta(max_length=REASON_CHARACTERS_MAX)]


class PreVote(Message, frozen=True, array_like=True, tag="elector.prevote"):
    """Would you vote for me in this epoch? Binds nobody and raises no epoch."""

    epoch: Epoch
    roster_version: int
    score: Score


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
    roster_version: int


class Vote(Message, frozen=True, array_like=True, tag="elector.vote"):
    """The answer; a grant (empty `refusal`) promises to vote for nobody else for one lease."""

    asked: Epoch
    refusal: Reason
    epoch: Epoch
    """The answering voter's own epoch."""


class Heartbeat(Message, frozen=True, array_like=True, tag="elector.heartbeat"):
    """The supernode asks its voters to renew their promise."""

    epoch: Epoch
    sequence: int
    reason: Reason
    """Why this node is supernode, for those who show it."""


class HeartbeatAck(Message, frozen=True, array_like=True, tag="elector.heartbeat_ack"):
    """The promise is renewed for one lease from now."""

    epoch: Epoch
    sequence: int


class Outdated(Message, frozen=True, array_like=True, tag="elector.outdated"):
    """A heartbeat came from an epoch that this voter has left behind."""

    epoch: Epoch


class Release(Message, frozen=True, array_like=True, tag="elector.release"):
    """The sender will never again lead in this epoch: promises made to it pass to `successor`, or end."""

    epoch: Epoch
    successor: NodeId | None = None


class Recall(Message, frozen=True, array_like=True, tag="elector.recall"):
    """This voter's journal was damaged: which epoch are you in? Binds nobody."""

    nonce: Nonce


class Recalled(Message, frozen=True, array_like=True, tag="elector.recalled"):
    """The answer to the `Recall` of that nonce."""

    nonce: Nonce
    epoch: Epoch
    sure: bool
    """False: the answering voter's own journal is damaged too, so that its epoch proves nothing."""


class Presiding(Message, frozen=True, array_like=True, tag="elector.presiding"):
    """The sender is supernode: confirmed by a majority, or provisionally, for the soft duties only."""

    epoch: Epoch
    confirmed: bool
    reason: Reason
    score: Score


class Fitness(Message, frozen=True, array_like=True, tag="elector.fitness"):
    """How fit the sender is; sent when a member comes into reach and when it changes."""

    score: Score
    roster_version: int


class Ballot(msgspec.Struct, frozen=True, array_like=True, tag="elector.ballot"):
    """On disk before any reply: the highest epoch seen, and the only node that may have this voter's vote in it."""

    epoch: Epoch = 0
    voted_for: NodeId | None = None
    roster_version: int = 0


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
    Roster,
)
"""Everything an Elector sends, for the codec."""


@dataclass(frozen=True, slots=True)
class MemberReachable:
    """Fact in: an authenticated link to a member of this site is up."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class MemberUnreachable:
    """Fact in: that link is down."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class ScoreChanged:
    """Fact in: this node's own fitness is another now."""

    score: Score


@dataclass(frozen=True, slots=True)
class Resign:
    """Fact in: this node should not be supernode any longer (it drains, or leaves); `reason` is shown."""

    reason: str


@dataclass(frozen=True, slots=True)
class SupernodeElected:
    """Fact out: who is supernode; replaces what was announced before."""

    node: NodeId
    epoch: int
    confirmed: bool
    """False: no majority can be reached, and this one only serves the soft duties; other sides may have another."""
    reason: str


@dataclass(frozen=True, slots=True)
class SupernodeLost:
    """Fact out: the supernode announced last is none any longer, and no other is known yet."""

    node: NodeId
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class ElectionStatus:
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


@dataclass(frozen=True, slots=True)
class DescribeElection:
    """Ask this node's Elector for its `ElectionStatus`."""
