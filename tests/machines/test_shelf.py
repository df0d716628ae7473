"""What a cache keeps: never more than its quota, and the images used longest ago go first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.image_exchange.errors import ShelfFull
from atoll.actors.image_exchange.shelf import Shelf, Shelved


def image(number, size=10):
    return Shelved(bytes([number]) * 32, size, f"image-{number}", "1")


def shelf_with(*images, **limits):
    shelf = Shelf(**{"quota_bytes": 100, "images_max": 5, **limits})
    for each in images:
        shelf.put(each)
    return shelf


def names(shelf):
    return [each.name for each in shelf.images()]


def test_the_image_used_longest_ago_makes_room():
    shelf = shelf_with(image(1, 40), image(2, 40))
    shelf.use(image(1).digest)
    assert shelf.put(image(3, 30)) == (image(2).digest,)
    assert names(shelf) == ["image-1", "image-3"]


def test_room_is_made_while_an_image_grows_and_only_as_much_as_it_needs():
    shelf = shelf_with(image(1, 40), image(2, 40))
    assert shelf.grow(b"3" * 32, 20) == ()
    assert shelf.grow(b"3" * 32, 21) == (image(1).digest,)
    assert shelf.grow(b"3" * 32, 60) == ()
    assert shelf.grow(b"3" * 32, 61) == (image(2).digest,)


def test_what_others_let_grow_is_not_let_go_for_one_more():
    shelf = shelf_with()
    shelf.grow(b"1" * 32, 60)
    with pytest.raises(ShelfFull, match="100 bytes"):
        shelf.grow(b"2" * 32, 41)
    shelf.stop_growing(b"1" * 32)
    assert shelf.grow(b"2" * 32, 100) == ()


def test_an_image_larger_than_the_quota_is_refused_and_nothing_is_left_of_it():
    shelf = shelf_with(image(1))
    with pytest.raises(ShelfFull):
        shelf.put(image(2, 101))
    assert shelf.total_bytes == 10
    assert names(shelf) == ["image-1"]


def test_there_are_never_more_images_than_the_limit_says():
    shelf = shelf_with(*(image(number) for number in range(7)))
    assert names(shelf) == [f"image-{number}" for number in range(2, 7)]


def test_an_image_that_is_put_again_is_there_once():
    shelf = shelf_with(image(1), image(2), image(1, 20))
    assert names(shelf) == ["image-2", "image-1"]
    assert shelf.total_bytes == 30


DIGESTS = st.integers(0, 5).map(lambda number: bytes([number]) * 32)
STEPS = st.lists(st.tuples(st.sampled_from(["put", "grow", "stop", "use", "drop"]), DIGESTS, st.integers(1, 60)))


@given(STEPS)
def test_whatever_happens_the_quota_holds_and_what_went_was_the_oldest(steps):
    shelf = shelf_with(quota_bytes=100, images_max=3)
    for what, digest, size in steps:
        before = [each.digest for each in shelf.images()]
        gone = ()
        try:
            if what == "put":
                gone = shelf.put(Shelved(digest, size, "x", "1"))
            elif what == "grow":
                gone = shelf.grow(digest, size)
            else:
                {"stop": shelf.stop_growing, "use": shelf.use, "drop": shelf.drop}[what](digest)
        except ShelfFull:
            pass
        shelf.check()
        candidates = [each for each in before if each != digest or what == "grow"]
        assert list(gone) == candidates[: len(gone)]
