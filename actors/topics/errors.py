"""What goes wrong with topics, in the container manager's tree: `order` and the gateway say them alike.

BadTopic        the caller's: it is no topic, no filter, or the payload is too long
TooMany         the caller's: one more would be more than this node does at once
TooFast         the caller's: more is published than this node takes in a second
NotLetIn        the other node's: it lets nobody subscribe or publish there, or not to that
GateLost        the world's: there is no way to the other node, or it broke
"""

from atoll.actors.container_manager.errors import ContainerError, LimitReached, UsageFault
from atoll.transport.errors import Congested, Refused, Unreachable, UsageError


class BadTopic(UsageFault, UsageError):
    """It is no topic, no filter, or too long; the text says which rule it breaks."""


class TooMany(LimitReached):
    """One more would be more than this node does at once; the text names the limit."""


class TooFast(ContainerError, Congested):
    """More is published than one node takes in a second; nothing was published."""

    status = 503


class NotLetIn(ContainerError, Refused):
    """The other node lets us do nothing of that; the text says what its config would have to say."""

    status = 403


class GateLost(ContainerError, Unreachable):
    """There is no way to the other node now."""

    status = 502
