"""Each rule of a transfer and of a cache's shelf has a mutant that breaks it, and a nemesis that must notice.

The real machines run under the very same seeds.
"""

import hashlib
from random import Random

import pytest
from kills import must_kill

from atoll.actors.image_exchange import transfer as module
from atoll.actors.image_exchange.errors import ShelfFull
from atoll.actors.image_exchange.shelf import Shelf, Shelved
from atoll.actors.image_exchange.transfer import Append, Ask, Complete, GiveUp, StartOver, Transfer
from atoll.transport.identity import NodeId

SEEDS = range(12)
CHUNK = 8
IMAGE_BYTES_MAX = 16 * CHUNK


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", CHUNK)


# Transfers


class TakesAnyDigest(Transfer):
    def take(self, data, *, last):
        effects = super().take(data, last=last)
        if last and not self.ended:
            self.ended = True
            return [Append(data), Complete(self.offset or len(data))]
        return effects


class BlamesWhoCameLast(Transfer):
    def _begin_anew(self):
        self.liars.append(self.source)
        self._sources.remove(self.source)
        return [*self._start_over(), *self._ask_next()]


class KeepsTheBytesOfALiar(Transfer):
    def _start_over(self):
        return []


class TakesChunksOfAnySize(Transfer):
    def take(self, data, *, last):
        if 0 < len(data) < CHUNK and not last:
            self._hash.update(data)
            self._givers.add(self.source)
            self.offset += len(data)
            return [Append(data), Ask(self.source, self.offset)]
        return super().take(data, last=last)


class AsksForEver(Transfer):
    def failed(self, why, *, for_good=False):
        self._failures.clear()
        return super().failed(why)


class BeginsAnewAfterEachFailure(Transfer):
    def failed(self, why, *, for_good=False):
        return [*self._start_over(), *super().failed(why, for_good=for_good)]


class TakesBytesWithoutEnd(Transfer):
    def __init__(self, digest, sources, *, bytes_max):
        super().__init__(digest, sources, bytes_max=1000 * bytes_max)


class GivesUpAtTheFirstFailure(Transfer):
    def failed(self, why, *, for_good=False):
        return super().failed(why, for_good=True)


def honest(image, _rng):
    return lambda offset: (
        (image[offset : offset + CHUNK], offset + CHUNK >= len(image)) if offset < len(image) else None
    )


def liar(_image, rng):
    return lambda offset: (rng.randbytes(CHUNK), rng.random() < 0.1)


def other_image(image, rng):
    return honest(rng.randbytes(len(image)), rng)


def stops_in_the_middle(image, rng):
    """Give wrong bytes for a while, then nothing more."""
    chunks = rng.randrange(1, 6)
    return lambda offset: (rng.randbytes(CHUNK), False) if offset < chunks * CHUNK else "no answer"


def dripping(_image, rng):
    return lambda _offset: (rng.randbytes(1), False)


def endless(_image, rng):
    return lambda _offset: (rng.randbytes(CHUNK), False)


def dead(_image, _rng):
    return lambda _offset: "no answer"


def hiccups(image, rng):
    """Be honest, and leave two questions without an answer."""
    mute = set(rng.sample(range(1, 10), 2))
    asked = iter(range(10**9))
    give = honest(image, rng)
    return lambda offset: "no answer" if next(asked) in mute else give(offset)


