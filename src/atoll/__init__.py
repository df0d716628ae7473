"""Turn any computer into a cloud server, and any handful of them into one cloud."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atoll.actors.hand_over.migratable import DurableActor, MigratableActor
    from atoll.actors.runtime import Actor, ActorRef, handles
    from atoll.actors.runtime.stall_watch import stall_watch
    from atoll.node import Node
    from atoll.transport.base import Standing

__all__ = ["Actor", "ActorRef", "DurableActor", "MigratableActor", "Node", "Standing", "handles", "stall_watch"]


def __getattr__(name: str) -> Any:
    """Import what embedders use when they use it: `atoll --help` needs none of it (PEP 562)."""
    if name == "Node":
        from atoll.node import Node

        return Node
    if name == "Standing":
        from atoll.transport.base import Standing

        return Standing
    if name == "stall_watch":
        from atoll.actors.runtime.stall_watch import stall_watch

        return stall_watch
    if name in ("DurableActor", "MigratableActor"):
        from atoll.actors.hand_over import migratable

        return getattr(migratable, name)
    if name in __all__:
        from atoll.actors import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module 'atoll' has no attribute {name!r}")
