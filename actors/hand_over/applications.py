"""Runs users' migratable actors for their owners: a durable one within the machine's step, a soft one as an actor.

A durable one has no task: its handlers are run to their end on the spot, each time the log says so. A soft one is an
ordinary actor under the supervisor `HELD`, under another path for each tenure; its operations wait here in line.
"""

import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from atoll.actors.hand_over.application import OperationFailed
from atoll.actors.hand_over.log import STATE_BYTES_MAX
from atoll.actors.hand_over.migratable import MigratableActor
from atoll.actors.hand_over.operations import (
    decode_operation,
    encode_failure,
    encode_value,
)
from atoll.actors.hand_over.orders import Applied
from atoll.actors.hand_over.repertoire import Kind
from atoll.actors.runtime.actor import ActorRef, handlers_of
from atoll.actors.runtime.errors import (
    AskCrashed,
    AskDeclined,
    AskFailed,
    AskNotUnderstood,
    AskUnreachable,
    Declined,
    StartFailed,
)
from atoll.actors.runtime.system import ActorSystem
from atoll.transport.codec import decode_payload
from atoll.transport.errors import MalformedFrame, UsageError

log = logging.getLogger("atoll.hosting")

HELD = "hosted"
"""The supervisor of the soft migratable actors that this node hosts."""
HANDLER_S = 3600.0
"""For one operation of a soft actor: who waits for it gives up long before."""
STATE_ROOM_BYTES = 1024 * 1024
"""Of what can be moved, left for the table of answers."""


def _read(actor: type[MigratableActor], operation: bytes) -> Any:
    """Give the message of an operation, as the type that the actor handles.

    Raises:
        MalformedFrame: It handles no such message (the caller's fault).
    """
    asked = decode_operation(operation)
    kind = handlers_of(actor).types.get(asked.name)
    if kind is None:
        raise MalformedFrame(f"{actor.__name__} has no handler for {asked.name!r}")
    return decode_payload(asked.payload, kind)


def _state_of(kind: Kind, actor: MigratableActor) -> bytes:
    try:
        state = kind.state_of(actor)
    except Exception as error:
        log.exception("the state of a %s cannot be taken", kind.name)
        raise OperationFailed(f"its state cannot be taken: {type(error).__name__}: {error}") from error
    if len(state) > STATE_BYTES_MAX - STATE_ROOM_BYTES:
        raise OperationFailed(f"its state has {len(state)} bytes, {STATE_BYTES_MAX - STATE_ROOM_BYTES} can be moved")
    return state


def _restored(kind: Kind, state: bytes) -> MigratableActor:
    actor = kind.make()
    try:
        kind.restore(actor, state)
    except Exception as error:
        log.exception("a %s does not take its state", kind.name)
        raise OperationFailed(f"{type(error).__name__}: {error}") from error
    return actor


