"""How the actors of a node ask its cloud: through the Uplink, and for one kind of answer."""

from typing import TypeVar

from atoll.actors.runtime.machine import Address, Seconds
from atoll.actors.runtime.system import ActorSystem
from atoll.actors.uplink.messages import ANSWER_S, LINK_S, PATH, AskCloud
from atoll.transport.codec import Message

ASK_CLOUD_S = LINK_S + ANSWER_S + 1.0
"""For a link and an answer, and a moment more: so that the Uplink's reason comes and not a time-out of our own."""

_Answer = TypeVar("_Answer", bound=Message)


async def ask_cloud(
    system: ActorSystem, actor: str, message: Message, answer: type[_Answer], *, timeout_s: Seconds = ASK_CLOUD_S
) -> _Answer:
    """Ask an actor of the cloud for such an answer, opening the link first if need be.

    Raises:
        AskFailed: There is none; the subclass says whose fault, the text why.
    """
    asked = AskCloud(actor, message, reply_type=answer)
    answered: _Answer = await system.ask(Address(system.node_id, PATH), asked, timeout_s=timeout_s)
    return answered
