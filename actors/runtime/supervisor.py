"""Decides what happens when a supervised child ends; OTP's words and rules.

    one_for_one    start the child again, alone
    rest_for_one   stop the children started after it, last first, then start it and them again
    one_for_all    stop all children, last first, then start all of them again

    permanent      always started again
    transient      only after a crash
    temporary      never; when a sibling's crash takes it down, it stays down too

More than `intensity` restarts within `period_s` are not healed by another one: the supervisor itself ends and leaves
the decision to its own supervisor. Nothing is started, stopped or timed here; `branch.py` does what is decided.
From the Erlang/OTP design principles, "Supervisor Behaviour".
"""

import enum
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from atoll.actors.runtime.machine import Seconds
from atoll.actors.runtime.mailbox import MAILBOX_MAX
from atoll.transport.errors import UsageError

INTENSITY = 3
PERIOD_S = 5.0
"""Elixir's defaults. OTP's own (1 in 5 s) gives up on two unlucky crashes."""


class Strategy(enum.Enum):
    """Whom a child's end concerns."""

    ONE_FOR_ONE = "one_for_one"
    REST_FOR_ONE = "rest_for_one"
    ONE_FOR_ALL = "one_for_all"


class Restart(enum.Enum):
    """Which ends of a child are healed by starting it again."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"


class Ending(enum.Enum):
    """How a child ended."""

    NORMAL = "normal"
    """By itself: its work is done."""
    ORDERED = "ordered"
    """Somebody stopped it on purpose."""
    CRASHED = "crashed"


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One actor to supervise; `factory` makes a fresh one for every start."""

    name: str
    factory: Callable[[], Any]
    restart: Restart = Restart.PERMANENT
    mailbox_max: int = MAILBOX_MAX


class SupervisorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Children to start in order and to keep alive; ended last first. May hold further supervisors.

    When the supervisor itself is started again, exactly these children come back, not those spawned later.
    """

    name: str
    children: "Sequence[ChildSpec | SupervisorSpec]" = ()
    strategy: Strategy = Strategy.ONE_FOR_ONE
    restart: Restart = Restart.PERMANENT
    intensity: int = INTENSITY
    period_s: Seconds = PERIOD_S


class Forget(msgspec.Struct, frozen=True):
    """The child is gone for good."""

    name: str


class RestartChildren(msgspec.Struct, frozen=True):
    """Stop these, in this order; then start those, in that order; `forget` (stopped, temporary) stay down."""

    stop: tuple[str, ...]
    start: tuple[str, ...]
    forget: tuple[str, ...] = ()


class Escalate(msgspec.Struct, frozen=True):
    """Stop all children, last first, and end; the supervisor above decides."""

    reason: str


Decision: TypeAlias = Forget | RestartChildren | Escalate


class Supervision:
    """The decisions of one supervisor about children known by name, in the order of their start."""

    def __init__(self, strategy: Strategy, *, intensity: int = INTENSITY, period_s: Seconds = PERIOD_S) -> None:
        if intensity < 0 or period_s <= 0:
            raise UsageError(f"a supervisor allows {intensity} restarts in {period_s} s: neither may be negative")
        self.strategy = strategy
        self.intensity = intensity
        self.period_s = period_s
        self._children: dict[str, Restart] = {}
        self._restarted: deque[Seconds] = deque(maxlen=intensity + 1)

    @property
    def children(self) -> tuple[str, ...]:
        """The names, first started first."""
        return tuple(self._children)

    def add(self, name: str, restart: Restart) -> None:
        """Supervise one more child, started last.

        Raises:
            UsageError: The name is taken.
        """
        if name in self._children:
            raise UsageError(f"{name} is supervised already; names are unique")
        self._children[name] = restart

    def remove(self, name: str) -> None:
        """Supervise it no longer; harmless when unknown."""
        self._children.pop(name, None)

    def child_ended(self, name: str, ending: Ending, now: Seconds) -> Decision:
        """Decide, and take what is decided as done.

        Raises:
            UsageError: No such child.
        """
        if name not in self._children:
            raise UsageError(f"{name} is not supervised here")
        if not self._heals(self._children[name], ending):
            self.remove(name)
            return Forget(name)
        self._restarted.append(now)
        while now - self._restarted[0] > self.period_s:
            self._restarted.popleft()
        if len(self._restarted) > self.intensity:
            return Escalate(
                f"{name} ended, and {self.intensity} restarts in {self.period_s:g} s are all that is allowed"
            )
        return self._restart(name)

    @staticmethod
    def _heals(restart: Restart, ending: Ending) -> bool:
        if ending is Ending.ORDERED or restart is Restart.TEMPORARY:
            return False
        return restart is Restart.PERMANENT or ending is Ending.CRASHED

    def _restart(self, name: str) -> RestartChildren:
        names = list(self._children)
        match self.strategy:
            case Strategy.ONE_FOR_ONE:
                affected = [name]
            case Strategy.REST_FOR_ONE:
                affected = names[names.index(name) :]
            case Strategy.ONE_FOR_ALL:
                affected = names
        stop = tuple(each for each in reversed(affected) if each != name)
        forget = tuple(each for each in stop if self._children[each] is Restart.TEMPORARY)
        for each in forget:
            self.remove(each)
        return RestartChildren(stop, tuple(each for each in affected if each not in forget), forget)
