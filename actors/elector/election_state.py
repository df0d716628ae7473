"""What an election is at one moment: a node's role, its parts, and the few steps that every part of it takes.

`election.py` tells the states and the argument; `election_rosters.py` what rosters and damaged journals change.
"""

import enum
from collections.abc import Sequence
from random import Random

from atoll.actors.elector.lease_news import LeaseNews
from atoll.actors.elector.messages import (
    ElectionStatus,
    Fitness,
    Release,
)
from atoll.actors.elector.outlook import Outlook
from atoll.actors.elector.patience import Patience
from atoll.actors.elector.recollection import Recollection
from atoll.actors.elector.reign import Reign
from atoll.actors.elector.roster import Notary, Roster
from atoll.actors.elector.rosters import Rosters
from atoll.actors.elector.score import Score
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.elector.voter import Voter
from atoll.actors.runtime.machine import (
    Disarm,
    Effect,
    Seconds,
    Send,
    insist,
)
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId


class Role(enum.Enum):
    """What a node is in the election at the moment."""

    BYSTANDER = "bystander"
    RECALLING = "recalling"
    FOLLOWER = "follower"
    ASKING = "asking"
    CANDIDATE = "candidate"
    SUPERNODE = "supernode"


# Names of their own, as Python 3.11 takes as long to find a member in its class as for six calls.
BYSTANDER, RECALLING, FOLLOWER, ASKING, CANDIDATE, SUPERNODE = Role


