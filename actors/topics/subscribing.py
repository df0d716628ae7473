"""To ask this node's Topics for a subscription, so that none is left open when the asker has gone meanwhile."""

from atoll.actors.container_manager.container_manager import order
from atoll.actors.runtime.actor import ActorRef
from atoll.actors.topics.orders import Claim, OpenSubscription
from atoll.actors.topics.subscription import Subscription
from atoll.transport.identity import NodeId


async def subscribe(
    topics: ActorRef, filters: tuple[str, ...], source: NodeId | None, *, timeout_s: float
) -> Subscription:
    """Subscribe; the caller closes it.

    Raises:
        ContainerError: The Topics say no; the subclass says why.
        AskFailed: They did not answer.
    """
    claim = Claim()
    try:
        subscription: Subscription = await order(topics, OpenSubscription(filters, source, claim), timeout_s=timeout_s)
    except BaseException:
        # Too late, or cancelled: what is opened all the same, nobody would close.
        claim.give_up()
        raise
    return subscription
