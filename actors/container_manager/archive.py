"""What an image archive says: the name, the version and the program of a light service.

    upload --(gzip: inflated, bounded)--> outer tar --manifest.json--> layers --(gzip: inflated, bounded)--> inner tars
           --`index.js` of the topmost layer that has it--> Program

Both forms that `docker save` has written are taken: `<id>/layer.tar` and `blobs/sha256/<digest>`, and then the blob
must have that digest. Where the configuration lists the digests of the layers, they must be right. Nothing is
extracted: the program comes back as bytes, and no name of the archive becomes a name of a file.
"""

import hashlib
import re
import tempfile
import zlib
from typing import BinaryIO

import msgspec

from atoll.actors.container_manager.errors import ImageRefused
from atoll.actors.container_manager.messages import NAME_CHARACTERS_MAX
from atoll.actors.container_manager.tar_reader import Entry, Part, clean_path, read_entries

ARCHIVE_BYTES_MAX = 64 * 1024 * 1024
"""An upload, as it comes and inflated."""
LAYER_BYTES_MAX = 64 * 1024 * 1024
"""All layers together, inflated."""
INFLATE_RATIO_MAX = 200
"""Of a gzip stream longer than `RATIO_FREE_BYTES`; JavaScript bundles shrink to a fifth, zeros to a thousandth."""
RATIO_FREE_BYTES = 1024 * 1024
LAYERS_MAX = 128
PROGRAM_BYTES_MAX = 8 * 1024 * 1024
MANIFEST_BYTES_MAX = 256 * 1024
NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
PROGRAMS = {"index.js": "js", "index.wasm": "wasm"}
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
_CHUNK_BYTES = 64 * 1024
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Program(msgspec.Struct, frozen=True):
    """A light service, taken out of its archive."""

    name: str
    version: str
    runtime: str
    """`js` or `wasm`."""
    code: bytes


class _Manifest(msgspec.Struct, rename="pascal"):
    layers: list[str]
    repo_tags: list[str] | None = None
    config: str | None = None


class _RootFs(msgspec.Struct):
    diff_ids: list[str] = []


class _Config(msgspec.Struct):
    rootfs: _RootFs = msgspec.field(default_factory=_RootFs)


def read_program(file: BinaryIO, size: int) -> Program:
    """Read an archive of `size` bytes; `file` can seek.

    Raises:
        ImageRefused: It is broken, hostile, too large, or holds no program; names the entry and the rule.
    """
    with tempfile.TemporaryFile() as inflated:
        outer = _plain(Part(file, 0, size), inflated, ARCHIVE_BYTES_MAX, "the archive")
        entries = {entry.name: entry for entry in read_entries(outer, where="the archive")}
        manifest = _manifest(entries)
        name, version = split_tag(manifest.repo_tags)
        programs = _layers(entries, manifest.layers, _layer_digests(entries, manifest))
    for file_name, runtime in PROGRAMS.items():
        if file_name in programs:
            return Program(name, version, runtime, programs[file_name])
    raise ImageRefused(
        f"no layer holds {' or '.join(PROGRAMS)} at its root; a light image is one of them and nothing else"
    )


def split_tag(tags: list[str] | None) -> tuple[str, str]:
    """Split `name:version`; the version is `latest` where none stands.

    Raises:
        ImageRefused: There is no tag, or it is no name for a light image.
    """
    if not tags:
        raise ImageRefused("manifest.json has no RepoTags; save the image by name: `docker save NAME:VERSION`")
    name, _, version = tags[0].removeprefix("docker.io/").removeprefix("library/").partition(":")
    version = version or "latest"
    if not NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX or not VERSION.fullmatch(version):
        raise ImageRefused(f"{tags[0][:200]!r} cannot name an image: a-z, 0-9 and ._- are taken, then `:version`")
    return name, version


def _manifest(entries: dict[str, Entry]) -> _Manifest:
    entry = entries.get("manifest.json")
    if entry is None:
        raise ImageRefused("the archive has no manifest.json; write it with `docker save`")
    if entry.part.size > MANIFEST_BYTES_MAX:
        raise ImageRefused(f"manifest.json has {entry.part.size} bytes; {MANIFEST_BYTES_MAX} is the limit")
    try:
        images = msgspec.json.decode(entry.part.read(), type=list[_Manifest])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ImageRefused(f"manifest.json is not what `docker save` writes: {error}") from error
    if len(images) != 1:
        raise ImageRefused(f"the archive holds {len(images)} images; push them one by one")
    if not 0 < len(images[0].layers) <= LAYERS_MAX:
        raise ImageRefused(f"the image has {len(images[0].layers)} layers; 1 to {LAYERS_MAX} are taken")
    return images[0]