class DurableApplication:
    """One durable actor of a user."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._actor = kind.make()

    def apply(self, operation: bytes, _number: int) -> bytes:
        """Run the handler.

        Raises:
            OperationFailed: It raised, or waits for something, or gave what cannot be sent.
        """
        try:
            message = _read(self._kind.actor_class, operation)
        except MalformedFrame as error:
            return encode_failure(AskNotUnderstood(str(error)))
        handler = handlers_of(self._kind.actor_class).find(type(message))
        assert handler is not None  # noqa: S101 - for mypy: the type came from the handlers
        try:
            return encode_value(_run(handler(self._actor, message)))
        except Declined as error:
            return encode_failure(AskDeclined(str(error)))
        except Exception as error:
            what = f"{self._kind.name} could not handle {type(message).__name__}"
            log.exception("%s", what)
            raise OperationFailed(f"{what}: {type(error).__name__}: {error}") from error

    def snapshot(self) -> bytes:
        """Give the state.

        Raises:
            OperationFailed: It cannot be had.
        """
        return _state_of(self._kind, self._actor)

    def restore(self, data: bytes) -> None:
        """Take a state.

        Raises:
            OperationFailed: It is none of this kind.
        """
        self._actor = _restored(self._kind, data)

    def end(self) -> None:
        """Nothing is open."""


def _run(handling: Coroutine[Any, Any, Any]) -> Any:
    """Run a handler to its end, which must not wait for anything."""
    try:
        handling.send(None)
    except StopIteration as done:
        return done.value
    handling.close()
    raise UsageError("a handler of a durable actor must not wait: what it needs comes in with the message")


class SoftApplication:
    """One tenure of one soft actor of a user."""

    def __init__(self, kind: Kind, actor: str, path: str, tell: Callable[[Applied], None]) -> None:
        """`path`: where it lives on this node, in this tenure; `tell` takes what has been done."""
        self._kind = kind
        self._name = actor
        self._path = path
        self._tell = tell
        self._state: bytes | None = None
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._more = anyio.Event()
        self._ended = False
        self._failure = ""
        self._ref: ActorRef | None = None
        self._system: ActorSystem | None = None
        self._scope = anyio.CancelScope()

    def apply(self, operation: bytes, number: int) -> None:
        """Put an operation in line.

        Raises:
            OperationFailed: The actor did not start.
        """
        if self._failure:
            raise OperationFailed(self._failure)
        self._waiting.append((operation, number))
        self._more.set()

    def snapshot(self) -> bytes:
        """Give the state; nothing is in hand.

        Raises:
            OperationFailed: It cannot be had.
        """
        actor = self._living()
        if actor is not None:
            return _state_of(self._kind, actor)
        # It has not begun: it still has the state that it came with.
        return self._state if self._state is not None else _state_of(self._kind, self._kind.make())

    def _living(self) -> MigratableActor | None:
        cell = self._system.cell(self._path) if self._ref is not None and self._system is not None else None
        actor = cell.actor if cell is not None else None
        return actor if isinstance(actor, MigratableActor) else None

    def restore(self, data: bytes) -> None:
        """Take a state, and begin with it.

        Raises:
            OperationFailed: It is none of this kind.
        """
        _restored(self._kind, data)
        self._state = data

    def end(self) -> None:
        """Stop, in the middle of an operation too."""
        self._ended = True
        self._scope.cancel()

    async def run(self, system: ActorSystem) -> None:
        """Live, from the actor's start to its end."""
        self._system = system
        try:
            with self._scope:
                await self._start(system)
                while True:
                    await self._more.wait()
                    self._more = anyio.Event()
                    while self._waiting:
                        operation, number = self._waiting.popleft()
                        self._tell(Applied(self._name, number, await self._handled(operation)))
        finally:
            if self._ref is not None:
                with anyio.CancelScope(shield=True):
                    await system.stop(self._ref)

    async def _start(self, system: ActorSystem) -> None:
        try:
            self._ref = await system.spawn(self._begin, self._path, under=HELD)
        except (StartFailed, UsageError) as error:
            log.error("%s does not start here: %s", self._name, error)  # noqa: TRY400 - the cause is in the text
            self._failure = f"{self._name} does not start on its host: {error}"

    def _begin(self) -> MigratableActor:
        """Make the actor: with the state that it came with the first time, and anew after a crash."""
        state, self._state = self._state, None
        return self._kind.make() if state is None else _restored(self._kind, state)

    async def _handled(self, operation: bytes) -> bytes:
        if self._ref is None:
            return encode_failure(AskUnreachable(self._failure))
        try:
            message = _read(self._kind.actor_class, operation)
            return encode_value(await self._ref.ask(message, timeout_s=HANDLER_S))
        except MalformedFrame as error:
            return encode_failure(AskNotUnderstood(str(error)))
        except AskFailed as error:
            return encode_failure(error)
        except UsageError as error:
            return encode_failure(AskCrashed(f"{self._name} handled it, but {error}"))
