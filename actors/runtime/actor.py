"""What an actor is: a class with typed handlers, one message at a time, and a state nobody else touches.

    made by its factory --> started() --> messages, one after the other --> stopped()
                                      --a handler or a background task raises--> stopped() --> its supervisor decides

After a crash a *fresh* object goes on with the messages that waited; the one that was being handled is gone, so a
message that kills its handler kills it once. An asker is told of the crash at once.
"""

import enum
import inspect
import types
import typing
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import anyio.abc
import msgspec

from atoll.actors.runtime.errors import AskFailed, Declined
from atoll.actors.runtime.machine import Address, Seconds
from atoll.transport.base import Standing
from atoll.transport.errors import UsageError

if TYPE_CHECKING:
    from atoll.actors.runtime.cell import Cell
    from atoll.actors.runtime.mailbox import Mailbox
    from atoll.actors.runtime.system import ActorSystem

_Method = TypeVar("_Method", bound=Callable[..., Any])
ASK_TIMEOUT_S = 5.0


class Later(enum.Enum):
    """The type of `LATER`."""

    LATER = "later"


LATER = Later.LATER
"""What `Actor.receive` or a handler returns to answer an ask itself, later, through `delivery.reply_to`."""


class ReplyTo(Protocol):
    """Answers one ask, once; what comes after the first answer or after the time-out is dropped."""

    def answer(self, value: Any) -> None:
        """Give the answer.

        Raises:
            UsageError: It cannot be encoded for the node that asked.
        """
        ...

    def fail(self, error: AskFailed) -> None:
        """Raise the error at the asker."""
        ...


class Delivery(msgspec.Struct):
    """One message as it arrived. Telling a whole `Delivery` to another actor forwards it, reply address and all."""

    message: Any
    sender: "ActorRef | None" = None
    reply_to: ReplyTo | None = None
    """Present when the sender asked."""
    deadline: Seconds | None = None
    """On the system's clock; what is later than this is not handled."""
    standing: Standing | None = None
    """What the sending node has proved; None for a message of this node."""


class Terminated(msgspec.Struct, frozen=True):
    """Told to those who watch an actor: it is gone and will not be restarted."""

    path: str
    reason: str


class Restarted(msgspec.Struct, frozen=True):
    """Announced to subscribers: an actor crashed and goes on with a fresh state."""

    path: str
    reason: str


class ActorRef:
    """The address of an actor, and the means to reach it there: on this node or, all the same, on another."""

    __slots__ = ("_mailbox", "_system", "address")

    def __init__(self, address: Address, system: "ActorSystem", mailbox: "Mailbox | None" = None) -> None:
        self.address = address
        self._system = system
        self._mailbox = mailbox

    def tell(self, message: Any, *, sender: "ActorRef | None" = None) -> None:
        """Send without waiting; at most once, in order. To nobody, it is a dead letter, and counted.

        Raises:
            Congested: The mailbox (`MailboxFull`) or the way to its node is full; the message was not taken.
            UsageError: The message cannot be encoded for another node.
        """
        if sender is not None:
            message = Delivery(message, sender)
        if self._mailbox is None or not self._mailbox.put(message):
            self._system.tell(self.address, message)

    def ask(
        self, message: Any, *, timeout_s: Seconds = ASK_TIMEOUT_S, reply_type: Any = None
    ) -> Coroutine[Any, Any, Any]:
        """Send and wait for the answer; see `ActorSystem.ask`. Await it."""
        if self._mailbox is not None and timeout_s > 0:
            return self._system.ask_here(self._mailbox.path, self._mailbox, message, timeout_s)
        return self._system.ask(self, message, timeout_s=timeout_s, reply_type=reply_type)

    async def wait_room(self) -> None:
        """Wait until a local actor's mailbox is at most half full; returns at once for other nodes' actors."""
        if self._mailbox is not None:
            await self._mailbox.wait_room()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorRef) and other.address == self.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __repr__(self) -> str:
        return f"ActorRef({self.address.path} at {self.address.node.short})"


def handles(method: _Method) -> _Method:
    """Mark `async def name(self, message: SomeType) -> ReplyType` as the handler of `SomeType`.

    The annotation says which messages come here; on the wire they carry the type's name. What the method returns is
    the answer to an ask.

    Raises:
        UsageError: It is not such a method.
    """
    if not inspect.iscoroutinefunction(method) or len(inspect.signature(method).parameters) != 2:
        raise UsageError(f"@handles needs `async def name(self, message: SomeType)`; {method!r} is not one")
    method._atoll_handles = True  # type: ignore[attr-defined]  # noqa: SLF001 - our mark on the user's function
    return method


