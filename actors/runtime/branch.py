"""A running supervisor: starts its children in order, carries out what `Supervision` decides, stops them last first.

    down --run()--> starting --all children are up--> running --asked to stop--> stopping --> down
                             --one does not start--> stopping --> down, the error goes to whoever started it
                    running --a child ends--> settling, one ending after the other --> running
                                              --restarts exhausted--> stopping --> down, the error goes to its parent

A branch is a child like an actor is: `start`, `stop`, and a report of its end to the branch above.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.abc

from atoll.actors.runtime.actor import Restarted
from atoll.actors.runtime.cell import Cell, Parent
from atoll.actors.runtime.errors import RestartsExhausted, StartFailed, sole_error
from atoll.actors.runtime.supervisor import (
    ChildSpec,
    Ending,
    Escalate,
    Forget,
    Restart,
    RestartChildren,
    Supervision,
    SupervisorSpec,
)
from atoll.actors.runtime.workers import Workers
from atoll.transport.errors import UsageError
from atoll.transport.parking import Promise

if TYPE_CHECKING:
    from atoll.actors.runtime.system import ActorSystem

log = logging.getLogger("atoll.actors")

Child: TypeAlias = "Cell | Branch"


class Branch:
    """One supervisor and its children."""

    def __init__(self, system: "ActorSystem", spec: SupervisorSpec, parent: Parent | None) -> None:
        self._system = system
        self._spec = spec
        self.name = spec.name
        self.restart: Restart = spec.restart
        self.parent = parent
        self.children: dict[str, Child] = {}
        self.turn = 0
        self.group: anyio.abc.TaskGroup
        self.workers: Workers
        self._endings: deque[tuple[Child, int, Ending, BaseException | None]] = deque()
        self._ready: Promise | None = None
        self._running = self._starting = False
        self._begin_life()

    def _begin_life(self) -> None:
        spec = self._spec
        self._supervision = Supervision(spec.strategy, intensity=spec.intensity, period_s=spec.period_s)
        self._endings.clear()
        self._settling = self._closing = self._ordered = self._force = False
        self._error: Exception | None = None
        self._end, self._over = anyio.Event(), anyio.Event()

    async def start(self) -> Exception | None:
        """Begin to supervise, in a task of the parent; wait until all children are up, or give the error."""
        if self.parent is None:
            raise UsageError("the root is run by the system")
        self.turn += 1
        self._begin_life()
        self._ready = ready = self._system.new_promise()
        self._running = True
        self.parent.group.start_soon(self.run, name=self.name)
        try:
            return await ready  # type: ignore[no-any-return]
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.stop(force=True)
            raise

    async def stop(self, *, force: bool = False) -> None:
        """Stop all children, last first, and wait."""
        self._ordered = True
        self._force = self._force or force
        self._end.set()
        if not self._running:
            return
        if self._starting and self.children:
            # Its start may take for ever; what is up already is stopped by `run`.
            await next(reversed(self.children.values())).stop(force=force)
        await self._over.wait()

    async def run(self, *, started: Callable[[], None] | None = None) -> None:
        """Live once, from the first child's start to the last one's end.

        Raises:
            RestartsExhausted, StartFailed: Only at the root; others report to their parent.
        """
        self._running = self._starting = True
        try:
            async with anyio.create_task_group() as self.group:
                self.workers = Workers(self.group, self._system.new_promise)
                self._error = await self._start_specified()
                self._starting = False
                if started is not None:
                    started()
                if self._error is None:
                    self._report_start(None)
                    await self._end.wait()
                await self._stop_children()
                self.group.cancel_scope.cancel()
        except Exception as raised:  # noqa: BLE001 - the parent's to judge
            error = sole_error(raised)
            self._error = error if isinstance(error, Exception) else self._error
        except BaseException:
            # Torn down with what is above it, which must not start it again.
            self._ordered = True
            raise
        finally:
            self._ended()
        if self.parent is None and self._error is not None:
            raise self._error

    async def _start_specified(self) -> Exception | None:
        for spec in self._spec.children:
            try:
                await self.add(spec)
            except (StartFailed, UsageError) as error:
                return error
            if self._end.is_set():
                break
        return None

    async def add(self, spec: ChildSpec | SupervisorSpec) -> Child:
        """Start one more child, last in order.

        Raises:
            StartFailed: It did not start; the cause is what it raised. Nothing of it is left.
            UsageError: The name is taken or not a name, or the supervisor is ending.
        """
        if self._closing:
            raise UsageError(f"the supervisor {self.name} is ending; nothing can be started under it")
        child: Child
        if isinstance(spec, SupervisorSpec):
            child = Branch(self._system, spec, self)
            self._system.grown(child)
        else:
            child = self._system.seat(spec, self)
        self._supervision.add(spec.name, spec.restart)
        self.children[spec.name] = child
        try:
            error = await child.start()
        except BaseException:
            self._drop(child, "its start was cancelled")
            raise
        if error is not None:
            self._drop(child, f"it did not start: {error}")
            raise StartFailed(f"{spec.name} did not start: {type(error).__name__}: {error}") from error
        return child

    async def remove(self, child: Child) -> None:
        """Stop one child for good."""
        # Out of the books first: an ending that is still to be settled must not start it again.
        self._supervision.remove(child.name)
        await child.stop()
        self._drop(child, "stopped")

    def _drop(self, child: Child, reason: str) -> None:
        self._supervision.remove(child.name)
        if self.children.get(child.name) is child:
            del self.children[child.name]
        self._system.gone(child, reason)

    def child_ended(self, child: Any, turn: int, ending: Ending, error: BaseException | None) -> None:
        """Take note of an ending; they are settled one after the other."""
        if ending is Ending.CRASHED:
            self._system.count("crashes")
            log.error("%s crashed", child.name, exc_info=error)
        self._endings.append((child, turn, ending, error))
        if not self._settling and not self._closing:
            self._settling = True
            self.group.start_soon(self._settle, name=f"{self.name}: settling")

    async def _settle(self) -> None:
        while self._endings and not self._closing:
            child, turn, ending, error = self._endings.popleft()
            known = child.name in self._supervision.children and self.children.get(child.name) is child
            if not known or turn != child.turn:
                continue
            decision = self._supervision.child_ended(child.name, ending, self._system.clock())
            match decision:
                case Forget():
                    self._drop(child, f"{ending.value}: {error}" if error is not None else ending.value)
                case RestartChildren():
                    await self._restart(decision, error)
                case Escalate(reason):
                    self._error = RestartsExhausted(f"the supervisor {self.name} gives up: {reason}")
                    self._error.__cause__ = error
                    self._end.set()
                    break
        self._settling = False

    async def _restart(self, decision: RestartChildren, error: BaseException | None) -> None:
        for name in decision.stop:
            if (child := self.children.get(name)) is None:
                continue
            await child.stop()
            if name in decision.forget:
                self._drop(child, "stopped, because a sibling crashed")
        for name in decision.start:
            child = self.children.get(name)
            # Somebody may have removed it, or the whole branch may be ending, while its siblings stopped.
            if child is None or name not in self._supervision.children or self._closing:
                continue
            self._system.count("restarts")
            failed = await child.start()
            if failed is not None:
                # The rest stays down: the decision about this one starts it, or ends the branch.
                self.child_ended(child, child.turn, Ending.CRASHED, failed)
                return
            self._system.announce(Restarted(name, str(error) if error is not None else "a sibling was restarted"))

    async def _stop_children(self) -> None:
        self._closing = True
        while self.children:
            child = next(reversed(self.children.values()))
            await child.stop(force=self._force)
            self._drop(child, "its supervisor ended")

    def _report_start(self, error: BaseException | None) -> None:
        ready, self._ready = self._ready, None
        if ready is not None and not ready.done():
            ready.set_result(error)

    def _ended(self) -> None:
        self._running = self._starting = False
        for child in list(self.children.values()):
            self._drop(child, "its supervisor was cancelled")
        starting = self._ready is not None
        self._report_start(self._error or StartFailed(f"{self.name} was stopped while it started"))
        self._over.set()
        if self.parent is not None and not starting and not self._ordered:
            ending = Ending.CRASHED if self._error is not None else Ending.NORMAL
            self.parent.child_ended(self, self.turn, ending, self._error)
