"""The durable actor of the lab: it counts, so that each of its replies shows what was lost or doubled."""

import msgspec

from atoll.actors.hand_over.migratable import DurableActor
from atoll.actors.runtime import handles

LEDGER = "ledger"


class Add(msgspec.Struct):
    """Count one more of this client."""

    client: str


class Tally(msgspec.Struct):
    """How many were counted, in all and of this client."""

    total: int
    own: int


class Fill(msgspec.Struct):
    """Let the state have that size, and the counts."""

    ballast: bytes


class Books(msgspec.Struct):
    """The state."""

    total: int
    of: dict[str, int]
    ballast: bytes


class Ledger(DurableActor):
    """Counts."""

    def __init__(self) -> None:
        self.books = Books(0, {}, b"")

    @handles
    async def add(self, message: Add) -> Tally:
        """Count."""
        books = self.books
        books.total += 1
        books.of[message.client] = books.of.get(message.client, 0) + 1
        return Tally(books.total, books.of[message.client])

    @handles
    async def fill(self, message: Fill) -> int:
        """Grow, and give the new size."""
        self.books.ballast += message.ballast
        return len(self.books.ballast)

    def snapshot(self) -> Books:
        """Give both counts and the ballast."""
        return self.books

    def restore(self, state: Books) -> None:
        """Take them."""
        self.books = state