class ElectionState:
    """The state of one node's election; the kinds exist for the mutants of the tests."""

    rosters_kind = Rosters
    voter_kind = Voter
    reign_kind = Reign
    recollection_kind = Recollection

    def __init__(
        self,
        own: NodeId,
        roster: Roster,
        *,
        rng: Random,
        notary: Notary,
        score: Score | None = None,
        settings: ElectionSettings | None = None,
        named: Sequence[NodeId] = (),
        gated: bool = True,
    ) -> None:
        """Take a roster of the site, or `Roster()` where none is known yet.

        `named` are voters that a person chose; with none the site chooses. `gated`: the roster is only changed after
        `PlacementSettled` was told for this epoch and the roster in force.

        Raises:
            MalformedFrame: The roster is not sealed with the site's secret.
        """
        if roster.version:
            roster.verify(notary.roster_key)
        self.own = own
        self.rng = rng
        self.settings = settings or ElectionSettings()
        self.rosters = self.rosters_kind(own, roster, notary, self.settings, named=named, gated=gated)
        self.outlook = Outlook(own, score or Score(), self.settings)
        self.voter = self.voter_kind(own, self.settings)
        self.role = BYSTANDER
        self.reign: Reign | None = None
        """Present exactly while this node is supernode."""
        self.ignored = 0
        """Messages that only voters may send, from others; refused rosters; messages nobody here understands."""
        self.recollection: Recollection | None = None
        """Present exactly while a damaged journal costs this node its vote."""
        self.patience = Patience(self.outlook, self.settings, rng)
        self._lease_news = LeaseNews()
        self._votes = False
        self._stood_at: Seconds = 0.0
        self._for: dict[NodeId, Roster | None] = {}
        """Who would vote, or voted, for this node, and what each has signed that may be final."""
        self._against: dict[NodeId, None] = {}

    @property
    def epoch(self) -> int:
        """The highest epoch this voter has taken part in."""
        return self.voter.ballot.epoch

    @property
    def roster(self) -> Roster:
        """Who votes, as far as this node knows."""
        return self.rosters.book.current

    @property
    def quorum(self) -> int:
        """How many voters are a majority: of the roster, never of whoever answered."""
        return self.roster.quorum

    def lease_held(self, now: Seconds) -> bool:
        """Tell whether this node is the one confirmed supernode at this very moment; ask at each exclusive act."""
        return self.reign is not None and now < self.reign.lease_until

    def status(self, now: Seconds) -> ElectionStatus:
        """Describe the election as this node sees it."""
        belief = self.outlook.belief
        why = belief.reason if belief else self.outlook.no_majority_because(self.roster)
        # A lease that ran out while the process stood still is over, also before the first input after that.
        lapsed = self.reign is not None and not self.lease_held(now)
        return ElectionStatus(
            role=self.role.value,
            # Who has voted in a later epoch than its supernode's must not show the one with the other.
            epoch=belief.epoch if belief else max(self.epoch, self.outlook.highest_epoch),
            supernode=belief.node if belief else None,
            confirmed=belief is not None and belief.confirmed and not lapsed,
            lease_remaining_s=max(0.0, self.reign.lease_until - now) if self.reign else 0.0,
            why=f"{why}; {self.recollection.because(self.roster)}" if self.recollection else why,
            roster_version=self.roster.version,
            voters=self.roster.voters,
            voters_in_reach=self.outlook.voters_in_reach(self.roster),
            incarnation=self.roster.incarnation,
            roster_reason=self.roster.reason,
            change=self.rosters.describe(),
        )

    def check(self) -> None:
        role, reign, ballot, promise = self.role, self.reign, self.voter.ballot, self.voter.promise
        self.voter.check()
        insist((reign is not None) == (role is SUPERNODE), "a reign and the role of supernode come together")
        insist((reign is None) == (self.rosters.change is None), "only a supernode changes rosters")
        insist((role is not BYSTANDER) == self._votes, "exactly those on the roster take part")
        insist((role is RECALLING) == (self._votes and self.recollection is not None), "who forgot takes part")
        if role is CANDIDATE or role is SUPERNODE:
            insist(ballot.voted_for == self.own, "stands in an epoch without its own vote")
            insist(promise is not None and promise.to == self.own, "stands without a promise to itself")
        if reign is not None:
            reign.check()

    def _begin_to_vote(self, now: Seconds) -> list[Effect]:
        self._votes = self.own in self.roster.voters
        if not self._votes:
            self.role = BYSTANDER
            return []
        if self.recollection is not None:
            self.role = RECALLING
            return []
        self.role = FOLLOWER
        if self.quorum == 1 and now >= self.voter.no_vote_until:
            return self._stand(self.epoch + 1, now)
        self.patience.draw(self.roster)
        self.patience.wait(self.voter.free_at(self.own, self.epoch + 1, now))
        return [self.patience.arm(now)]

    def _give_up(self, now: Seconds) -> list[Effect]:
        """End a candidacy that cannot win any more, and free those who voted for it."""
        self.voter.pass_on(None)
        return self._follow(now, "not elected again in a new epoch") + self._to_others(Release(self.epoch))

    def _follow(self, now: Seconds, reason: str) -> list[Effect]:
        """Be a follower, whatever it was; who was supernode says so, with `reason`."""
        was, self.reign, self.rosters.change = self.role, None, None
        self.role = FOLLOWER if self._votes and self.recollection is None else was
        if was is not CANDIDATE and was is not SUPERNODE:
            return []
        effects: list[Effect] = []
        if was is SUPERNODE:
            self.patience.draw(self.roster)
            self.patience.wait(now)
            effects = [Disarm("heartbeat"), Disarm("lease"), self.patience.arm(now)]
        belief = self.outlook.belief
        if belief and belief.node == self.own and belief.confirmed:
            effects += self.outlook.disbelieve(reason, now)
        return effects

    def _to_others(self, message: Message) -> list[Effect]:
        return [Send(voter, message) for voter in self.roster.voters if voter != self.own]

    def _bystanders(self) -> list[NodeId]:
        return [member for member in self.outlook.members() if member not in self.roster.voters]

    def _fitness(self) -> Fitness:
        incarnation, version = self.roster.mark
        return Fitness(self.outlook.score, version, incarnation)

    def _enter(self, roster: Roster) -> list[Effect]:
        """Be in no lower epoch than the roster in force is of."""
        self.voter.roster = self.outlook.roster = roster.mark
        return self.voter.durably(roster.epoch, None) if roster.epoch > self.epoch else []

    def _stand(self, epoch: int, now: Seconds) -> list[Effect]:
        """Ask for votes in `epoch`; the election above this state does."""
        raise NotImplementedError
