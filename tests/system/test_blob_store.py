"""The cache's disk: what it keeps over a restart, what it finds damaged, and what it never takes in."""

import hashlib

import pytest

from atoll.actors.container_manager.errors import ImageRefused, StorageFault
from atoll.actors.image_exchange.blob_store import INDEX, BlobStore
from atoll.actors.image_exchange.errors import ShelfFull
from atoll.actors.image_exchange.messages import CHUNK_BYTES
from atoll.testing.services import ECHO, service_archive

ONE = service_archive("one", "1.0", ECHO + "\n// " + "1" * 400_000)
TWO = service_archive("two", "2.0", ECHO)


def digest_of(data):
    return hashlib.sha256(data).digest()


def file_of(folder, data):
    return folder / f"{digest_of(data).hex()}.tar"


def put(store, data, digest=None):
    with store.incoming(digest or digest_of(data)) as incoming:
        for at in range(0, len(data), CHUNK_BYTES):
            incoming.append(data[at : at + CHUNK_BYTES])
        incoming.keep()


def read(store, data):
    digest, got, last = digest_of(data), b"", False
    while not last:
        found = store.read(digest, len(got))
        if found is None:
            return None
        part, last = found
        got += part
    return got


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def names(store):
    return [each.name for each in store.shelf.images()]


def test_what_is_kept_is_read_back_and_found_by_name(folder):
    with BlobStore(folder) as store:
        put(store, ONE)
        put(store, TWO)
        assert read(store, ONE) == ONE
        assert read(store, b"nothing") is None
        assert store.read(digest_of(ONE), len(ONE)) is None
        (held,) = store.find("two")
        assert (held.client, held.version, held.digest, held.size_bytes) == ("", "2.0", digest_of(TWO), len(TWO))
        assert store.find("two", "1.0") == store.find("three") == ()


def test_it_is_there_again_after_a_restart_and_what_nobody_knows_is_removed(folder):
    with BlobStore(folder) as store:
        put(store, ONE)
        put(store, TWO)
    (folder / ("0" * 64 + ".tar")).write_bytes(b"left by a crash")
    (folder / "x.incoming").write_bytes(b"half of one")
    with BlobStore(folder) as store:
        assert names(store) == ["one", "two"]
        assert read(store, ONE) == ONE
        assert sorted(each.name for each in folder.iterdir()) == sorted(
            [INDEX, file_of(folder, ONE).name, file_of(folder, TWO).name]
        )


def test_bytes_that_changed_on_the_disk_are_never_given_away(folder):
    with BlobStore(folder) as store:
        put(store, ONE)
        put(store, TWO)
    data = bytearray(ONE)
    data[len(data) // 2] ^= 1
    file_of(folder, ONE).write_bytes(data)
    with BlobStore(folder) as store:
        assert not store.holds(digest_of(ONE))
        assert store.read(digest_of(ONE), 0) is None
        assert store.counts["damaged"] == 1
        assert not file_of(folder, ONE).exists()
        assert read(store, TWO) == TWO
    with BlobStore(folder) as store:
        assert names(store) == ["two"]


@pytest.mark.parametrize("change", ["cut", "gone", "link"])
def test_a_file_that_is_not_what_it_was_is_forgotten(folder, change):
    with BlobStore(folder) as store:
        put(store, ONE)
    file = file_of(folder, ONE)
    data = file.read_bytes()
    file.unlink()
    if change == "cut":
        file.write_bytes(data[:-1])
    elif change == "link":
        (folder.parent / "elsewhere").write_bytes(data)
        file.symlink_to(folder.parent / "elsewhere")
    with BlobStore(folder) as store:
        assert not store.holds(digest_of(ONE))
        assert store.read(digest_of(ONE), 0) is None


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "images": []}',
        b'{"version": 1, "images": [{"digest": "AA==", "size_bytes": 1, "name": "x", "version": "1"}]}',
        b'{"version": 1, "images": [{"digest": "../x", "size_bytes": 1, "name": "x", "version": "1"}]}',
        b'{"version": 1, "images": [' + b" " * 300_000 + b"]}",
    ],
)
def test_a_damaged_index_empties_the_cache_and_nothing_else(folder, index):
    with BlobStore(folder) as store:
        put(store, ONE)
    (folder / INDEX).write_bytes(index)
    with BlobStore(folder) as store:
        assert names(store) == []
        assert not file_of(folder, ONE).exists()
        put(store, ONE)
        assert read(store, ONE) == ONE


def test_a_smaller_quota_than_before_lets_the_oldest_go(folder):
    with BlobStore(folder) as store:
        put(store, ONE)
        put(store, TWO)
    with BlobStore(folder, quota_bytes=len(TWO) + 10) as store:
        assert names(store) == ["two"]
        assert not file_of(folder, ONE).exists()


def test_what_is_let_go_is_gone_from_the_disk_before_more_is_written(folder):
    with BlobStore(folder, quota_bytes=len(ONE) + 10) as store:
        put(store, ONE)
        with store.incoming(digest_of(TWO)) as incoming:
            incoming.append(TWO)
            assert not file_of(folder, ONE).exists()
            incoming.keep()
        assert names(store) == ["two"]
        assert store.counts["evicted"] == 1


def test_what_has_no_room_or_is_not_kept_leaves_nothing(folder):
    with BlobStore(folder, quota_bytes=len(ONE) - 1) as store:
        with pytest.raises(ShelfFull):
            put(store, ONE)
        with store.incoming(digest_of(TWO)) as incoming:
            incoming.append(TWO[:100])
            incoming.start_over()
        assert store.shelf.total_bytes == 0
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("data", [b"x", b"no tar" * 1000, ONE[:-100_000]], ids=["x", "text", "cut"])
def test_what_no_node_takes_is_not_kept_whatever_its_digest(folder, data):
    with BlobStore(folder) as store:
        with pytest.raises(ImageRefused):
            put(store, data)
        assert names(store) == []
        assert list(folder.glob("*.tar")) == []


def test_bytes_of_another_digest_are_not_kept(folder):
    with BlobStore(folder) as store:
        with pytest.raises(ImageRefused, match="another digest"):
            put(store, TWO, digest_of(ONE))
        assert list(folder.iterdir()) == []


def test_a_folder_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "real")
    with pytest.raises(StorageFault, match="symbolic link"):
        BlobStore(tmp_path / "cache")
