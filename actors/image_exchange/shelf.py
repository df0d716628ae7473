"""What a cache keeps, and what it lets go: the images used longest ago go first. Without I/O.

absent --grow, chunk by chunk--> growing --put--> kept, newest --use--> newest
                                 --stop_growing--> absent  kept --room is needed, drop--> absent

What is kept and what grows are never more than the quota together, after any call.
"""

import msgspec

from atoll.actors.image_exchange.errors import ShelfFull
from atoll.actors.runtime.machine import insist

QUOTA_BYTES = 512 * 1024 * 1024
IMAGES_MAX = 64


class Shelved(msgspec.Struct, frozen=True):
    """One image of a cache."""

    digest: bytes
    size_bytes: int
    name: str
    version: str


class Shelf:
    """The contents of one cache."""

    def __init__(self, *, quota_bytes: int = QUOTA_BYTES, images_max: int = IMAGES_MAX) -> None:
        self.quota_bytes = quota_bytes
        self._images_max = images_max
        self._kept: dict[bytes, Shelved] = {}
        """The one used longest ago first."""
        self._growing: dict[bytes, int] = {}

    @property
    def total_bytes(self) -> int:
        """Give the bytes of everything in it."""
        return sum(each.size_bytes for each in self._kept.values()) + sum(self._growing.values())

    def images(self) -> tuple[Shelved, ...]:
        """Give what is kept, the one used longest ago first."""
        return tuple(self._kept.values())

    def get(self, digest: bytes) -> Shelved | None:
        """Give an image, if it is kept."""
        return self._kept.get(digest)

    def use(self, digest: bytes) -> None:
        """Note that somebody reads it."""
        if (image := self._kept.pop(digest, None)) is not None:
            self._kept[digest] = image

    def grow(self, digest: bytes, to_bytes: int) -> tuple[bytes, ...]:
        """Make room for an image that has so many bytes by now; give what must go.

        Raises:
            ShelfFull: There is no room even without all that is kept; nothing of this one is counted any more.
        """
        self._growing[digest] = to_bytes
        if sum(self._growing.values()) > self.quota_bytes:
            del self._growing[digest]
            raise ShelfFull(
                f"the cache may take {self.quota_bytes} bytes, and has no room for {to_bytes} or more of this image"
            )
        return self._evicted(self._images_max)

    def put(self, image: Shelved) -> tuple[bytes, ...]:
        """Keep an image that has grown to its size; give what must go.

        Raises:
            ShelfFull: It is larger than the quota.
        """
        self._kept.pop(image.digest, None)
        gone = self.grow(image.digest, image.size_bytes) + self._evicted(self._images_max - 1)
        del self._growing[image.digest]
        self._kept[image.digest] = image
        return gone

    def stop_growing(self, digest: bytes) -> None:
        """Forget an image that comes no further; harmless when none of that digest grows."""
        self._growing.pop(digest, None)

    def drop(self, digest: bytes) -> None:
        """Forget an image that was kept."""
        self._kept.pop(digest, None)

    def check(self) -> None:
        """Assert what always holds."""
        insist(self.total_bytes <= self.quota_bytes, "a cache keeps its quota")
        insist(len(self._kept) <= self._images_max, "a cache keeps its number of images")
        insist(all(key == each.digest for key, each in self._kept.items()), "images are found by their digest")

    def _evicted(self, images_max: int) -> tuple[bytes, ...]:
        gone = []
        while self._kept and (self.total_bytes > self.quota_bytes or len(self._kept) > images_max):
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            gone.append(oldest)
        return tuple(gone)