def _layer_digests(entries: dict[str, Entry], manifest: _Manifest) -> list[str]:
    """Give the digests that the layers must have once inflated; empty when the configuration does not say."""
    if manifest.config is None:
        return []
    where = f"the configuration {manifest.config[:100]!r}"
    entry = entries.get(clean_path(manifest.config, "manifest.json"))
    if entry is None:
        raise ImageRefused(f"manifest.json names {where}, and it is not in the archive")
    if entry.part.size > MANIFEST_BYTES_MAX:
        raise ImageRefused(f"{where} has {entry.part.size} bytes; {MANIFEST_BYTES_MAX} is the limit")
    if blob := BLOB.fullmatch(entry.name):
        _check_digest(entry.part, blob[1], where)
    try:
        digests = msgspec.json.decode(entry.part.read(), type=_Config).rootfs.diff_ids
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ImageRefused(f"{where} is not what `docker save` writes: {error}") from error
    if digests and len(digests) != len(manifest.layers):
        raise ImageRefused(f"{where} lists {len(digests)} layers, manifest.json {len(manifest.layers)}")
    return digests


def _layers(entries: dict[str, Entry], layers: list[str], digests: list[str]) -> dict[str, bytes]:
    """Lay the layers over each other, as far as programs at their roots are concerned."""
    programs: dict[str, bytes] = {}
    left = LAYER_BYTES_MAX
    for at, layer in enumerate(layers):
        where = f"layer {layer[:100]!r}"
        entry = entries.get(clean_path(layer, "manifest.json"))
        if entry is None:
            raise ImageRefused(f"manifest.json names {where}, and it is not in the archive")
        if blob := BLOB.fullmatch(entry.name):
            _check_digest(entry.part, blob[1], where)
        with tempfile.TemporaryFile() as inflated:
            tar = _plain(entry.part, inflated, left, where)
            left -= tar.size
            if digests:
                _check_digest(tar, digests[at].removeprefix("sha256:"), where)
            inner = read_entries(tar, where=where)
            for each in inner:
                if each.name == OPAQUE:
                    programs.clear()
                elif each.name.startswith(WHITEOUT):
                    programs.pop(each.name.removeprefix(WHITEOUT), None)
            for each in inner:
                if each.name in PROGRAMS:
                    programs[each.name] = _program(each, where)
    return programs


def _program(entry: Entry, where: str) -> bytes:
    if entry.part.size > PROGRAM_BYTES_MAX:
        raise ImageRefused(f"{where}: {entry.name!r} has {entry.part.size} bytes; {PROGRAM_BYTES_MAX} is the limit")
    code = entry.part.read()
    if entry.name.endswith(".js"):
        try:
            code.decode()
        except UnicodeDecodeError as error:
            raise ImageRefused(f"{where}: {entry.name!r} is not UTF-8: byte {error.start} is wrong") from error
    return code


def _check_digest(part: Part, digest: str, where: str) -> None:
    actual = hashlib.sha256()
    for at in range(0, part.size, _CHUNK_BYTES):
        actual.update(part.read(at, _CHUNK_BYTES))
    if actual.hexdigest() != digest:
        raise ImageRefused(f"{where}: its content has the digest {actual.hexdigest()[:12]}…, not the one it must have")


def _plain(part: Part, into: BinaryIO, bytes_max: int, where: str) -> Part:
    """Give the tar itself: the part as it is, or what it inflates to."""
    magic = part.read(0, 4)
    if magic == _ZSTD:
        raise ImageRefused(f"{where} is compressed with zstd; use gzip or none")
    if magic[:2] == _GZIP:
        return Part(into, 0, _inflate(part, into, bytes_max, where))
    if part.size > bytes_max:
        raise ImageRefused(f"{where} has {part.size} bytes; {bytes_max} are taken")
    return part


def _inflate(part: Part, into: BinaryIO, bytes_max: int, where: str) -> int:
    engine, at, total, more = zlib.decompressobj(wbits=31), 0, 0, False
    try:
        # `more`: the engine held output back, and may do so without wanting input.
        while not engine.eof and (at < part.size or more):
            chunk = engine.unconsumed_tail
            if not chunk and not more:
                chunk = part.read(at, _CHUNK_BYTES)
                at += len(chunk)
            plain = engine.decompress(chunk, _CHUNK_BYTES)
            more = len(plain) == _CHUNK_BYTES or bool(engine.unconsumed_tail)
            total += len(plain)
            if total > bytes_max:
                raise ImageRefused(f"{where} inflates to more than the {bytes_max} bytes that are taken")
            if total > RATIO_FREE_BYTES and total > at * INFLATE_RATIO_MAX:
                raise ImageRefused(f"{where} inflates more than {INFLATE_RATIO_MAX} times: a bomb")
            into.write(plain)
    except zlib.error as error:
        raise ImageRefused(f"{where} is damaged gzip: {error}") from error
    if not engine.eof:
        raise ImageRefused(f"{where} is gzip that was cut off")
    if engine.unused_data or at < part.size:
        raise ImageRefused(f"{where} has more bytes after its gzip stream")
    return total
