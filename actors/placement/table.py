"""The table of places: which generation of which exclusive actor is where.

    no place  --swap, expecting none-->                  generation 1
    generation g  --swap, expecting exactly that-->      generation g + 1

A generation rises by exactly one with each swap, so the generations of an actor form one chain. It must never take a
swap that expects anything else than what stands there: whoever asks has not seen the last one.
"""

from collections.abc import Iterable

from atoll.actors.placement.messages import ACTORS_MAX, ActorPlace, Placed, SwapPlace


class PlaceTable:
    """One version of the table; copy it to make the next."""

    def __init__(self, places: Iterable[ActorPlace] = ()) -> None:
        self._placed = {each.actor: each.placed for each in places}

    def __len__(self) -> int:
        return len(self._placed)

    def find(self, actor: str) -> Placed | None:
        """Give where an actor is; None where it never had a place."""
        return self._placed.get(actor)

    def places(self) -> tuple[ActorPlace, ...]:
        """Give all, sorted by name."""
        return tuple(ActorPlace(actor, self._placed[actor]) for actor in sorted(self._placed))

    def copy(self) -> "PlaceTable":
        """Make one that can be changed without changing this."""
        return type(self)(self.places())

    def as_expected(self, swap: SwapPlace) -> bool:
        """Tell whether exactly what the swap expects stands there: generation, host and stores."""
        return self._placed.get(swap.actor) == swap.expected

    def refusal(self, swap: SwapPlace) -> str:
        """Say why this swap cannot be; empty when it can."""
        current, expected, wanted = self._placed.get(swap.actor), swap.expected, swap.wanted
        after = 1 if expected is None else expected.generation + 1
        if wanted.generation != after:
            return f"generation {wanted.generation} is wanted, and what is expected is followed by {after}"
        if len(set(wanted.stores)) != len(wanted.stores):
            return "a store is named twice"
        if not self.as_expected(swap):
            return f"{describe(current)} stands there, not {describe(expected)}"
        if current is None and len(self._placed) >= ACTORS_MAX:
            return f"{ACTORS_MAX} exclusive actors have a place already, which is the limit of a site"
        return ""

    def never(self, swap: SwapPlace) -> bool:
        """Tell whether a swap that is refused was not done before either: an ask may come twice."""
        current, wanted = self._placed.get(swap.actor), swap.wanted
        if current is None or current.generation < wanted.generation:
            return True
        return current.generation == wanted.generation and current != wanted

    def swap(self, swap: SwapPlace) -> None:
        """Put what is wanted there; ask for the `refusal` first."""
        self._placed[swap.actor] = swap.wanted


def describe(placed: Placed | None) -> str:
    """Say in words what stands in a place."""
    if placed is None:
        return "nothing"
    stores = f", stores {', '.join(store.short for store in placed.stores)}" if placed.stores else ""
    return f"generation {placed.generation} on {placed.host.short}{stores}"
