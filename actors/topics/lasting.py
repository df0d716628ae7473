"""What outlives a crash of a node's Topics: who reads, here and at nodes of other sites, and which actors are told.

    the Topics begin --> each goes on with its filters, and is told that something may be missing
    the Topics crash --> whoever reads waits; what stands in its ring stays
    the Topics end   --> whoever reads is told so

Nothing else goes over from one life to the next, so what was wrong in one is gone with it.
"""

from dataclasses import dataclass, field

from atoll.actors.topics.errors import GateLost
from atoll.actors.topics.remote import RemoteReader
from atoll.actors.topics.subscription import Subscription


@dataclass(slots=True)
class Lasting:
    """The subscriptions of one node; made once, and given to each life of its Topics."""

    here: list[Subscription] = field(default_factory=list)
    """Of this site."""
    there: list[RemoteReader] = field(default_factory=list)
    """At nodes of other sites."""
    actors: dict[str, Subscription] = field(default_factory=dict)
    """Some of these, by the actor that is told."""

    def detach(self) -> None:
        """Part them from a life that is over: whoever closes a subscription until the next one is only struck off."""
        for each in self.here:
            each.on_close = self.here.remove

    def end(self, why: str) -> None:
        """Tell whoever reads that nothing more comes."""
        for each in (*self.here, *(reader.subscription for reader in self.there)):
            each.fail(GateLost(why))
