"""Runs the actors of one node: starts, finds, reaches, watches and ends them.

    made --async with--> running --the block is left--> stopping, last started first --> ended
                                 --the root's restarts are exhausted--> stopping --> the error leaves `async with`

It starts no thread, installs no signal handler and changes no global setting; everything happens in the task that
enters it and in tasks below it. If the block is cancelled, actors are cancelled too, but still last first and each
with time for `stopped`.
"""

import logging
import re
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import msgspec

from atoll.actors.runtime.actor import ASK_TIMEOUT_S, Actor, ActorRef, Delivery, Terminated
from atoll.actors.runtime.alarms import Alarms, Clock, lease_clock
from atoll.actors.runtime.asks import Ask
from atoll.actors.runtime.branch import Branch, Child
from atoll.actors.runtime.cell import Cell
from atoll.actors.runtime.errors import AskCongested, AskUnreachable, MailboxFull, sole_error
from atoll.actors.runtime.machine import Address, Seconds, Told
from atoll.actors.runtime.mailbox import MAILBOX_MAX, Mailbox
from atoll.actors.runtime.supervisor import INTENSITY, PERIOD_S, ChildSpec, Restart, SupervisorSpec
from atoll.actors.runtime.wire import Wire
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.envelope import PATH_CHARACTERS_MAX, Envelope
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId
from atoll.transport.parking import PromiseFactory, promise_factory

if TYPE_CHECKING:
    import anyio.abc

    from atoll.actors.runtime.cell import Parent

log = logging.getLogger("atoll.actors")

