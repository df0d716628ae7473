"""A user's folder that gets blobs: whole and right, or nothing; never another file's place."""

import errno
import fcntl
import os
from random import Random

import pytest

from atoll.actors.blobs import manifest
from atoll.cli.inbox import Inbox
from atoll.cli.output import Failed
from atoll.testing.blob_world import manifest_of

CHUNK = 64
DATA = Random(3).randbytes(5 * CHUNK + 3)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(manifest, "CHUNK_BYTES_MIN", CHUNK)


def fill(folder, name="a.txt", data=DATA, pieces=70, claimed=None):
    listed = manifest_of(data if claimed is None else claimed)
    with Inbox(folder, name, listed.digest, listed.size_bytes) as inbox:
        for at in range(0, len(data), pieces):
            inbox.append(data[at : at + pieces])
        return inbox.place()


@pytest.mark.parametrize("data", [b"", b"x", DATA[:CHUNK], DATA], ids=len)
@pytest.mark.parametrize("pieces", [1, CHUNK, 1000])
def test_a_blob_gets_its_name_when_it_is_whole(tmp_path, data, pieces):
    assert fill(tmp_path, data=data, pieces=pieces) == tmp_path / "a.txt"
    assert (tmp_path / "a.txt").read_bytes() == data
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_nothing_is_overwritten(tmp_path):
    names = ("a.txt", "a-2.txt", "README", "archive.tar.gz")
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "link").symlink_to("nowhere")
    placed = [fill(tmp_path, name).name for name in ("a.txt", "README", "archive.tar.gz", "link")]
    assert placed == ["a-3.txt", "README-2", "archive.tar-2.gz", "link-2"]
    assert all((tmp_path / name).read_bytes() == b"mine" for name in names)


def test_a_long_name_leaves_room_for_a_number(tmp_path):
    name = "ü" * 125 + ".jpeg"
    fill(tmp_path, name)
    placed = fill(tmp_path, name, data=b"another").name
    assert placed.endswith("ü-2.jpeg")
    assert len(placed.encode()) <= 255


def test_what_is_there_already_is_not_doubled(tmp_path):
    fill(tmp_path)
    assert fill(tmp_path) == tmp_path / "a.txt"
    assert len(list(tmp_path.iterdir())) == 1


WRONG = {"nothing": b"", "short": DATA[:-1], "long": DATA + b"x", "end": DATA[:-1] + b"?", "begin": b"?" + DATA[1:]}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_what_is_not_the_blob_gets_no_name(tmp_path, data):
    with pytest.raises(Failed, match="its digest is another"):
        fill(tmp_path, data=data, claimed=DATA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "", ".", "..", ".bashrc", "a\0b", "a/b", "nul", "x" * 300])
def test_a_name_that_leads_elsewhere_is_refused_here_too(tmp_path, name):
    folder = tmp_path / "inbox"
    folder.mkdir()
    with pytest.raises(Failed, match="is refused"):
        fill(folder, name)
    assert sorted(tmp_path.rglob("*")) == [folder]


def test_where_there_are_no_links_nothing_is_overwritten_either(tmp_path, monkeypatch):
    def link(*_arguments, **_more):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "a.txt").write_bytes(b"mine")
    assert fill(tmp_path).name == "a-2.txt"
    assert (tmp_path / "a-2.txt").read_bytes() == DATA
    assert len(list(tmp_path.iterdir())) == 2


def test_a_symbolic_link_in_the_way_of_the_unfinished_file_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / f".atoll-{manifest_of(DATA).digest.hex()[:32]}.part").symlink_to(victim)
    with pytest.raises(Failed, match="cannot be written"):
        fill(folder)
    assert victim.read_bytes() == b"mine"


def adopt(folder, source, data=DATA, name="a.txt"):
    listed = manifest_of(data)
    with Inbox(folder, name, listed.digest, listed.size_bytes) as inbox:
        if not inbox.adopt(source):
            return None
        return inbox.place()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "node" / "x.blob"
    path.parent.mkdir()
    path.write_bytes(DATA)
    path.chmod(0o600)
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "inbox"
    path.mkdir()
    return path


def test_a_file_of_this_host_gets_a_second_name_instead_of_a_copy(source, folder):
    target = adopt(folder, source)
    assert target.read_bytes() == DATA
    assert target.stat().st_ino == source.stat().st_ino
    os.umask(umask := os.umask(0))
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask, "it is the user's now"
    assert [each.name for each in folder.iterdir()] == ["a.txt"]


def test_a_file_on_another_disk_is_copied(source, folder, monkeypatch):
    real = os.link

    def link(one, other, **more):
        if one == source:
            raise OSError(errno.EXDEV, "another disk")
        return real(one, other, **more)

    monkeypatch.setattr(os, "link", link)
    target = adopt(folder, source)
    assert target.read_bytes() == DATA
    assert target.stat().st_ino != source.stat().st_ino
    assert [each.name for each in folder.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_a_file_that_is_not_the_blob_is_left_alone_and_the_node_asked(source, folder, data):
    source.write_bytes(data)
    listed = manifest_of(DATA)
    with Inbox(folder, "a.txt", listed.digest, listed.size_bytes) as inbox:
        assert not inbox.adopt(source)
        inbox.append(DATA)
        assert inbox.place().read_bytes() == DATA
    assert source.read_bytes() == data
    assert [each.name for each in folder.iterdir()] == ["a.txt"]


def test_what_cannot_be_read_from_here_is_asked_of_the_node(source, folder):
    link = source.with_name("link")
    link.symlink_to(source)
    assert [adopt(folder, each) for each in (source.with_name("none"), source.parent, link)] == [None] * 3
    assert list(folder.iterdir()) == []


def test_two_commands_do_not_write_the_same_blob(tmp_path):
    part = tmp_path / f".atoll-{manifest_of(DATA).digest.hex()[:32]}.part"
    with part.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Failed, match="another command"):
            fill(tmp_path)
    assert fill(tmp_path).name == "a.txt", "what a killed command left is no obstacle"


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    listed = manifest_of(DATA)

    def fsync(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with Inbox(tmp_path, "a", listed.digest, listed.size_bytes) as inbox:
        inbox.append(DATA)
        with pytest.raises(Failed, match="No space left"):
            inbox.place()
    assert list(tmp_path.iterdir()) == []
