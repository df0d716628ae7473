"""What runtimes say to each other on behalf of actors."""

from typing import Annotated

import msgspec

from atoll.transport.codec import Message
from atoll.transport.envelope import PATH_CHARACTERS_MAX

FAULT_CHARACTERS_MAX = 500
"""A fault is read by a person; what is longer is cut by the sender."""


class Fault(Message, frozen=True, array_like=True, tag="runtime.fault"):
    """Why an ask has no answer; `kind` is that of an `AskFailed`."""

    kind: Annotated[str, msgspec.Meta(max_length=50)]
    text: Annotated[str, msgspec.Meta(max_length=FAULT_CHARACTERS_MAX)]


class UserMessage(Message, frozen=True, array_like=True, tag="runtime.user"):
    """A value of a user's own type, which only the actors at both ends know; `name` is that type's name."""

    name: Annotated[str, msgspec.Meta(max_length=PATH_CHARACTERS_MAX)]
    payload: bytes


MESSAGES: tuple[type[Message], ...] = (Fault, UserMessage)
"""What every codec of an `ActorSystem` must know."""
