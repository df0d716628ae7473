"""Turn and turn about: what is compared is measured in rounds, so that a busy moment of the host hits all of it alike.

A round that is not counted comes first: it fills caches, grows buffers and wakes the processor. Who begins a round
changes from one to the next.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import ClassVar, Protocol, TypeAlias, TypeVar

_Result = TypeVar("_Result")

ROUNDS = 5
WARM_UP_PART = 0.3
"""How long the round that is not counted is, compared with the others."""

Progress: TypeAlias = Callable[[str], None]


def silent(_what: str) -> None:
    """Say nothing of the progress."""


class Named(Protocol):
    """Whatever the report calls by a name."""

    name: ClassVar[str]


_Named = TypeVar("_Named", bound=Named)


def turns_of(
    ways: Iterable[_Named], measure: Callable[[_Named, float], _Result], round_s: float
) -> dict[str, list[_Result]]:
    """Measure each by its name, as `turns` does."""
    return turns({way.name: partial(measure, way) for way in ways}, round_s)


def turns(ways: Mapping[str, Callable[[float], _Result]], round_s: float) -> dict[str, list[_Result]]:
    """Measure each way once a round, for `round_s`; give what each gave, the rounds in the same order for all."""
    results: dict[str, list[_Result]] = {way: [] for way in ways}
    for measure in ways.values():
        measure(round_s * WARM_UP_PART)
    names = list(ways)
    for number in range(ROUNDS):
        for way in (*names[number % len(names) :], *names[: number % len(names)]):
            results[way].append(ways[way](round_s))
    return results
