"""Keeps images by digest, and the index of images and containers.

    upload --spooled and hashed, bounded--> archive.py --accepted--> `<digest>.tar`, `<digest>.js` --> index
                                                       --refused--> nothing is left

The index is one file, replaced whole and fsynced, so a crash leaves the old one or the new one. A file that no entry
of the index names is removed at the next start. A damaged index costs a node its images and no more: the whole folder
is set aside as `images.corrupt-N`, and said. Everything here blocks; `Containers` calls it in a thread.
"""

import hashlib
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from atoll.actors.container_manager.archive import ARCHIVE_BYTES_MAX, NAME, PROGRAM_BYTES_MAX, read_program
from atoll.actors.container_manager.errors import (
    ImageNotThere,
    ImageRefused,
    LimitReached,
    SeveralImages,
    StorageFault,
    UsageFault,
)
from atoll.actors.container_manager.messages import NAME_CHARACTERS_MAX, ImageInfo
from atoll.actors.container_manager.vault import Vault

log = logging.getLogger("atoll.containers")

IMAGES_MAX = 256
QUOTA_BYTES = 1024 * 1024 * 1024
"""All archives and programs of a node."""
INDEX = "index.json"
INDEX_BYTES_MAX = 16 * 1024 * 1024
INDEX_VERSION = 1
DAMAGED_FOLDERS_MAX = 100


class _ProgramRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What belongs to a client, has a name, and runs a program."""

    client: str
    name: str
    runtime: str
    digest: str
    """Of the image: 64 hexadecimal digits."""
    created_ms: int
    program_digest: str = ""
    """SHA-256 of the program, which is looked at before each use; empty in records of older versions."""

    @property
    def id(self) -> str:
        """The id that clients use."""
        return f"{self.client}-{self.name}"

    @property
    def program(self) -> str:
        """The name of the program's file."""
        return f"{self.digest}.{self.runtime}"


class ImageRecord(_ProgramRecord, frozen=True, kw_only=True):
    """One image as the index keeps it."""

    version: str
    size_bytes: int

    def info(self) -> ImageInfo:
        """Say it to others."""
        return ImageInfo(
            id=self.id,
            client=self.client,
            name=self.name,
            repo_tags=(f"{self.name}:{self.version}", f"runtime:{self.runtime}"),
            digest=f"sha256:{self.digest}",
            size_bytes=self.size_bytes,
            created_ms=self.created_ms,
        )


class ContainerRecord(_ProgramRecord, frozen=True, kw_only=True):
    """One container as the index keeps it; it holds on to its image's digest even when the name moves on."""

    image: str
    image_id: str
    base_path: str
    env: tuple[tuple[str, str], ...] = ()
    started: bool = True
    storage: str = ""
    """The name of its storage file."""


class _Index(msgspec.Struct, frozen=True):
    version: int = INDEX_VERSION
    images: tuple[ImageRecord, ...] = ()
    containers: tuple[ContainerRecord, ...] = ()


class _Damaged(Exception):
    """The index cannot be read; the text says what is wrong with it."""


def check_client(client: str) -> None:
    """Check a client's id, which becomes a part of ids and paths.

    Raises:
        UsageFault: It cannot be one.
    """
    if not NAME.fullmatch(client.lower()) or len(client) > NAME_CHARACTERS_MAX:
        raise UsageFault(f"{client[:200]!r} cannot be a client's id: letters, digits and ._- are taken")


def _opened(folder: Path) -> tuple[Vault, _Index]:
    vault = Vault(folder)
    try:
        return vault, _read_index(vault)
    except _Damaged as error:
        damage = str(error)
    # All of it, for whatever no index names is removed; somebody may still bring a copy of the index back.
    aside = _aside(folder)
    vault.close()
    folder.rename(aside)
    log.error("%s is damaged: %s; all images are kept in %s, and there are none now", folder / INDEX, damage, aside)
    return Vault(folder), _Index()


def _read_index(vault: Vault) -> _Index:
    size = vault.size(INDEX)
    if size is None:
        return _Index()
    if size > INDEX_BYTES_MAX:
        raise _Damaged(f"it has {size} bytes")
    try:
        index = msgspec.json.decode(vault.read(INDEX, bytes_max=INDEX_BYTES_MAX), type=_Index)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _Damaged(str(error)) from error
    if index.version != INDEX_VERSION:
        raise StorageFault(
            f"{vault.folder / INDEX} was written by another version ({index.version}); this one reads {INDEX_VERSION}"
        )
    return index


def _aside(folder: Path) -> Path:
    for number in range(1, DAMAGED_FOLDERS_MAX + 1):
        aside = folder.with_name(f"{folder.name}.corrupt-{number}")
        if not aside.exists():
            return aside
    raise StorageFault(f"{DAMAGED_FOLDERS_MAX} damaged folders of images lie beside {folder}: look at the disk")