def violations_of_transfer(kind, sources, seed):
    """Run one transfer and say what went wrong; the last source is always there and honest, unless none is."""
    rng = Random(seed)
    image = rng.randbytes(rng.randrange(12 * CHUNK, IMAGE_BYTES_MAX))
    nodes = [NodeId(bytes([number]) * 32) for number in range(len(sources))]
    gives = {node: source(image, rng) for node, source in zip(nodes, sources, strict=True)}
    has_honest = bool({honest, hiccups} & set(sources))
    transfer = kind(hashlib.sha256(image).digest(), nodes, bytes_max=IMAGE_BYTES_MAX)
    written, todo, asked = b"", transfer.start(), 0
    while todo:
        effect, *todo = todo
        match effect:
            case Append(data):
                written += data
            case StartOver():
                written = b""
            case GiveUp():
                return ["gave up though one was honest"] if has_honest else []
            case Complete():
                return [] if written == image else ["kept a wrong image"]
            case Ask(source, offset):
                asked += 1
                # Every source may give all of it with bytes of others before and anew, and fail thrice.
                if asked > len(sources) * (2 * (IMAGE_BYTES_MAX // CHUNK) + 3):
                    return ["it never ends"]
                if set(sources) == {hiccups} and asked > len(image) // CHUNK + 1 + 2 * len(sources):
                    return ["asked again for what it had"]
                answer = gives[source](offset)
                if isinstance(answer, tuple):
                    todo = [*todo, *transfer.take(answer[0], last=answer[1])]
                else:
                    todo = [*todo, *transfer.failed(answer or "not there", for_good=answer is None)]
    return ["stuck"]


TRANSFERS = {
    TakesAnyDigest: (other_image, honest),
    BlamesWhoCameLast: (stops_in_the_middle, honest),
    KeepsTheBytesOfALiar: (other_image, honest),
    TakesChunksOfAnySize: (dripping, honest),
    AsksForEver: (dead,),
    BeginsAnewAfterEachFailure: (hiccups,),
    TakesBytesWithoutEnd: (endless,),
    GivesUpAtTheFirstFailure: (hiccups,),
}


@pytest.mark.parametrize("mutant", TRANSFERS)
def test_every_rule_of_a_transfer_is_needed(mutant):
    must_kill(mutant, SEEDS, lambda seed: violations_of_transfer(mutant, TRANSFERS[mutant], seed))


@pytest.mark.parametrize(
    "sources", tuple(dict.fromkeys(TRANSFERS.values())), ids=lambda each: ", ".join(one.__name__ for one in each)
)
def test_the_real_transfer_breaks_no_rule(sources):
    assert [(seed, bad) for seed in range(60) for bad in violations_of_transfer(Transfer, sources, seed)] == []


# Shelves


class LetsTheNewestGo(Shelf):
    def _evicted(self, images_max):
        self._kept = dict(reversed(self._kept.items()))
        gone = super()._evicted(images_max)
        self._kept = dict(reversed(self._kept.items()))
        return gone


class CountsOnlyWhatIsKept(Shelf):
    @property
    def total_bytes(self):
        return sum(each.size_bytes for each in self._kept.values())


class ForgetsThatItIsUsed(Shelf):
    def use(self, digest):
        pass


class KeepsAnyNumber(Shelf):
    def _evicted(self, images_max):
        return super()._evicted(10**9)


class LetsGoForWhatHasNoRoom(Shelf):
    def grow(self, digest, to_bytes):
        try:
            return super().grow(digest, to_bytes)
        except ShelfFull:
            self._kept.clear()
            raise


class MakesRoomForNothing(Shelf):
    def _evicted(self, images_max):
        return (*super()._evicted(images_max), *[self._kept.popitem()[0] for _ in range(bool(self._kept))])


SHELVES = (
    LetsTheNewestGo,
    CountsOnlyWhatIsKept,
    ForgetsThatItIsUsed,
    KeepsAnyNumber,
    LetsGoForWhatHasNoRoom,
    MakesRoomForNothing,
)


def violations_of_shelf(kind, seed):
    """Compare a shelf with the plainest one there is: a list of what was used last, and the bytes of files."""
    rng, shelf = Random(seed), kind(quota_bytes=100, images_max=5)
    files, order = {}, []
    for _ in range(120):
        digest = bytes([rng.randrange(12)]) * 32
        if digest in order and rng.random() < 0.6:
            shelf.use(digest)
            order = [*(each for each in order if each != digest), digest]
            continue
        size = rng.randrange(1, rng.choice((15, 50)))
        if rng.random() < 0.1:
            shelf.stop_growing(digest)
            files.pop((digest, "growing"), None)
            continue
        grows = rng.random() < 0.4
        try:
            gone = shelf.grow(digest, size) if grows else shelf.put(Shelved(digest, size, "x", "1"))
        except ShelfFull:
            files.pop((digest, "growing"), None)
            if not grows:
                files.pop((digest, "kept"), None)
                order = [each for each in order if each != digest]
            continue
        if not grows:
            order = [each for each in order if each != digest]
            files.pop((digest, "growing"), None)
            files.pop((digest, "kept"), None)
        if list(gone) != order[: len(gone)]:
            return ["let others go than the oldest"]
        before = sum(files.values()) - files.get((digest, "growing"), 0) + size
        if gone and before - sum(files[each, "kept"] for each in gone[:-1]) <= 100 and len(order) - len(gone) + 1 < 5:
            return ["let one go without need"]
        order = order[len(gone) :]
        for each in gone:
            del files[each, "kept"]
        files[digest, "growing" if grows else "kept"] = size
        order += [] if grows else [digest]
        if sum(files.values()) > 100 or len(order) > 5:
            return ["beyond its limits"]
    return []


@pytest.mark.parametrize("mutant", SHELVES)
def test_every_rule_of_a_shelf_is_needed(mutant):
    must_kill(mutant, SEEDS, lambda seed: violations_of_shelf(mutant, seed))


def test_the_real_shelf_breaks_no_rule():
    assert [(seed, bad) for seed in range(200) for bad in violations_of_shelf(Shelf, seed)] == []
