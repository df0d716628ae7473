"""What users derive their own migratable actors from: `MigratableActor`, and `DurableActor` for what must not be lost.

Both move between the nodes of a site with their state, on order or when a node is drained, and are found by name
wherever they are (`Node.host`, `Node.find`, `Node.move`).
"""

from typing import Any, ClassVar

from atoll.actors.runtime.actor import Actor
from atoll.transport.base import Standing


class MigratableActor(Actor):
    """An actor that moves with its state; after a crash of its host it begins anew, as any actor does.

    `snapshot` gives the state as plain data, structs or bytes, 16 MiB at most; `restore` takes what `snapshot` gave, as
    the type that its parameter is annotated with. A planned move loses nothing and does nothing twice. Tasks in the
    background (`tasks`) are cancelled when it leaves; begin them in `started`, which runs after `restore`.
    """

    open_to: ClassVar[frozenset[Standing]] = frozenset()
    """Nobody: calls come through the node that hosts it, which members of the site reach."""

    def snapshot(self) -> Any:
        """Give the state; no operation is in hand meanwhile."""
        raise NotImplementedError(f"{type(self).__name__} moves with its state: give it `snapshot` and `restore`")

    def restore(self, state: Any) -> None:
        """Take a state, once, before anything else."""
        raise NotImplementedError(f"{type(self).__name__} moves with its state: give it `snapshot` and `restore`")


class DurableActor(MigratableActor):
    """A migratable actor that loses nothing: each operation is on a majority of its log stores before it is answered.

    Its handlers are run again, from the log, when it is rebuilt elsewhere. So they must do the same each time: what
    they need of the world (the time, chance, other actors) comes in with the message, and they must not wait for
    anything. `Declined` is an answer like any other. A handler that raises something else changes nothing: the caller
    is told, and the state is rebuilt from the log. It has no tasks, and no `started` and `stopped`.
    """