class Handlers:
    """The typed handlers of one actor class."""

    def __init__(self, actor_class: "type[Actor]") -> None:
        self.by_type: dict[type, Callable[[Any, Any], Any]] = {}
        self.types: dict[str, type] = {}
        """Message types by the name that the wire carries."""
        for name, marked in _marked_methods(actor_class).items():
            self._add(actor_class, getattr(actor_class, name), marked)

    def _add(self, actor_class: "type[Actor]", method: Any, marked: Any) -> None:
        hints = typing.get_type_hints(marked)
        parameter = list(inspect.signature(marked).parameters)[1]
        if parameter not in hints:
            raise UsageError(f"{marked.__qualname__}: annotate `{parameter}` with the type it handles")
        kind = hints[parameter]
        union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
        for each in typing.get_args(kind) if union else (kind,):
            if not isinstance(each, type):
                raise UsageError(f"{marked.__qualname__}: {each!r} is not a class, so no message is one")
            if each.__name__ in self.types:
                raise UsageError(f"{actor_class.__name__} has two handlers for messages named {each.__name__}")
            self.by_type[each] = method
            self.types[each.__name__] = each
            _note_reply_type(each, hints.get("return", Any))

    def find(self, kind: type) -> Callable[[Any, Any], Any] | None:
        """Give the handler for a message of that class or of the nearest base class that has one."""
        if (found := self.by_type.get(kind)) is None:
            found = next((self.by_type[base] for base in kind.__mro__ if base in self.by_type), None)
        return found


def _marked_methods(actor_class: type) -> dict[str, Any]:
    """Collect what any class of the line marked; an override needs no second mark."""
    return {
        name: value
        for base in reversed(actor_class.__mro__)
        for name, value in vars(base).items()
        if getattr(value, "_atoll_handles", False)
    }


_reply_types: "weakref.WeakKeyDictionary[type, Any]" = weakref.WeakKeyDictionary()


def _note_reply_type(kind: type, reply_type: Any) -> None:
    known = _reply_types.setdefault(kind, reply_type)
    if known != reply_type:
        # Two actor classes answer the same question differently: nobody can know which one is asked.
        _reply_types[kind] = Any


def reply_type_of(message: Any) -> Any:
    """Give what handlers known in this process return for such a message, or `Any`."""
    found = _reply_types.get(type(message), Any)
    return type(None) if found is None else found


class NotUnderstood(Declined):
    """Raised by `Actor.receive` for a message without a handler; the actor goes on."""


class Actor:
    """Base of all actors: give it `@handles` methods, or override `receive`.

    Set fields in `__init__` (the factory calls it; no `super().__init__()` is needed), open things in `started`, close
    them in `stopped`.
    """

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})
    """Which peers may reach it from other nodes; everybody else gets a fault."""
    facts_are_told: ClassVar[bool] = False
    """Announced facts arrive as `Told(fact)` instead of `fact`; for shells of machines."""

    system: "ActorSystem"
    ref: ActorRef
    _cell: "Cell"
    _handlers: ClassVar[Handlers]

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Read the handlers, unless a type named in them is defined further below: then `spawn` does."""
        super().__init_subclass__(**arguments)
        try:
            cls._handlers = Handlers(cls)
        except NameError:
            if "_handlers" in cls.__dict__:
                del cls._handlers

    @property
    def tasks(self) -> anyio.abc.TaskGroup:
        """Background tasks; one that raises crashes the actor. They are cancelled before `stopped` is called."""
        return self._cell.tasks

    @property
    def is_ending(self) -> bool:
        """Whether somebody ends it on purpose; in `stopped`, False after a crash, when its supervisor has to decide."""
        return self._cell.is_ending

    async def started(self) -> None:
        """Prepare; called before the first message. An error here fails `spawn`, or counts as a crash on a restart."""

    async def stopped(self) -> None:
        """Clean up; called exactly once after `started` began, however it ended: done, stopped, crashed, cancelled.

        So it may find a half-started actor. It is shielded from cancellation and given `STOPPED_S`; its background
        tasks have ended. An error here is logged and counted, and changes nothing.
        """

    async def receive(self, delivery: Delivery) -> Any:
        """Handle one message and return the answer, or `LATER`; override it to see the sender and the standing.

        Raises:
            Declined: To say no without crashing; the asker gets `AskDeclined`.
        """
        handler = handlers_of(type(self)).find(type(delivery.message))
        if handler is None:
            raise NotUnderstood(f"{self.ref.address.path} takes no {type(delivery.message).__name__}")
        return await handler(self, delivery.message)

    def stop(self) -> None:
        """End after the message in hand, as a *normal* ending: a permanent actor is started again."""
        self._cell.leave()


def handlers_of(actor_class: type[Actor]) -> Handlers:
    """Give the handlers of a class.

    Raises:
        UsageError: An annotation names a type that does not exist.
    """
    if "_handlers" not in actor_class.__dict__:
        try:
            actor_class._handlers = Handlers(actor_class)  # noqa: SLF001 - same module
        except NameError as error:
            raise UsageError(
                f"{actor_class.__name__} handles a type that cannot be found: {error}; define it at module level"
            ) from error
    return actor_class._handlers  # noqa: SLF001 - same module
