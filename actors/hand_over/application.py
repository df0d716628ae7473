"""What a host needs of the actor itself: apply an operation, give the state, take a state.

A durable one applies at once and always in the same way: its operations are applied again from the log. A soft one may
take its time; then `apply` gives None, and the fact `Applied` follows.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias


class Application(Protocol):
    """One actor's own state, behind plain bytes."""

    def apply(self, operation: bytes, number: int) -> bytes | None:
        """Apply an operation and give the reply; None: it comes later as `Applied` with that number.

        Raises:
            OperationFailed: It was not applied, and nothing changed.
        """
        ...

    def snapshot(self) -> bytes:
        """Give the state as it is now.

        Raises:
            OperationFailed: It cannot be had: the actor stays where it is, and its log is not compacted.
        """
        ...

    def restore(self, data: bytes) -> None:
        """Take a state; called at most once, before anything else."""
        ...

    def end(self) -> None:
        """Be told that this host serves the actor no longer."""
        ...


class OperationFailed(Exception):
    """An operation could not be applied and changed nothing; the caller is told, and nothing is logged."""


Applications: TypeAlias = Callable[[str, str], Application | None]
"""Makes the application of an actor of that kind, new and empty (actor, kind); None where the kind is not known."""
