"""How a voter whose journal was damaged gets its vote back: by learning which epochs may have been won with it.

    sound --a start finds the journal damaged--> resting --L is over--> asking --enough voters answered--> sound

What is lost may have been a vote in any epoch and a promise to anybody. So until the end of this a voter must not vote,
stand, or acknowledge a heartbeat: each could be the second half of a majority that it was the first half of already.

- *Not before L is over*: a candidacy that had our vote is decided by then, and a lease on our promise has ended. An
  answer from before that could be older than the last vote of the winner's majority.
- *Enough is n - q + 1 others*: whoever won an epoch with our vote had q - 1 other voters, who have it on disk, and of
  n - 1 others these two sets cannot miss each other. Only voters with a sound journal count.
- *The vote of the highest epoch that is told counts as spent*: it may be the one that was won with ours.

Where too many voters are damaged at once nobody can know, and a person must decide; the reason says so. A site's only
voter needs nobody: in no epoch can anybody else have been elected.

Source: Liskov and Cowling, Viewstamped Replication Revisited (2012), section 4.3, with a lease in place of the view.
"""

from random import Random

from atoll.actors.elector.messages import Recalled
from atoll.actors.elector.roster import Roster
from atoll.transport.identity import NodeId

RECALL_S = 0.25
"""How often voters that have not answered are asked again."""
NONCE_BITS = 52


class Recollection:
    """What one voter has learned since it found its journal damaged."""

    def __init__(self, damage: str, rng: Random) -> None:
        self.damage = damage
        self.nonce = rng.getrandbits(NONCE_BITS)
        """New at each start: only answers to questions of this life count."""
        self.told: dict[NodeId, int] = {}
        """Voters with a sound journal, and the highest epoch each has taken part in."""
        self.damaged: dict[NodeId, None] = {}
        """Voters that cannot help, since theirs is damaged too."""

    def needed(self, roster: Roster) -> int:
        """Say how many others must answer."""
        return 0 if len(roster.voters) == 1 else len(roster.voters) - roster.quorum + 1

    def take(self, sender: NodeId, answer: Recalled) -> None:
        """Note a voter's answer; one to an earlier question changes nothing."""
        if answer.nonce != self.nonce:
            return
        if answer.sure:
            self.told[sender] = max(answer.epoch, self.told.get(sender, 0))
            self.damaged.pop(sender, None)
        else:
            self.damaged[sender] = None

    def complete(self, roster: Roster) -> bool:
        """Tell whether enough is known to vote again."""
        return len(self.told) >= self.needed(roster)

    def epoch(self) -> int:
        """Give the highest epoch that any voter told."""
        return max(self.told.values(), default=0)

    def because(self, roster: Roster) -> str:
        """Say in words why this node has no vote, and what helps."""
        others, needed = len(roster.voters) - 1, self.needed(roster)
        words = f"this node has no vote, because its election journal is damaged ({self.damage[:120]})"
        if others - len(self.damaged) < needed:
            return (
                f"{words}, and so are those of {len(self.damaged)} of {others} other voters, too many to know who was "
                "elected: stop all nodes of the site, remove election.journal* from their state directories, and "
                "start them again after a second"
            )
        return f"{words}; {len(self.told)} of the {needed} other voters have answered whose word it needs to vote again"
