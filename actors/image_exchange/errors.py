"""What goes wrong with images of other members, in the container manager's tree: pulling ends in its checks.

NobodyHasIt     the caller's: no member in reach has an image of that name
SeveralHaveIt   the caller's: members have different ones under that name
NotDelivered    the members': none of those who have it gave it whole and right
"""

from atoll.actors.container_manager.errors import ContainerError, ImageNotThere, Taken


class NobodyHasIt(ImageNotThere):
    """No member that answered has it."""


class SeveralHaveIt(Taken):
    """It is not one image; `candidates` says which there are."""

    def __init__(self, text: str, candidates: list[str]) -> None:
        super().__init__(text)
        self.candidates = candidates


class NotDelivered(ContainerError):
    """Every source failed; the text says how each did."""

    status = 502


class ShelfFull(ContainerError):
    """The cache has no room for it, whatever it would let go."""

    status = 507
