"""The table of places: which generation of which exclusive actor is where.

    no place      --swap, expecting none-->                   the first generation that is not retired: 1, at first
    generation g  --swap, expecting exactly that-->           generation g + 1
    generation g  --removal, expecting exactly that-->        no place, and all up to g + 1 are retired
    generation g  --a person has reformed the site-->         a generation above all that the site before can reach

A generation rises by exactly one with each swap, so the generations of an actor form one chain. It must never take a
swap that expects anything else than what stands there: whoever asks has not seen the last one.

Why one number is enough of a tombstone. Whatever a removed actor's old owner may still ask for expects a generation of
at most g, and wants one of at most g + 1; a resource that it commands has seen no higher fence than g. An actor of the
same name, and any other, begins above g + 1: so none of these swaps is ever done, none of them can be mistaken for the
new place, and every resource refuses the old owner as soon as it has heard of the new. A list of tombstones would grow,
or forget. The price: new actors begin with higher generations than 1, which mean nothing by themselves.
"""

from collections.abc import Iterable
from typing import TypeAlias

from atoll.actors.elector.roster import FIRST_INCARNATION
from atoll.actors.placement.messages import ACTORS_MAX, GENERATION_MAX, ActorPlace, Placed, RemovePlace, SwapPlace

Change: TypeAlias = SwapPlace | RemovePlace
REFORM_BITS = 20
"""Of generations in one incarnation of a site; one more swap a second would take twelve days."""
DRAWN_BITS_LEFT_OUT = 12
"""Of an incarnation, so that four thousand reforms have room below `GENERATION_MAX`."""


class PlaceTable:
    """One version of the table; copy it to make the next."""

    def __init__(self, places: Iterable[ActorPlace] = (), retired: int = 0) -> None:
        listed = tuple(places)
        self._placed = {each.actor: each.placed for each in listed}
        self._founded = {each.actor: each.founded for each in listed}
        self.retired = retired
        """Generations up to this are used up by what was removed."""

    def __len__(self) -> int:
        return len(self._placed)

    @property
    def first(self) -> int:
        """Give the generation that a new actor begins with."""
        return self.retired + 1

    def first_of(self, actor: str) -> int:
        """Give the generation that this actor would begin with; 0 where it has a place."""
        return 0 if actor in self._placed else self.first

    def find(self, actor: str) -> Placed | None:
        """Give where an actor is; None where it has no place."""
        return self._placed.get(actor)

    def founded(self, actor: str) -> int:
        """Give the generation in which an actor got its first place; 0 where that is not known, or it has none."""
        return self._founded.get(actor, 0)

    def places(self) -> tuple[ActorPlace, ...]:
        """Give all, sorted by name."""
        return tuple(ActorPlace(actor, self._placed[actor], self._founded[actor]) for actor in sorted(self._placed))

    def copy(self) -> "PlaceTable":
        """Make one that can be changed without changing this."""
        return type(self)(self.places(), self.retired)

    def as_expected(self, change: Change) -> bool:
        """Tell whether exactly what is expected stands there: generation, host and stores."""
        return self._placed.get(change.actor) == change.expected

    def refusal(self, change: Change) -> str:
        """Say why this change cannot be; empty when it can."""
        current, expected = self._placed.get(change.actor), change.expected
        if isinstance(change, SwapPlace) and (fault := self._fault(change)):
            return fault
        if not self.as_expected(change):
            return f"{describe(current)} stands there, not {describe(expected)}"
        if current is None and len(self._placed) >= ACTORS_MAX:
            return f"{ACTORS_MAX} exclusive actors have a place already, which is the limit of a site: remove one"
        return ""

    def _fault(self, swap: SwapPlace) -> str:
        expected, wanted = swap.expected, swap.wanted
        after = self.first if expected is None else expected.generation + 1
        if wanted.generation != after:
            what = "what is expected is followed by" if expected else "a new actor begins with"
            return f"generation {wanted.generation} is wanted, and {what} {after}"
        return "a store is named twice" if len(set(wanted.stores)) != len(wanted.stores) else ""

    def never(self, change: Change) -> bool:
        """Tell whether a change that is refused was not done before either: an ask may come twice."""
        current = self._placed.get(change.actor)
        if isinstance(change, RemovePlace):
            # Behind a removal a generation is left out: so one that follows at once shows that there was none.
            return current is not None and current.generation <= change.expected.generation + 1
        if current is None:
            return self.was_never(change.wanted)
        if current.generation < change.wanted.generation:
            return True
        return current.generation == change.wanted.generation and current != change.wanted

    def was_never(self, wanted: Placed) -> bool:
        """Tell whether what has no place now never had this one: else its removal has retired it."""
        return wanted.generation > self.retired

    def change(self, change: Change) -> None:
        """Put what is wanted there, or nothing; ask for the `refusal` first."""
        if isinstance(change, SwapPlace):
            if change.expected is None:
                self._founded[change.actor] = change.wanted.generation
            self._placed[change.actor] = change.wanted
        else:
            del self._placed[change.actor], self._founded[change.actor]
            self.retired = self.retired_by(change.expected)

    def lift(self, before: int, after: int) -> None:
        """Raise the generation of each place: the site was reformed, from incarnation `before` to `after`.

        This copy may be older than what the voters did that were given up, and these may come back: whoever owns an
        actor by their word must find that it is over. The higher incarnation wins, and has the higher generations.
        Which generation new actors begin with stays: an actor that this copy does not know may still have its log.
        """
        above = max(0, floor_of(after) - floor_of(before))
        self._placed = {
            actor: Placed(placed.generation + above, placed.host, placed.stores)
            for actor, placed in self._placed.items()
        }

    def retired_by(self, removed: Placed) -> int:
        """Say which generations are used up with that removal: a swap of its owner may be on its way, to the next."""
        return max(self.retired, removed.generation + 1)


def floor_of(incarnation: int) -> int:
    """Give the generation above which those of that incarnation of a site are; it rises with incarnations."""
    floor = max(0, incarnation - FIRST_INCARNATION) >> DRAWN_BITS_LEFT_OUT << REFORM_BITS
    # Who makes up an incarnation has the site's secret, and must not bring up what cannot be written down all the same.
    return min(floor, GENERATION_MAX // 2)


def describe(placed: Placed | None) -> str:
    """Say in words what stands in a place."""
    if placed is None:
        return "nothing"
    stores = f", stores {', '.join(store.short for store in placed.stores)}" if placed.stores else ""
    return f"generation {placed.generation} on {placed.host.short}{stores}"
