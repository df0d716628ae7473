"""A damaged index of images is set aside with everything it named, and the node goes on without images."""

import logging
from random import Random

import pytest

from atoll.actors.container_manager.errors import StorageFault
from atoll.actors.container_manager.images import DAMAGED_FOLDERS_MAX, INDEX, INDEX_BYTES_MAX, Images
from atoll.testing.damage import DAMAGES
from atoll.testing.services import ECHO, service_archive

ARCHIVE = service_archive("echo-v1", "1.0.0", ECHO)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    images = Images(folder)
    images.load([ARCHIVE], "client")
    images.close()
    return folder


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "deleted"])
def test_all_is_kept_aside_and_said_and_a_push_is_taken_again(damage, folder, caplog):
    kept = {file.name for file in folder.iterdir()}
    DAMAGES[damage](folder / INDEX, Random(1))
    with caplog.at_level(logging.ERROR):
        images = Images(folder)
    assert images.images == {}
    aside = folder.with_name("images.corrupt-1")
    assert {file.name for file in aside.iterdir()} == kept, "also what the index named"
    (said,) = caplog.messages
    assert str(folder / INDEX) in said
    assert str(aside) in said
    images.load([ARCHIVE], "client")
    images.close()
    again = Images(folder)
    assert list(again.images) == ["client-echo-v1"]
    again.close()


def test_an_index_that_is_too_long_to_be_read_is_damaged(folder):
    with (folder / INDEX).open("ab") as file:
        file.truncate(INDEX_BYTES_MAX + 1)
    Images(folder).close()
    assert folder.with_name("images.corrupt-1").is_dir()


def test_an_index_of_another_version_is_refused_and_left_where_it_is(folder):
    text = (folder / INDEX).read_text()
    (folder / INDEX).write_text(text.replace('"version":1', '"version":2', 1))
    with pytest.raises(StorageFault, match=r"written by another version \(2\); this one reads 1"):
        Images(folder)
    assert not folder.with_name("images.corrupt-1").exists()


def test_damage_again_and_again_does_not_fill_the_disk(folder):
    for number in range(1, DAMAGED_FOLDERS_MAX + 1):
        folder.with_name(f"images.corrupt-{number}").mkdir()
    (folder / INDEX).write_bytes(b"")
    with pytest.raises(StorageFault, match="look at the disk"):
        Images(folder)
