"""One actor's place in a system: its mailbox, and one life after the other.

    idle (no task) --a message--> ready --a worker comes--> running --nothing left to do--> idle, its worker lingers
    idle, its worker lingers --a message--> running
                             --the worker is called to others--> idle (no task), or ready if a message came as well
    down --start()--> starting --started() returned--> running --done, stopped or crashed--> stopped() --> down
    starting --started() raised--> stopped() --> down, and whoever started it gets the error

The cell survives restarts, the actor object does not. An actor that overrides neither `started` nor `stopped` and never
uses `tasks` borrows a task while there is something to do (`workers.py`): idle, it costs an object and a queue. The
cell decides nothing about restarts; it reports to its `Parent`.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.abc
import anyio.lowlevel

from atoll.actors.runtime.actor import LATER, Actor, ActorRef, Delivery, Handlers, NotUnderstood, handlers_of
from atoll.actors.runtime.errors import (
    AskCrashed,
    AskDeclined,
    AskFailed,
    AskNotUnderstood,
    AskUnreachable,
    Declined,
    StartFailed,
    sole_error,
)
from atoll.actors.runtime.mailbox import Mailbox
from atoll.actors.runtime.supervisor import ChildSpec, Ending
from atoll.actors.runtime.workers import Worker, Workers
from atoll.transport.base import Standing
from atoll.transport.errors import UsageError
from atoll.transport.parking import Promise

if TYPE_CHECKING:
    from atoll.actors.runtime.system import ActorSystem

log = logging.getLogger("atoll.actors")

BATCH = 64
"""Messages that one actor handles before the others get their turn. bench/actors shows no gain above."""
STOP_S = 5.0
"""What an actor that is stopped has to finish the message in hand, before it is cancelled."""
STOPPED_S = 5.0
"""What `Actor.stopped` has to clean up."""


class Parent(Protocol):
    """What a cell needs of the branch it grows on."""

    group: anyio.abc.TaskGroup
    workers: Workers

    def child_ended(self, child: Any, turn: int, ending: Ending, error: BaseException | None) -> None:
        """A running child ended by itself."""
        ...


class _NextMessage:
    """Stands in for a parked reader: waking it lets the actor have a task."""

    __slots__ = ("_cell",)

    def __init__(self, cell: "Cell") -> None:
        self._cell = cell

    def done(self) -> bool:
        return False

    def set_result(self, _result: Any, /) -> None:
        cell = self._cell
        cell.lent = True
        workers = cell.parent.workers
        workers.ready.append(cell)
        if not workers.called:
            workers.call()

    def __await__(self) -> Any:
        raise UsageError("nobody waits for the next message of an actor without a task")


class Cell:
    """One named actor under one supervisor."""

    __slots__ = (
        "_factory",
        "_killed",
        "_lingering",
        "_next_message",
        "_over",
        "_plain",
        "_ready",
        "_rests",
        "_stopping",
        "_system",
        "_tasks",
        "actor",
        "handlers",
        "lent",
        "mailbox",
        "name",
        "open_to",
        "parent",
        "ref",
        "restart",
        "turn",
    )

    def __init__(self, system: "ActorSystem", parent: Parent, spec: ChildSpec, mailbox: Mailbox, ref: ActorRef) -> None:
        self._system = system
        self.parent = parent
        self.name = spec.name
        self.restart = spec.restart
        self._factory: Callable[[], Any] = spec.factory
        self.mailbox = mailbox
        self.ref = ref
        self.actor: Actor | None = None
        self.handlers: Handlers | None = None
        self._plain: dict[type, Callable[[Any, Any], Any]] = {}
        """Handlers of messages that are not looked at before."""
        self.open_to: tuple[Standing, ...] = ()
        """Who may reach the actor from another node; a tuple, as hashing an enum member is slow."""
        self.turn = 0
        """Counts the lives, so that the end of an earlier one is recognised as such."""
        self.lent = False
        """Whether the actor has a task, or waits for one that is on its way."""
        self._lingering: Promise | None = None
        """What a task waits on that worked for the actor last, and still is there."""
        self._stopping: Ending | None = None
        self._killed = False
        self._ready: Promise | None = None
        self._over: anyio.Event | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._rests = False
        """Whether the actor needs no task while there is nothing to do."""
        self._next_message = _NextMessage(self)

    @property
    def running(self) -> bool:
        """Whether the actor has something to do, with a task or about to have one."""
        return self.lent or (self._lingering is not None and self._lingering.done())

    @property
    def is_ending(self) -> bool:
        """Whether the actor was told to end."""
        return self._stopping is Ending.ORDERED

    @property
    def tasks(self) -> anyio.abc.TaskGroup:
        """The actor's background tasks; once asked for, the actor keeps its own task."""
        if self._tasks is None:
            raise UsageError(f"{self.name} has no tasks before it is started, nor after it ended")
        self._rests = False
        return self._tasks

    async def start(self) -> Exception | None:
        """Begin a new life and wait until `started` returned; give the error if it did not."""
        self.turn += 1
        self._stopping, self._killed, self._over = None, False, None
        try:
            actor = self._factory()
            if not isinstance(actor, Actor):
                raise UsageError(f"the factory of {self.name} gave {actor!r}, not an Actor")  # noqa: TRY301 - same fault
            self.handlers = handlers_of(type(actor))
        except Exception as error:  # noqa: BLE001 - it is the caller's to judge, in `spawn` or in the supervisor
            return error
        actor.system, actor.ref, actor._cell = self._system, self.ref, self  # noqa: SLF001 - the runtime's own field
        self.actor, self.open_to = actor, tuple(actor.open_to)
        kind = type(actor)
        # A bare item is the message of a plain tell; only an actor that overrides `receive` sees it as a Delivery.
        self._plain = self.handlers.by_type if kind.receive is Actor.receive else {}
        self._rests = kind.started is Actor.started and kind.stopped is Actor.stopped
        if self._rests:
            self._rest()
            return None
        self._ready = ready = self._system.new_promise()
        self.lent = True
        self.parent.group.start_soon(self._live, name=self.name)
        try:
            return await ready  # type: ignore[no-any-return]
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.stop(force=True)
            raise

    def _rest(self) -> None:
        self.mailbox.parked = self._next_message
        if self.mailbox.items:
            self.mailbox.wake()

    def _let_go(self) -> None:
        """Do without the task that lingered and is called to others."""
        self._lingering = None
        if self.mailbox.items or self._stopping is not None:
            self.lent = True
            self.parent.workers.ready.append(self)
        else:
            self.mailbox.parked = self._next_message

    def torn_down(self) -> None:
        """End because the whole branch is torn down: there is nobody left to restart anything."""
        self._stopping, self._over = Ending.ORDERED, self._over or anyio.Event()
        self.ended(None)

    def leave(self) -> None:
        """End after the message in hand, by the actor's own wish."""
        self._stopping = self._stopping or Ending.NORMAL
        self.mailbox.wake()

    async def stop(self, *, force: bool = False) -> None:
        """End it and wait until it has ended; `force` does not wait for the message in hand."""
        if not self.running:
            if self._lingering is not None:
                self._lingering.set_result(None)
            self.mailbox.parked = self._lingering = None
            return
        self._stopping = Ending.ORDERED
        self._over = over = self._over or anyio.Event()
        self.mailbox.wake()
        if not force:
            with anyio.move_on_after(STOP_S):
                await over.wait()
            if over.is_set():
                return
            log.warning("actor %s did not finish its message within %g s and is cancelled", self.name, STOP_S)
        self._kill(Ending.ORDERED)
        await over.wait()

    def _kill(self, ending: Ending) -> None:
        self._stopping = ending
        self._killed = True
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    async def _live(self) -> None:
        actor = self.actor
        error: BaseException | None = None
        assert actor is not None  # noqa: S101 - `start` set it; for mypy
        try:
            try:
                async with anyio.create_task_group() as tasks:
                    if self._killed:
                        tasks.cancel_scope.cancel()
                    self._tasks = tasks
                    await actor.started()
                    self._report_start(None)
                    await self.work(tasks)
                    tasks.cancel_scope.cancel()
            finally:
                self._tasks = None
                await self._clean_up(actor)
        except Exception as raised:  # noqa: BLE001 - handed to whoever started the actor, or to its supervisor
            error = sole_error(raised)
        except BaseException:
            self.torn_down()
            raise
        self.ended(error)

    async def _clean_up(self, actor: Actor) -> None:
        try:
            with anyio.move_on_after(STOPPED_S, shield=True) as scope:
                await actor.stopped()
        except Exception:
            self._system.count("stopped_failed")
            log.exception("actor %s: stopped() raised; what it had open may be open still", self.name)
            return
        if scope.cancelled_caught:
            self._system.count("stopped_failed")
            log.error("actor %s: stopped() took longer than %g s and was cancelled", self.name, STOPPED_S)

    def _report_start(self, error: BaseException | None) -> None:
        ready, self._ready = self._ready, None
        if ready is not None and not ready.done():
            ready.set_result(error)

    def ended(self, error: BaseException | None) -> None:
        """Note the end of this life, and tell whom it concerns."""
        self.lent, self._tasks, self._lingering = False, None, None
        starting = self._ready is not None
        self._report_start(error or StartFailed(f"{self.name} was stopped while it started"))
        if self._over is not None:
            if error is not None:
                log.error("actor %s raised while it was stopped", self.name, exc_info=error)
            self._over.set()
        elif not starting:
            ending = Ending.CRASHED if error is not None else (self._stopping or Ending.NORMAL)
            self.parent.child_ended(self, self.turn, ending, error)

    async def work(  # noqa: C901, PLR0912 - a call costs more than all that is decided here
        self, tasks: anyio.abc.TaskGroup, worker: Worker | None = None
    ) -> bool:
        """Handle messages until the actor rests and the task must go: True; or until it ends, and `ended` is to follow.

        The hot path, where each line is felt: see bench/actors before changing it.
        """
        self.lent, self._tasks = True, tasks
        actor, mailbox, items, handlers = self.actor, self.mailbox, self.mailbox.items, self._plain
        assert actor is not None  # noqa: S101 - `start` set it; for mypy
        while self._stopping is None:
            if not items:
                if worker is None or not self._rests:
                    await mailbox.wait_item()
                    continue
                # Nor does an actor that rests keep a message.
                self.lent, self._tasks, item, answer = False, None, None, None
                self._lingering = mailbox.parked = parked = worker.park()
                if parked is None:
                    mailbox.parked = self._next_message
                    return True
                if await parked:
                    self._let_go()
                    worker.come()
                    return True
                worker.free.remove(parked)
                if self._lingering is not parked:
                    # Stopped meanwhile, and may have another life.
                    return True
                self.lent, self._lingering, self._tasks = True, None, tasks
                continue
            for handled in range(mailbox.handled + 1, mailbox.handled + 1 + BATCH):
                item = items.popleft()
                mailbox.handled = handled
                handler = handlers.get(type(item))
                try:
                    if handler is not None:
                        await handler(actor, item)
                    else:
                        # Here and not in a method: that would be one coroutine more for each ask.
                        if type(item) is not Delivery:
                            item = Delivery(item)
                        if item.deadline is None or self._system.clock() <= item.deadline:
                            handler = handlers.get(type(item.message))
                            # `receive` knows what to do with messages that have no handler of their own class.
                            answer = await (actor.receive(item) if handler is None else handler(actor, item.message))
                            if item.reply_to is not None and answer is not LATER:
                                item.reply_to.answer(answer)
                        else:
                            self._system.count("late")
                except BaseException as error:
                    self._failed(item, error)
                    if not isinstance(error, Declined):
                        raise
                if not items or self._stopping is not None:
                    break
            if mailbox.room is not None:
                mailbox.tell_room()
            if items:
                await anyio.lowlevel.checkpoint()
        return False

    def _failed(self, item: Any, error: BaseException) -> None:
        """Tell what became of a message whose handler raised."""
        delivery = item if isinstance(item, Delivery) else Delivery(item)
        if delivery.reply_to is not None:
            delivery.reply_to.fail(self._failure(delivery.message, error))
        if isinstance(error, Declined):
            self._system.count("not_understood" if isinstance(error, NotUnderstood) else "declined")
            log.debug("actor %s: %s", self.name, error)
        elif isinstance(error, Exception):
            error.add_note(f"while the actor {self.name} handled {type(delivery.message).__name__}")

    def _failure(self, message: Any, error: BaseException) -> AskFailed:
        """Tell an asker what became of its message."""
        if isinstance(error, Declined):
            understood = not isinstance(error, NotUnderstood)
            return AskDeclined(str(error)) if understood else AskNotUnderstood(str(error))
        if not isinstance(error, Exception):
            return AskUnreachable(f"{self.name} was stopped while it handled the message")
        kind = type(message).__name__
        failure = AskCrashed(f"{self.name} crashed while it handled {kind}: {type(error).__name__}: {error}")
        failure.__cause__ = error
        return failure
