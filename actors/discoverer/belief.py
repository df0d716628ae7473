"""What one node believes of another member: whether it lives, since when, who says otherwise, and why."""

import math
from dataclasses import dataclass, field

from atoll.actors.discoverer.messages import Life, Rumour
from atoll.actors.runtime.machine import Seconds
from atoll.transport.identity import NodeId

WITNESSES_MAX = 3
"""As many as are asked to ping it."""


@dataclass(slots=True)
class Belief:
    """Of one member; `Suspicion` decides when it changes."""

    node: NodeId
    since: Seconds
    heard_at: Seconds
    life: Life = Life.ALIVE
    incarnation: int = 0
    """0: not told yet."""
    linked: bool = False
    watched: bool = False
    """This node probes it: its silence means something here."""
    witnesses: dict[NodeId, None] = field(default_factory=dict)
    """Who has said lately to have a link to it, the latest last; at most `WITNESSES_MAX`."""
    accusers: dict[NodeId, None] = field(default_factory=dict)
    until: Seconds = math.inf
    """When a suspicion ends, at the latest."""
    warnings: int = 0
    """Told to it since it is suspected, or has last answered."""
    introduced: int = 0
    """Place in the table of members from which it is next told who has a link here."""
    why: str = ""

    @property
    def gone(self) -> bool:
        """It is dead, or has left."""
        return self.life in (Life.DEAD, Life.LEFT)

    def newer_than(self, rumour: Rumour) -> bool:
        """Tell whether more is known here. In one incarnation the worse news wins: alive, suspect, dead, left."""
        return (self.incarnation, self.life) > (rumour.incarnation, rumour.life)

    def rumour(self, own: NodeId) -> Rumour:
        """Say it to another; `own` says so where nobody else has."""
        # In the name of one who has accused it already, so that a question makes no accuser.
        by = self.node if self.life is Life.ALIVE else next(iter(self.accusers), own)
        return Rumour(self.node, self.life, self.incarnation, by)

    def note_witness(self, rumour: Rumour) -> None:
        """Note who has a link to it, if that is what a rumour says."""
        if rumour.life is Life.ALIVE and rumour.by != self.node:
            self.witnesses.pop(rumour.by, None)
            self.witnesses[rumour.by] = None
            if len(self.witnesses) > WITNESSES_MAX:
                del self.witnesses[next(iter(self.witnesses))]

    def turn(self, life: Life, why: str, now: Seconds) -> None:
        """Believe something else from now on; nobody has accused it of that yet."""
        self.life, self.since, self.until, self.why = life, now, math.inf, why
        self.accusers.clear()
        self.warnings = 0
