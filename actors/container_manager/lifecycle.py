"""Decides what one container does: when it gets a worker, which calls it takes, and what follows when things go wrong.

    created      --StartOrdered-->              cold
    cold         --CallArrived-->               starting      Launch
    starting     --WorkerReady-->               running       Dispatch what waited (idle, when all of it left)
    starting     --WorkerEnded, too slow-->     backing off   Fail what waited
    running      --CallArrived-->               running       Dispatch, or Fail when too many are in hand
    running      --the last CallEnded-->        idle
    running      --a call overran-->            backing off   Fail it and its neighbours, EndWorker
    running      --WorkerEnded-->               backing off   Fail all
    idle         --CallArrived-->               running
    idle         --a while, Squeezed-->         cold          EndWorker: scaled to zero
    idle         --WorkerEnded-->               backing off
    backing off  --its delay-->                 cold          the delay is 0 for the first crash in a row
    any          --StopOrdered-->               stopped       Fail all, EndWorker
    stopped      --StartOrdered-->              cold
    any          --RemoveOrdered-->             removed       for good

A call has its time limit from its arrival; the worker itself stops it at the limit, and this machine ends the worker
when it has not by `GRACE_S` later. It must never hold a call without a timer: each call is answered by Dispatch and
what follows, or by Fail, once. A worker that `EndWorker` ends is not reported by `WorkerEnded` any more.
"""

import enum
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from atoll.actors.runtime.machine import Arm, Disarm, Seconds, TimerFired, insist

CALL_LIMIT_S = 20.0
CALL_LIMIT_MAX_S = 300.0
"""What an image may ask for with `MCM.MAX_EXECUTION_TIME_SEC`."""
GRACE_S = 0.5
"""How much later than the limit a worker that does not stop its call is ended."""
LAUNCH_S = 30.0
"""A container that has no worker by then has crashed; one takes 0.7 s on an idle host, 12 s where others keep it busy.
Calls give up before, by their own limits: that the host is slow is no crash of the service."""
IDLE_S = 60.0
CALLS_PER_CONTAINER_MAX = 32
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 30.0

CallId: TypeAlias = int


class State(enum.Enum):
    """See the diagram of the module."""

    CREATED = "created"
    COLD = "cold"
    STARTING = "starting"
    RUNNING = "running"
    IDLE = "idle"
    BACKING_OFF = "backing off"
    STOPPED = "stopped"
    REMOVED = "removed"


class StartOrdered(msgspec.Struct, frozen=True):
    """Its owner wants it to answer calls."""


class StopOrdered(msgspec.Struct, frozen=True):
    """Its owner wants it to answer none."""


class RemoveOrdered(msgspec.Struct, frozen=True):
    """Its owner wants it gone."""


class CallArrived(msgspec.Struct, frozen=True):
    """Somebody calls; the id is new."""

    call: CallId


class CallEnded(msgspec.Struct, frozen=True):
    """A call that was dispatched is answered, by a reply or by the service's own fault; or its caller left."""

    call: CallId
    answered: bool = True
    """The service answered well: it counts as sound again."""


class WorkerReady(msgspec.Struct, frozen=True):
    """The worker has loaded the program."""


class WorkerEnded(msgspec.Struct, frozen=True):
    """The worker died, or it could not be started or load the program."""

    reason: str


class Squeezed(msgspec.Struct, frozen=True):
    """Another container needs the room of an idle one."""


class Launch(msgspec.Struct, frozen=True):
    """Start a worker and load the program into it; answer with `WorkerReady` or `WorkerEnded`."""


class EndWorker(msgspec.Struct, frozen=True):
    """End the worker now, also when it is only being started, and report nothing more of it."""

    reason: str


class Dispatch(msgspec.Struct, frozen=True):
    """Hand the call to the worker."""

    call: CallId


class Fail(msgspec.Struct, frozen=True):
    """Answer the call with a fault of `errors.FAULTS`."""

    call: CallId
    fault: str
    reason: str


Fact: TypeAlias = (
    StartOrdered
    | StopOrdered
    | RemoveOrdered
    | CallArrived
    | CallEnded
    | WorkerReady
    | WorkerEnded
    | Squeezed
    | TimerFired
)
Effect: TypeAlias = Launch | EndWorker | Dispatch | Fail | Arm | Disarm

_WITH_WORKER = (State.STARTING, State.RUNNING, State.IDLE)


class Limits(msgspec.Struct, frozen=True):
    """What a container may take; seconds and counts."""

    call_s: Seconds = CALL_LIMIT_S
    idle_s: Seconds = IDLE_S
    launch_s: Seconds = LAUNCH_S
    calls_max: int = CALLS_PER_CONTAINER_MAX


def call_limit(asked: str | None, default: Seconds = CALL_LIMIT_S) -> Seconds:
    """Read `MCM.MAX_EXECUTION_TIME_SEC`: more or less than the default, but not above the cap.

    Raises:
        ValueError: It is no positive number.
    """
    if asked is None:
        return default
    seconds = float(asked)
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{asked!r} is no time limit: give seconds, such as 20")
    return min(seconds, CALL_LIMIT_MAX_S)


