"""The numbers of suspicion: how often is probed, how long is waited, how long a suspicion lasts."""

import math

import msgspec

from atoll.actors.runtime.machine import Seconds


class SuspicionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of one site's suspicion."""

    period_s: Seconds = 1.0
    """One probe each; its ping and ack replace two signs of life of that link."""
    crowd: int = 64
    """Above so many members the period is twice as long: a campus has 8 packets a node and second for everything."""
    direct_s: Seconds = 0.3
    """For an ack over the link, and for a third member to hear one; a LAN's round trip is a hundredth of it."""
    indirect: int = 3
    """Members asked to ping another."""
    alpha: float = 5.0
    """The shortest suspicion is this times log10 of the members, in periods."""
    beta: float = 6.0
    """The longest is this times the shortest."""
    confirmations: int = 3
    """Accusers beside the first that make a suspicion shortest."""
    warnings_min: int = 5
    """Nobody to whom a link is up is declared dead before it left so many warnings of this very node unanswered."""
    warnings_max: int = 5
    """Suspects warned in one period."""
    dead_kept_s: Seconds = 300.0
    """How long a dead or departed member is shown."""
    unheard_s: Seconds = 300.0
    """After so long somebody asks about a member that others told of, and of whom nobody speaks any more; at least."""
    unheard_member_s: Seconds = 5.0
    """For each member, if that is more: who has links to all needs 1.5 s for each to speak of everybody."""
    unlinked_s: Seconds = 30.0
    """A supernode has a link to everybody: about who has none it asks so soon."""

    def suspicion_s(self, members: int, confirmations: int) -> Seconds:
        """Give how long a suspicion lasts on a site of so many, itself among them: Lifeguard's formula, section 3.2."""
        shortest = self.alpha * max(1.0, math.log10(members)) * self.period_s
        longest = self.beta * shortest
        # A site of three has no three others who could confirm.
        needed = min(self.confirmations, members - 2)
        if needed < 1:
            return shortest
        share = math.log(confirmations + 1) / math.log(needed + 1)
        return max(shortest, longest - (longest - shortest) * share)