DEAD_LETTERS_MAX = 100
"""Kept to be looked at; all are counted."""
ATTEMPTS_MAX = 10
_NAME = re.compile(r"[A-Za-z0-9_.~:-]+(/[A-Za-z0-9_.~:-]+)*")


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that nobody will read, and why."""

    path: str
    message: Any
    reason: str


class ActorSystem:
    """The actors of one node; use it with `async with`."""

    def __init__(
        self,
        node_id: NodeId,
        codec: Codec,
        outlet: Callable[[Envelope], None] | None = None,
        clock: Clock = lease_clock,
        *,
        intensity: int = INTENSITY,
        period_s: Seconds = PERIOD_S,
    ) -> None:
        self.node_id = node_id
        self.clock = clock
        self.alarms: Alarms
        self.new_promise: PromiseFactory
        self.dead_letters: deque[DeadLetter] = deque(maxlen=DEAD_LETTERS_MAX)
        self._wire = Wire(self, codec, outlet)
        self._counts: Counter[str] = Counter()
        self._cells: dict[str, Cell] = {}
        self._branches: dict[str, Branch] = {}
        self._watchers: dict[str, list[ActorRef]] = {}
        self._subscribers: dict[type, dict[ActorRef, None]] = {}
        self._handled = 0
        self._root_spec = SupervisorSpec(name="root", intensity=intensity, period_s=period_s)
        self._root: Branch | None = None
        self._tasks: anyio.abc.TaskGroup

    @property
    def outlet(self) -> Callable[[Envelope], None] | None:
        """Where envelopes for other nodes go; it may raise `Unreachable` or `Congested`. The Router sets it."""
        return self._wire.outlet

    @outlet.setter
    def outlet(self, outlet: Callable[[Envelope], None] | None) -> None:
        self._wire.outlet = outlet

    @property
    def reopen(self) -> Callable[[NodeId], bool] | None:
        """Looks for a way to a node that an ask found none to; True if `way_lost` will tell. The Router sets it."""
        return self._wire.reopen

    @reopen.setter
    def reopen(self, reopen: Callable[[NodeId], bool] | None) -> None:
        self._wire.reopen = reopen

    async def __aenter__(self) -> Self:
        if self._root is not None:
            raise UsageError("a system runs once; make another")
        self.new_promise = promise_factory()
        self.alarms = Alarms(self.clock, self.new_promise)
        self._root = root = Branch(self, self._root_spec, None)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        try:
            # A step of a few turns; cancelled within it, it would wait for the root to end, which nobody has told to.
            with anyio.CancelScope(shield=True):
                await self._tasks.start(self._run, root)
        except BaseException as error:
            await self._tasks.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._root is not None:
            with anyio.CancelScope(shield=True):
                await self._root.stop(force=error is not None)
        failure: BaseException
        try:
            return await self._tasks.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            failure = sole_error(group)
        if failure is error:
            return None
        raise failure

    async def _run(self, root: Branch, *, task_status: "anyio.abc.TaskStatus[None]") -> None:
        # Shielded: when the block is cancelled, `__aexit__` ends the actors in order.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                group.start_soon(self.alarms.run, name="alarms")
                await root.run(started=task_status.started)
                group.cancel_scope.cancel()

    async def spawn(
        self,
        factory: Callable[[], Actor],
        name: str,
        *,
        restart: Restart = Restart.PERMANENT,
        mailbox_max: int = MAILBOX_MAX,
        under: str | None = None,
    ) -> ActorRef:
        """Start an actor, under the supervisor of that name or under the root, and wait until `started` returned.

        `factory` (a class will do) makes a fresh actor, for every restart too.

        Raises:
            StartFailed: It did not start; the cause is what it raised. Nothing of it is left.
            UsageError: The name is taken or not a name, or the system does not run.
        """
        spec = ChildSpec(name=name, factory=factory, restart=restart, mailbox_max=mailbox_max)
        cell = await self._branch(under).add(spec)
        assert isinstance(cell, Cell)  # noqa: S101 - for mypy: a ChildSpec becomes a cell
        return cell.ref

    async def supervise(self, spec: SupervisorSpec, *, under: str | None = None) -> None:
        """Start a supervisor and its children, in order, and wait until all are up.

        Raises:
            StartFailed: A child did not start; those before it are stopped again.
            UsageError: A name is taken or not a name, or the system does not run.
        """
        await self._branch(under).add(spec)

    async def stop(self, ref: ActorRef) -> None:
        """End a local actor for good, after the message in hand, and wait; harmless when it is gone.

        An actor that wants to end itself calls `Actor.stop`: it cannot wait for its own end.
        """
        cell = self._local(ref.address)
        if cell is not None:
            parent = cell.parent
            assert isinstance(parent, Branch)  # noqa: S101 - for mypy
            await parent.remove(cell)

    def _branch(self, name: str | None) -> Branch:
        if self._root is None:
            raise UsageError("the system does not run: use it with `async with`")
        if name is None:
            return self._root
        if name not in self._branches:
            raise UsageError(f"no supervisor is named {name}; there are {sorted(self._branches)}")
        return self._branches[name]

    def seat(self, spec: ChildSpec, parent: "Parent") -> Cell:
        """Make the place of a new actor and enter it in the register; for branches."""
        name = spec.name
        if len(name) > PATH_CHARACTERS_MAX or not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not a name: letters, digits and _.~:- in parts joined by /")
        if name in self._cells:
            raise UsageError(f"an actor named {name} lives here already")
        if spec.mailbox_max < 1:
            raise UsageError(f"the mailbox of {name} must hold at least one message")
        mailbox = Mailbox(name, spec.mailbox_max, self.new_promise)
        ref = ActorRef(Address(self.node_id, name), self, mailbox)
        cell = self._cells[name] = Cell(self, parent, spec, mailbox, ref)
        return cell

    def grown(self, branch: Branch) -> None:
        """Enter a new supervisor in the register; for branches."""
        if branch.name in self._branches:
            raise UsageError(f"a supervisor named {branch.name} runs here already")
        self._branches[branch.name] = branch

    def gone(self, child: Child, reason: str) -> None:
        """Strike a child off the register and tell those who watch it; for branches."""
        if isinstance(child, Branch):
            self._branches.pop(child.name, None)
            return
        if self._cells.get(child.name) is not child:
            return
        del self._cells[child.name]
        self._handled += child.mailbox.handled
        for subscribers in self._subscribers.values():
            subscribers.pop(child.ref, None)
        for item in child.mailbox.close():
            message = item.message if isinstance(item, Delivery) else item
            self.bury(child.name, message, f"the actor ended: {reason}")
            if isinstance(item, Delivery) and item.reply_to is not None:
                item.reply_to.fail(AskUnreachable(f"{child.name} ended: {reason}"))
        for watcher in self._watchers.pop(child.name, ()):
            self._tell_fact(watcher, Terminated(child.name, reason))

    def cell(self, path: str) -> Cell | None:
        """Give the place of a local actor; for the runtime."""
        return self._cells.get(path)

    def _local(self, address: Address) -> Cell | None:
        return self._cells.get(address.path) if address.node == self.node_id else None

    def find(self, path: str) -> ActorRef | None:
        """Give the local actor of that path, if it lives."""
        cell = self._cells.get(path)
        return cell.ref if cell is not None else None

    def ref(self, address: Address) -> ActorRef:
        """Give a reference to an actor anywhere; it need not live yet."""
        cell = self._local(address)
        return cell.ref if cell is not None else ActorRef(address, self)

    def tell(self, target: Address | ActorRef, message: Any, *, sender: ActorRef | None = None) -> None:
        """Send without waiting; see `ActorRef.tell`."""
        address = target.address if isinstance(target, ActorRef) else target
        if sender is not None:
            message = Delivery(message, sender)
        if address.node != self.node_id:
            source = ""
            if isinstance(message, Delivery):
                source = message.sender.address.path if message.sender is not None else ""
                message = message.message
            self._wire.tell(address, message, source)
            return
        cell = self._cells.get(address.path)
        if cell is None or not cell.mailbox.put(message):
            letter = message.message if isinstance(message, Delivery) else message
            self.bury(address.path, letter, "no such actor")
            if isinstance(message, Delivery) and message.reply_to is not None:
                message.reply_to.fail(AskUnreachable(f"no actor {address.path} lives here"))

    def ask(
        self,
        target: Address | ActorRef,
        message: Any,
        *,
        timeout_s: Seconds = ASK_TIMEOUT_S,
        reply_type: Any = None,
        attempts: int = 1,
        traceparent: str = "",
    ) -> Coroutine[Any, Any, Any]:
        """Send a message and wait for the answer. Await it; nothing is sent before.

        An answer of a user's type from another node is read as `reply_type`, or as what a handler of this process
        returns for such a message, or stays plain data. Where `reply_type` is a message of the codec, no other one is
        taken: give it whenever the other node may be hostile. `attempts` spreads repetitions over the time, for ways
        that lose messages; the callee handles the message once.

        Raises:
            AskFailed: No answer; its subclass says whose fault.
            UsageError: The message cannot be encoded, or an argument is out of range.
        """
        if timeout_s <= 0 or not 1 <= attempts <= ATTEMPTS_MAX:
            raise UsageError(f"an ask needs time, and 1 to {ATTEMPTS_MAX} attempts: {timeout_s} s, {attempts}")
        address = target.address if isinstance(target, ActorRef) else target
        if address.node != self.node_id:
            return self._wire.ask(
                address,
                message,
                timeout_s=timeout_s,
                reply_type=reply_type,
                attempts=attempts,
                traceparent=traceparent,
            )
        return self.ask_here(address.path, None, message, timeout_s)

    async def ask_here(self, path: str, mailbox: Mailbox | None, message: Any, timeout_s: Seconds) -> Any:
        """Ask an actor of this node; for the runtime, which has checked the arguments and may know the mailbox."""
        if mailbox is None or mailbox.closed:
            cell = self._cells.get(path)
            if cell is None:
                raise AskUnreachable(f"no actor {path} lives here")
            mailbox = cell.mailbox
        deadline = self.clock() + timeout_s
        promise = self.new_promise()
        ask = Ask(promise, path, timeout_s)
        try:
            mailbox.put(Delivery(message, None, ask, deadline))
        except MailboxFull as error:
            raise AskCongested(str(error)) from error
        grain = self.alarms.set(deadline, ask)
        try:
            answer = await promise
        finally:
            grain.discard(ask)
        if ask.failure is not None:
            raise ask.failure
        return answer

    def watch(self, ref: ActorRef, watcher: ActorRef) -> None:
        """Tell `watcher` `Terminated` when the local actor is gone for good; at once when it is not there.

        Raises:
            UsageError: The actor is another node's; watch the node's link instead.
        """
        if ref.address.node != self.node_id:
            raise UsageError(f"{ref} lives on another node; only local actors can be watched")
        if ref.address.path not in self._cells:
            self._tell_fact(watcher, Terminated(ref.address.path, "no such actor"))
            return
        watchers = self._watchers.setdefault(ref.address.path, [])
        if watcher not in watchers:
            watchers.append(watcher)

    def subscribe(self, fact_type: type, ref: ActorRef) -> None:
        """Tell the local actor every announced fact of that type or of its subclasses, until it is gone."""
        if self._local(ref.address) is None:
            raise UsageError(f"{ref} does not live here and cannot subscribe")
        self._subscribers.setdefault(fact_type, {})[ref] = None

    def announce(self, fact: Any) -> None:
        """Tell a fact to all subscribers, each once; never waits."""
        told: dict[ActorRef, None] = {}
        for kind in type(fact).__mro__:
            told.update(self._subscribers.get(kind, {}))
        for ref in told:
            self._tell_fact(ref, fact)

    def _tell_fact(self, ref: ActorRef, fact: Any) -> None:
        cell = self._local(ref.address)
        if cell is None:
            self.bury(ref.address.path, fact, "no such actor")
            return
        wrapped = Told(fact) if cell.actor is not None and cell.actor.facts_are_told else fact
        if not cell.mailbox.put_fact(wrapped):
            log.error("the actor %s is so far behind that it misses %s", cell.name, type(fact).__name__)
            self.bury(cell.name, fact, "mailbox full")

    def deliver(self, envelope: Envelope, standing: Standing) -> None:
        """Take an envelope from another node, whose `standing` and source the caller has proved; never raises.

        What is refused (no such actor, not open to that standing, unreadable, full) is counted, and an asker gets a
        fault through the outlet.
        """
        self._wire.deliver(envelope, standing)

    def way_lost(self, node: NodeId, reason: str) -> None:
        """Hear from the outlet's owner that what was on its way to or from `node` may be gone.

        Asks that wait for its answer are sent again, which its table of answers makes harmless; where no way is left
        they fail at once with `AskUnreachable` and the reason.
        """
        self._wire.way_lost(node, reason)

    def awaits(self, node: NodeId) -> bool:
        """Tell whether an ask waits for an answer of `node`."""
        return self._wire.awaits(node)

    def count(self, counter: str) -> None:
        """Count one more of something rare; for the runtime."""
        self._counts[counter] += 1

    def bury(self, path: str, message: Any, reason: str) -> None:
        """Keep a message that nobody will read, for a while; for the runtime."""
        self._counts["dead_letters"] += 1
        self.dead_letters.append(DeadLetter(path, message, reason))

    def statistics(self) -> dict[str, Any]:
        """Count since the start; `mailboxes` has what waits and what was handled, by path."""
        return {
            "actors": len(self._cells),
            "tasks": sum(cell.running for cell in self._cells.values()),
            "supervisors": len(self._branches) + 1,
            "handled": self._handled + sum(cell.mailbox.handled for cell in self._cells.values()),
            "asks_remote": self._wire.asks,
            **dict(sorted(self._counts.items())),
            "mailboxes": {
                path: {"waiting": len(cell.mailbox.items), "handled": cell.mailbox.handled, "starts": cell.turn}
                for path, cell in sorted(self._cells.items())
            },
        }

    def __repr__(self) -> str:
        return f"ActorSystem({self.node_id.short}, {len(self._cells)} actors)"