@dataclass(slots=True)
class Lifecycle:
    """One container's life; see the diagram of the module."""

    limits: Limits = field(default_factory=Limits)
    state: State = State.CREATED
    waiting: list[CallId] = field(default_factory=list)
    """Calls that arrived before the worker was ready, oldest first."""
    running: list[CallId] = field(default_factory=list)
    crashes: int = 0
    """In a row; a good answer sets it to 0."""
    retry_at: Seconds = 0.0

    def handle(self, fact: Fact, now: Seconds) -> list[Effect]:  # noqa: C901, PLR0911 - one line for each fact
        """Take one fact; `now` is monotonic."""
        match fact:
            case CallArrived(call):
                return self._arrived(call, now)
            case CallEnded(call, answered):
                return self._ended(call, answered=answered)
            case WorkerReady():
                return self._ready()
            case WorkerEnded(reason):
                return self._crashed(reason, now) if self.state in _WITH_WORKER else []
            case TimerFired(name):
                return self._fired(name, now)
            case StartOrdered():
                if self.state in (State.CREATED, State.STOPPED):
                    self.state, self.crashes = State.COLD, 0
                return []
            case StopOrdered():
                return [] if self.state is State.REMOVED else self._halt(State.STOPPED, "the container is stopped")
            case RemoveOrdered():
                return self._halt(State.REMOVED, "the container is removed")
            case Squeezed():
                return self._scale_to_zero("another container needs the room")

    def _arrived(self, call: CallId, now: Seconds) -> list[Effect]:
        if self.state in (State.CREATED, State.STOPPED, State.REMOVED):
            return [Fail(call, "busy", f"the container is {self.state.value}; start it first")]
        if self.state is State.BACKING_OFF:
            wait = max(0.0, self.retry_at - now)
            return [Fail(call, "busy", f"it crashed {self.crashes} times in a row; it is tried again in {wait:.1f} s")]
        if len(self.waiting) + len(self.running) >= self.limits.calls_max:
            return [Fail(call, "busy", f"{self.limits.calls_max} calls are in hand already, which is the limit")]
        effects: list[Effect] = [Arm(f"call:{call}", self.limits.call_s + GRACE_S)]
        if self.state in (State.IDLE, State.RUNNING):
            if self.state is State.IDLE:
                effects.append(Disarm("idle"))
            self.state = State.RUNNING
            self.running.append(call)
            return [*effects, Dispatch(call)]
        self.waiting.append(call)
        if self.state is State.COLD:
            self.state = State.STARTING
            effects += [Arm("launch", self.limits.launch_s), Launch()]
        return effects

    def _ready(self) -> list[Effect]:
        if self.state is not State.STARTING:
            return []
        effects: list[Effect] = [Disarm("launch")]
        self.running, self.waiting = self.waiting, []
        self.state = State.RUNNING
        effects += [Dispatch(call) for call in self.running]
        return effects if self.running else [*effects, *self._rest()]

    def _ended(self, call: CallId, *, answered: bool) -> list[Effect]:
        if answered:
            self.crashes = 0
        if call in self.waiting:
            self.waiting.remove(call)
            return [Disarm(f"call:{call}")]
        if call not in self.running:
            return []
        self.running.remove(call)
        effects: list[Effect] = [Disarm(f"call:{call}")]
        return effects if self.running else [*effects, *self._rest()]

    def _rest(self) -> list[Effect]:
        self.state = State.IDLE
        return [Arm("idle", self.limits.idle_s)]

    def _fired(self, name: str, now: Seconds) -> list[Effect]:
        if name == "idle":
            return self._scale_to_zero("nobody called it for a while")
        if name == "backoff" and self.state is State.BACKING_OFF:
            self.state = State.COLD
        if name == "launch" and self.state is State.STARTING:
            reason = f"its worker was not ready within {self.limits.launch_s:g} s"
            return [EndWorker(reason), *self._crashed(reason, now)]
        if name.startswith("call:"):
            return self._overran(int(name[5:]), now)
        return []

    def _overran(self, call: CallId, now: Seconds) -> list[Effect]:
        limit = f"{self.limits.call_s:g} s"
        if call in self.waiting:
            self.waiting.remove(call)
            return [Fail(call, "overran", f"the call waited longer than its time limit of {limit}")]
        if call not in self.running:
            return []
        self.running.remove(call)
        reason = f"a call did not end within its time limit of {limit}"
        return [
            Fail(call, "overran", f"the call took longer than its time limit of {limit}"),
            EndWorker(reason),
            *self._crashed(reason, now),
        ]

    def _crashed(self, reason: str, now: Seconds) -> list[Effect]:
        effects = self._clear("crashed", reason)
        self.crashes += 1
        if self.crashes == 1:
            self.state = State.COLD
            return effects
        delay = min(BACKOFF_FIRST_S * 2.0 ** min(self.crashes - 2, 30), BACKOFF_MAX_S)
        self.state, self.retry_at = State.BACKING_OFF, now + delay
        return [*effects, Arm("backoff", delay)]

    def _scale_to_zero(self, reason: str) -> list[Effect]:
        if self.state is not State.IDLE:
            return []
        self.state = State.COLD
        return [Disarm("idle"), EndWorker(reason)]

    def _halt(self, state: State, reason: str) -> list[Effect]:
        effects = self._clear("busy", reason)
        if self.state in _WITH_WORKER:
            effects.append(EndWorker(reason))
        self.state, self.crashes = state, 0
        return effects

    def _clear(self, fault: str, reason: str) -> list[Effect]:
        """Answer every call in hand and stop every timer."""
        calls = [*self.running, *self.waiting]
        self.running, self.waiting = [], []
        effects: list[Effect] = []
        for call in calls:
            effects += [Disarm(f"call:{call}"), Fail(call, fault, reason)]
        return [*effects, Disarm("launch"), Disarm("idle"), Disarm("backoff")]

    def check(self) -> None:
        """Assert the invariants."""
        insist(not self.waiting or self.state is State.STARTING, "only a starting container lets calls wait")
        insist(bool(self.running) == (self.state is State.RUNNING), "it runs exactly while it has calls")
        insist(not set(self.waiting) & set(self.running), "a call is in one place")
        insist(len(self.waiting) + len(self.running) <= self.limits.calls_max, "too many calls")
