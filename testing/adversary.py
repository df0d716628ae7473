"""What all adversaries have: they choose one step after another, and letters that they deliver as they please.

    a letter: posted --> delivered, doubled, held back while its ends are parted, or dropped when there are too many

A subclass has a method for each step that its odds name, and says who takes a letter. Where chance can break a rule
only in a certain order, an opening plays the moves up to there by hand.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, TypeVar

from atoll.actors.runtime.machine import Seconds
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

DOUBLES = 0.1
"""Of all letters: come again, some time."""
HEALS = 0.5
"""How often nodes are brought together rather than parted."""


@dataclass(slots=True)
class Letter:
    """A message on its way."""

    sender: NodeId
    target: NodeId
    message: Message
    path: str = ""


class Adversary(ABC):
    """One game; `violations` are what the machines did wrong."""

    step_s_max: ClassVar[Seconds]
    letters_max: ClassVar[int]
    """On their way at once; more are dropped."""
    hurry: ClassVar[float]
    """How often the newest letter comes first."""

    def __init__(self, seed: str, odds: Mapping[str, float]) -> None:
        """Prepare a game; `odds`: how often each step is chosen."""
        self.rng = Random(seed)
        self.now: Seconds = 0.0
        self.violations: list[str] = []
        self.letters: list[Letter] = []
        self.parted: set[tuple[NodeId, NodeId]] = set()
        """Letters from the first to the second wait."""
        self._steps = [getattr(self, f"_{name}") for name in odds]
        self._odds = list(odds.values())

    def play(self, steps: int) -> Sequence[str]:
        """Take so many steps, or until something is wrong."""
        for step in self.rng.choices(self._steps, self._odds, k=steps):
            self.now += self.rng.uniform(0, self.step_s_max)
            step()
            if self.violations:
                break
        return self.violations

    def violate(self, what: str) -> None:
        """Note what is wrong; the invariants call it too."""
        self.violations.append(what)

    def _post(self, letter: Letter) -> None:
        if len(self.letters) >= self.letters_max:
            del self.letters[self.rng.randrange(self.letters_max)]
        self.letters.append(letter)

    def _deliver(self) -> None:
        free = [at for at, letter in enumerate(self.letters) if (letter.sender, letter.target) not in self.parted]
        if not free:
            return
        at = free[-1] if self.rng.random() < self.hurry else self.rng.choice(free)
        self._take(self.letters[at] if self.rng.random() < DOUBLES else self.letters.pop(at))

    @abstractmethod
    def _take(self, letter: Letter) -> None:
        """Hand a letter to whom it is for."""

    def _part_any(self, nodes: Iterable[NodeId]) -> None:
        """Let letters from one of the nodes to another wait, or come again."""
        sender, target = self.rng.choices(list(nodes), k=2)
        if self.rng.random() >= HEALS:
            self.parted.add((sender, target))
        elif self.parted:
            self.parted.discard(self.rng.choice(sorted(self.parted)))


A = TypeVar("A", bound=Adversary)


def game_lost(make: Callable[[int], A], opening: Callable[[A], None] | None, *, games: int, steps: int) -> list[str]:
    """Play until a game is lost; gives what was wrong in it, or nothing."""
    for game in range(games):
        adversary = make(game)
        if opening is not None:
            opening(adversary)
        if adversary.violations or adversary.play(steps):
            return [f"game {game}: {adversary.violations[0]}"]
    return []
