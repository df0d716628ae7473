"""Finds the logs that a store need not keep any more, by asking: of actors that were removed, or are kept elsewhere.

    kept --the placement has no such actor, and none begins with so low a generation-->           dropped
    kept --the placement has it on other stores, in a later generation--> its host is asked
         --that host owns it in that generation, and all stores of it have everything-->          emptied

Nobody has to remember whom to tell: a store looks at each log now and then, after its start too, and at once where
somebody doubts it. What it does follows from two facts that never cease to hold, however late it hears of them, and
from what it has sealed itself:

- *No actor of that name, and a new one begins with F.* No owner of a lower generation is ever placed any more. So a log
  that is sealed lower is of no use to anybody; one that is founded meanwhile is sealed with F, or higher.
- *In generation g it is kept elsewhere, and is whole there.* Only an owner of g or later may want this store again, and
  it seals first. So a log that is sealed lower than g is of no use to anybody.

What must not come back with a log that is gone is its voice. Owners of lower generations may still speak, and what was
said when the actor was founded may come late. So of an actor that lives an empty log is kept, sealed right below g; and
of all that were removed one number, up to which nobody founds anything: no fence is forgotten.

Decision 0032 has the argument.
"""

from collections import deque
from collections.abc import Iterable

from atoll.actors.hand_over.inquiry import Inquiry
from atoll.actors.hand_over.messages import HOSTING, Forget, MayForget
from atoll.actors.placement.messages import Placed
from atoll.actors.runtime.machine import Arm, Effect, Send
from atoll.transport.identity import NodeId

LOOK = "look"
LOOK_S = 0.5
"""Between two questions: with all that a store may keep, one round takes some minutes."""
ROUND_S = 60.0
"""From the end of one round to the next."""
FIRST_S = 2.0
"""After a start, which may have been that of the whole site."""


class Retention:
    """The questions of one store."""

    def __init__(self, own: NodeId, placement: NodeId | None) -> None:
        self.own = own
        self._inquiry = Inquiry(placement or own)
        self._round: deque[str] = deque()
        self._elsewhere: dict[str, Placed] = {}
        """Logs of which a host was asked, and what the placement said of it."""

    def begin(self) -> list[Effect]:
        """Look for the first time a moment after the start."""
        return [Arm(LOOK, FIRST_S)]

    def look(self, actors: Iterable[str]) -> list[Effect]:
        """Ask about the next one of these, which are all that are kept."""
        if not self._round:
            self._round.extend(actors)
            self._elsewhere = {actor: each for actor, each in self._elsewhere.items() if actor in self._round}
        if not self._round:
            return [Arm(LOOK, ROUND_S)]
        actor = self._round.popleft()
        return [self._inquiry.find(actor), Arm(LOOK, LOOK_S if self._round else ROUND_S)]

    def doubt(self, actor: str) -> list[Effect]:
        """Ask about one at once."""
        return [self._inquiry.find(actor)]

    def heard(self, actor: str, supernode: NodeId | None, *, certain: bool) -> list[Effect]:
        """Hear an answer of the placement: ask whom it names, where it is not certain."""
        asks_elsewhere = self._inquiry.heard(supernode)
        return [self._inquiry.find(actor)] if asks_elsewhere and not certain else []

    def ask_host(self, actor: str, placed: Placed) -> list[Effect]:
        """Ask the host of an actor that is kept elsewhere whether it is whole there."""
        self._elsewhere[actor] = placed
        return [Send(placed.host, MayForget(actor, placed.generation), HOSTING)]

    def permitted(self, sender: NodeId, message: Forget) -> Placed | None:
        """Give what the placement said of the log that may be emptied, if its host says so, and for that generation."""
        placed = self._elsewhere.get(message.actor)
        if placed is None or (placed.host, placed.generation) != (sender, message.generation):
            return None
        return self._elsewhere.pop(message.actor)