class Images:
    """The images of one node, and the records of its containers; one thread at a time."""

    def __init__(self, folder: Path, *, quota_bytes: int = QUOTA_BYTES, images_max: int = IMAGES_MAX) -> None:
        """Open the folder and read the index; where that is damaged, all is set aside, and there are no images.

        Raises:
            StorageFault: The folder or the index cannot be used; the text says which.
        """
        self._quota_bytes = quota_bytes
        self._images_max = images_max
        self._given: set[str] = set()
        """Archives that others read, and that were compared with their digest."""
        self._vault, index = _opened(folder)
        self.images = {each.id: each for each in index.images}
        self.containers = {each.id: each for each in index.containers}
        self._sweep()

    def close(self) -> None:
        """Give the folder back."""
        self._vault.close()

    def load(self, chunks: Iterable[bytes], client: str, expected: str = "") -> ImageRecord:
        """Take an archive; one that the client pushed under the same name before is replaced.

        With `expected`, a `name:version`, no archive of another name is taken.

        Raises:
            ImageRefused: It is broken, hostile or too large; nothing is left of it.
            LimitReached: There is no room; the text says what to remove.
            StorageFault: The disk refuses.
        """
        check_client(client)
        try:
            record = self._take(chunks, client, expected)
        except OSError as error:
            raise StorageFault(f"the image cannot be stored: {error.strerror}; is the disk full?") from error
        self._commit(images={**self.images, record.id: record})
        self._sweep()
        return record

    def _take(self, chunks: Iterable[bytes], client: str, expected: str) -> ImageRecord:
        room = self._quota_bytes - self._vault.total_bytes()
        digest, size = hashlib.sha256(), 0
        with self._vault.writing() as upload:
            for chunk in chunks:
                size += len(chunk)
                if size > ARCHIVE_BYTES_MAX:
                    raise ImageRefused(f"the archive has more than {ARCHIVE_BYTES_MAX} bytes")
                if size > room:
                    raise LimitReached(
                        f"images may take {self._quota_bytes} bytes here, and {room} are left; remove one first"
                    )
                digest.update(chunk)
                upload.file.write(chunk)
            upload.file.flush()
            program = read_program(upload.file, size)
            if expected not in ("", f"{program.name}:{program.version}"):
                raise ImageRefused(f"the archive is of {program.name}:{program.version}, not of {expected}")
            if size + len(program.code) > room:
                raise LimitReached(f"images may take {self._quota_bytes} bytes here; remove one first")
            record = ImageRecord(
                client=client,
                name=program.name,
                version=program.version,
                runtime=program.runtime,
                digest=digest.hexdigest(),
                size_bytes=size,
                created_ms=time.time_ns() // 1_000_000,
                program_digest=hashlib.sha256(program.code).hexdigest(),
            )
            if record.id not in self.images and len(self.images) >= self._images_max:
                raise LimitReached(f"this node holds {self._images_max} images, which is its limit; remove one first")
            self._vault.write(record.program, program.code)
            upload.keep(f"{record.digest}.tar")
        return record

    def find(self, name: str, client: str | None = None) -> ImageRecord:
        """Find an image by id, by name or by `name:version`; of the client's own first.

        Raises:
            ImageNotThere: There is none, or several clients have one.
        """
        if name in self.images:
            return self.images[name]
        bare, _, version = name.partition(":")
        found = [each for each in self.images.values() if each.name == bare and version in ("", each.version)]
        own = [each for each in found if each.client == client]
        if len(own or found) != 1:
            if found:
                raise SeveralImages(f"several clients have an image with name {name[:200]}")
            raise ImageNotThere(f"cannot find image with name {name[:200]}")
        return (own or found)[0]

    def program(self, record: ContainerRecord) -> bytes:
        """Read the program of a container.

        Raises:
            StorageFault: It is not there, or not what was pushed.
        """
        return self._sound(record.program, record.program_digest, f"the program of {record.id}", PROGRAM_BYTES_MAX)

    def archive_part(self, digest: str, offset: int, bytes_max: int) -> tuple[bytes, bool]:
        """Read a part of the archive with that digest (64 hexadecimal digits), and whether it is the last.

        Before the first part of it is given away, the whole is compared with its digest.

        Raises:
            ImageNotThere: No image has that digest, or it ends before.
            StorageFault: It cannot be read, or is not what was pushed.
        """
        image = next((each for each in tuple(self.images.values()) if each.digest == digest), None)
        if image is None:
            raise ImageNotThere(f"no image here has the digest {digest}")
        if digest not in self._given:
            self._sound(f"{digest}.tar", digest, f"the image {image.id}", ARCHIVE_BYTES_MAX)
            self._given.add(digest)
        data, last = self._vault.read_part(f"{digest}.tar", offset, bytes_max)
        if not data:
            raise ImageNotThere(f"the archive {digest} has no byte {offset}")
        return data, last

    def _sound(self, name: str, digest: str, what: str, bytes_max: int) -> bytes:
        data = self._vault.read(name, bytes_max=bytes_max)
        if digest and hashlib.sha256(data).hexdigest() != digest:
            raise StorageFault(f"{what} is damaged on the disk ({name} is not what was pushed): push the image again")
        return data

    def remove(self, image: ImageRecord) -> None:
        """Forget an image; its files go when no container needs them."""
        self._commit(images={key: each for key, each in self.images.items() if key != image.id})
        self._sweep()

    def put_container(self, record: ContainerRecord) -> None:
        """Keep a container's record, durably."""
        self._commit(containers={**self.containers, record.id: record})

    def drop_container(self, container: str) -> None:
        """Forget a container."""
        self._commit(containers={key: each for key, each in self.containers.items() if key != container})
        self._sweep()

    def _commit(self, **changes: Any) -> None:
        images, containers = changes.get("images", self.images), changes.get("containers", self.containers)
        index = _Index(INDEX_VERSION, tuple(images.values()), tuple(containers.values()))
        self._vault.write(INDEX, msgspec.json.encode(index))
        self.images, self.containers = images, containers

    def _sweep(self) -> None:
        """Remove what no record names: older versions, and what a crash left."""
        keep = {INDEX}
        for image in self.images.values():
            keep |= {image.program, f"{image.digest}.tar"}
        keep |= {container.program for container in self.containers.values()}
        for name in self._vault.names():
            if name not in keep:
                self._vault.remove(name)
