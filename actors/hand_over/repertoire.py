"""Which kinds of migratable actors a node can run, and which actors it was told to host.

It outlives the actor that hosts them: a fresh one takes up what is in here. What a class does wrong is said when it is
given to the node, and not when its actor moves for the first time, at night.
"""

import typing
from collections.abc import Callable
from typing import Any

import msgspec

from atoll.actors.hand_over.messages import KIND_CHARACTERS_MAX
from atoll.actors.hand_over.migratable import DurableActor, MigratableActor
from atoll.actors.hand_over.site_messages import KINDS_MAX
from atoll.actors.placement.messages import ACTOR_NAME_CHARACTERS_MAX
from atoll.actors.runtime.actor import Actor, handlers_of
from atoll.transport.codec import decode_payload, encode_payload
from atoll.transport.errors import MalformedFrame, UsageError

_UNLOGGED = ("started", "stopped", "receive")


class Kind(msgspec.Struct, frozen=True):
    """A class of migratable actors, and what makes one."""

    name: str
    """That of the class: it stands in logs, and must be the same on all nodes."""
    make: Callable[[], MigratableActor]
    actor_class: type[MigratableActor]

    @property
    def durable(self) -> bool:
        """Whether its operations are logged."""
        return issubclass(self.actor_class, DurableActor)

    def state_of(self, actor: MigratableActor) -> bytes:
        """Encode the state of one.

        Raises:
            Exception: Whatever its `snapshot` raises; `UsageError` where the state has no plain form.
        """
        return encode_payload(actor.snapshot())

    def restore(self, actor: MigratableActor, state: bytes) -> None:
        """Give one a state.

        Raises:
            Exception: Whatever its `restore` raises; `MalformedFrame` where the state is of another type.
        """
        actor.restore(decode_payload(state, _state_type(self.actor_class)))


def _state_type(kind: type[MigratableActor]) -> Any:
    hints = typing.get_type_hints(kind.restore)
    hints.pop("return", None)
    return next(iter(hints.values()), Any)


class Repertoire:
    """The kinds and the orders of one node."""

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {}
        self.hosted: dict[str, Kind] = {}
        """By the actor's name."""

    def learn(self, make: Callable[[], MigratableActor]) -> Kind:
        """Take a class, or what makes an actor of it.

        Raises:
            UsageError: It cannot be moved or, if it is durable, not be logged; says what to do.
        """
        actor = make()
        if not isinstance(actor, MigratableActor):
            raise UsageError(f"{type(actor).__name__} does not move: derive it from MigratableActor or DurableActor")
        kind = type(actor)
        found = Kind(kind.__name__, make, kind)
        if len(found.name) > KIND_CHARACTERS_MAX:
            raise UsageError(f"{found.name} is longer than {KIND_CHARACTERS_MAX} characters")
        handlers_of(kind)
        if found.durable:
            for name in _UNLOGGED:
                if getattr(kind, name) is not getattr(Actor, name):
                    raise UsageError(f"{found.name}.{name}: a durable actor has handlers only, which are logged")
        if len(self.kinds) >= KINDS_MAX and found.name not in self.kinds:
            raise UsageError(f"a node can run {KINDS_MAX} classes of actors that move, and knows as many already")
        self._try(found, actor)
        known = self.kinds.get(found.name)
        if known is not None and known.actor_class is not kind:
            raise UsageError(f"another class {found.name} is known here already: their logs could not be told apart")
        self.kinds[found.name] = found
        return found

    def host(self, name: str, kind: Kind) -> None:
        """Note that an actor is to be hosted.

        Raises:
            UsageError: The name is too long, or that of an actor of another kind.
        """
        if not 0 < len(name) <= ACTOR_NAME_CHARACTERS_MAX:
            raise UsageError(f"{name!r} is no name for an actor: 1 to {ACTOR_NAME_CHARACTERS_MAX} characters")
        known = self.hosted.get(name)
        if known is not None and known.name != kind.name:
            raise UsageError(f"{name} is a {known.name} here, not a {kind.name}")
        self.hosted[name] = kind

    @staticmethod
    def _try(kind: Kind, actor: MigratableActor) -> None:
        """Let a state go out and come in, as it will when the actor moves."""
        try:
            kind.restore(kind.make(), kind.state_of(actor))
        except (NotImplementedError, UsageError) as error:
            raise UsageError(f"{kind.name} cannot move: {error}") from error
        except MalformedFrame as error:
            raise UsageError(f"{kind.name}.restore does not take what {kind.name}.snapshot gives: {error}") from error
