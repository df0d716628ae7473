"""A soft duty of a site: an actor that does it on one node, and can go on with it on another.

Its state is sent along when it moves, and can be rebuilt without: a duty whose last holder died begins afresh.
"""

from typing import Any, ClassVar

import msgspec

from atoll.actors.duties.messages import DutyReady
from atoll.actors.runtime.actor import Actor, Delivery


class TakeSnapshot(msgspec.Struct, frozen=True):
    """Ask a duty on this node for its state, as bytes."""


class Snapshot(msgspec.Struct, frozen=True):
    """What the next holder needs to go on."""

    state: bytes


class Duty(Actor):
    """Override `snapshot` and `restore` where there is something to go on with; say `ready` when it is done from here.

    Whoever held it before goes on until then.
    """

    name: ClassVar[str]

    def snapshot(self) -> bytes:
        """Give the state for the next holder; at most `STATE_BYTES_MAX`."""
        return b""

    def restore(self, state: bytes) -> None:
        """Take the state of the holder before, another member; called before `started`.

        Raises:
            MalformedFrame: It is none (that member's fault); the duty then begins afresh.
        """

    def ready(self) -> None:
        """Say that this duty is done here from now on."""
        self.system.announce(DutyReady(self.name))

    async def receive(self, delivery: Delivery) -> Any:
        """Give the state to this node's Duties."""
        if isinstance(delivery.message, TakeSnapshot) and delivery.standing is None:
            return Snapshot(self.snapshot())
        return await super().receive(delivery)
