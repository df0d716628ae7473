"""Image archives, good and hostile: what is refused leaves nothing behind, inside or outside of the folder."""

import gzip
import hashlib
import io
import json
import tarfile
import tempfile

import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atoll.actors.container_manager import archive
from atoll.actors.container_manager.errors import ImageRefused, LimitReached
from atoll.actors.container_manager.images import Images
from atoll.testing.services import ECHO, service_archive

CODE = b"mimikModule.exports = () => {};"
BLOCK = 512


def header(name, size=0, kind=b"0", **fields):
    """Write one tar header by hand; `fields` overwrite bytes at `at_<offset>`."""
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    block[0:100] = raw[:100].ljust(100, b"\0")
    block[124:136] = b"%011o\0" % size if isinstance(size, int) else size
    block[156:157] = kind
    for field, value in fields.items():
        at = int(field.removeprefix("at_"))
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def entry(name, data=b"", kind=b"0", **fields):
    return header(name, len(data), kind, **fields) + data + bytes(-len(data) % BLOCK)


def pax(kind=b"x", **records):
    data = b""
    for key, value in records.items():
        record = b" " + key.replace("__", ".").encode() + b"=" + value + b"\n"
        length = len(record) + 1
        while length != len(record) + len(str(length)):
            length = len(record) + len(str(length))
        data += str(length).encode() + record
    return entry("pax", data, kind)


def tar(*parts):
    return b"".join(parts) + bytes(2 * BLOCK)


def layer_of(*extra):
    return tar(*extra, entry("index.js", CODE))


def image(layer=None, *extra, layers=None, manifest=None, tags=("hello:1",), config=None, first=()):
    """Write an archive with one layer, and whatever a case wants to be different."""
    held = [layer_of() if layer is None else layer] if layers is None else layers
    names = [f"{at}/layer.tar" for at in range(len(held))]
    said = {"Layers": names, "RepoTags": list(tags)}
    if config is not None:
        said["Config"] = "config.json"
        extra = (*extra, entry("config.json", config if isinstance(config, bytes) else json.dumps(config).encode()))
    text = json.dumps([said]).encode() if manifest is None else manifest
    return tar(
        *first,
        *(entry(name, each) for name, each in zip(names, held, strict=True)),
        entry("manifest.json", text),
        *extra,
    )


def digest(data):
    return hashlib.sha256(data).hexdigest()


def oci(layer, named=None):
    """Write the newer form, where everything lies under its digest."""
    blob = f"blobs/sha256/{named or digest(layer)}"
    manifest = json.dumps([{"Layers": [blob], "RepoTags": ["hello:1"]}]).encode()
    return tar(entry("blobs/", kind=b"5"), entry(blob, layer), entry("manifest.json", manifest), entry("oci-layout"))


def said(**changes):
    manifest = {"Layers": ["0/layer.tar"], "RepoTags": ["hello:1"]} | changes
    return image(manifest=json.dumps([{k: v for k, v in manifest.items() if v is not None}]).encode())


BAD_NAMES = {
    "climbs": "../x",
    "climbs high": "../../../../tmp/x",
    "climbs inside": "a/../../x",
    "climbs late": "a/..",
    "only dots": "..",
    "climbs after dot": "./../x",
    "absolute": "/x",
    "absolute twice": "//x",
    "drive": "C:/x",
    "backslash": "..\\x",
    "not utf-8": b"\xff\xfe".decode("utf-8", "surrogateescape"),
    "nobody": "./.",
    "deep": "/".join("a" * 33),
}
BAD_KINDS = {
    "hard link": b"1",
    "symbolic link": b"2",
    "character device": b"3",
    "block device": b"4",
    "pipe": b"6",
    "sparse": b"S",
    "volume": b"V",
    "multi-volume": b"M",
    "dump": b"D",
    "unknown": b"Z",
}


def by_longname(name, kind=b"0"):
    return entry("././@LongLink", name.encode("utf-8", "surrogateescape") + b"\0", b"L") + entry("x", kind=kind)


def by_pax(name, kind=b"0"):
    return pax(path=name.encode("utf-8", "surrogateescape")) + entry("x", kind=kind)


def bad_parts():
    """Name stretches of a tar that no tar may hold, outer or inner."""
    for label, name in BAD_NAMES.items():
        yield f"{label} in a header", entry(name)
        yield f"{label} in a long name", by_longname(name)
        yield f"{label} in a pax header", by_pax(name)
        if label != "nobody":
            yield f"{label} as a directory", entry(name, kind=b"5")
    for label, kind in BAD_KINDS.items():
        yield label, entry("x", kind=kind, at_157=b"/etc/passwd")
    yield "a zero in a pax path", by_pax("a\0b")
    yield "a name too long", by_pax("x" * 600)
    yield "a negative size", header("x", b"\xff" * 12)
    yield "a huge size", header("x", b"\x80" + b"\xff" * 11)
    yield "a size that is no number", header("x", b"nonsense\0\0\0\0")
    yield "a size beyond the end", header("x", 2**30)
    yield "a pax size beyond the end", pax(size=b"99999999") + entry("x")
    yield "a pax size that is no number", pax(size=b"-1") + entry("x")
    yield "a pax size of many digits", pax(size=b"9" * 40) + entry("x")
    yield "a global path", pax(b"g", path=b"index.js") + entry("x")
    yield "a global size", pax(b"g", size=b"0") + entry("x")
    yield "a sparse file by pax", pax(GNU__sparse__major=b"1") + entry("x")
    for label, data in {
        "without length": b"path=x\n",
        "of length 0": b"0 path=x\n",
        "too long": b"99 path=x\n",
        "too short": b"3 path=x\n",
        "without end": b"9 path=xx",
        "without equals": b"7 path\n\n",
        "negative": b"-9 path=x\n",
        "with huge length": b"9" * 500 + b" path=x\n",
    }.items():
        yield f"a pax record {label}", entry("pax", data, b"x") + entry("x")
    yield "a huge extension", entry("pax", b"a" * 70_000, b"x") + entry("x")
    yield "a wrong checksum", entry("x").replace(b"ustar", b"vstar", 1)
    yield "a name twice", entry("twice") + entry("twice")
    yield "a name twice in disguise", entry("twice") + entry("./twice")
    yield "too many entries", entry("x", kind=b"5") * 4097


HOSTILE = {
    "empty": b"",
    "junk": b"junk" * 1000,
    "zeros": bytes(10_240),
    "json": b'{"not": "a tar"}' * 64,
    "html": b"<html>".ljust(512, b" "),
    "zip": b"PK\x03\x04".ljust(1024, b"\0"),
    "zstd": b"\x28\xb5\x2f\xfd".ljust(1024, b"\0"),
    "gzip of junk": gzip.compress(b"junk" * 1000),
    "gzip bomb": gzip.compress(bytes(3_000_000)),
    "gzip in gzip": gzip.compress(gzip.compress(image())),
    "gzip cut off": gzip.compress(image())[:-9],
    "gzip and more": gzip.compress(image()) + b"more",
    "gzip damaged": gzip.compress(image())[:60] + b"\xff" * 20 + gzip.compress(image())[80:],
    "two gzip streams": gzip.compress(image()) + gzip.compress(image()),
    "layer is a gzip bomb": image(gzip.compress(bytes(3_000_000))),
    "layer is a gzip bomb with a program": image(gzip.compress(layer_of(entry("zeros", bytes(3_000_000))))),
    "layer is cut off gzip": image(gzip.compress(layer_of())[:-9]),
    "layer is zstd": image(b"\x28\xb5\x2f\xfd".ljust(1024, b"\0")),
    "layer is empty": image(b""),
    "layer is junk": image(b"junk" * 1000),
    "layer is cut off": image(layer_of()[:700]),
    "layer is not there": said(Layers=["1/layer.tar"]),
    "layer climbs": said(Layers=["../0/layer.tar"]),
    "layer is absolute": said(Layers=["/etc/passwd"]),
    "layer without name": said(Layers=[""]),
    "layer is a directory": tar(
        entry("0/layer.tar", kind=b"5"), entry("manifest.json", b'[{"Layers":["0/layer.tar"]}]')
    ),
    "no layers": said(Layers=[]),
    "too many layers": said(Layers=["0/layer.tar"] * 129),
    "layers of numbers": said(Layers=[1]),
    "layers are a text": said(Layers="0/layer.tar"),
    "layers are not said": said(Layers=None),
    "no manifest": tar(entry("0/layer.tar", layer_of())),
    "manifest is a directory": tar(entry("manifest.json", kind=b"5")),
    "manifest elsewhere": tar(entry("x/manifest.json", b"[]"), entry("0/layer.tar", layer_of())),
    "manifest is empty": image(manifest=b""),
    "manifest is no json": image(manifest=b"[{"),
    "manifest is an object": image(manifest=b'{"Layers": ["0/layer.tar"], "RepoTags": ["hello:1"]}'),
    "manifest of no image": image(manifest=b"[]"),
    "manifest of two images": image(
        manifest=json.dumps([{"Layers": ["0/layer.tar"], "RepoTags": ["a:1"]}] * 2).encode()
    ),
    "manifest is null": image(manifest=b"null"),
    "manifest of numbers": image(manifest=b"[1]"),
    "manifest is deep": image(manifest=b"[" * 100_000),
    "manifest is huge": image(manifest=b" " * 300_000),
    "manifest is not utf-8": image(manifest=b'[{"Layers": ["\xff"]}]'),
    "no tags": said(RepoTags=[]),
    "tags are not said": said(RepoTags=None),
    "tag is empty": said(RepoTags=[""]),
    "tag climbs": said(RepoTags=["../x:1"]),
    "tag of a registry": said(RepoTags=["example.org/x/y:1"]),
    "tag in capitals": said(RepoTags=["Hello:1"]),
    "tag with a zero": said(RepoTags=["a\0b:1"]),
    "tag with a line break": said(RepoTags=["a\n:1"]),
    "tag too long": said(RepoTags=["a" * 200 + ":1"]),
    "version climbs": said(RepoTags=["a:../1"]),
    "version too long": said(RepoTags=["a:" + "1" * 200]),
    "tag is a number": said(RepoTags=[1]),
    "configuration is not there": said(Config="config.json"),
    "configuration climbs": said(Config="../config.json"),
    "configuration is no json": image(config=b"{"),
    "configuration is a list": image(config=[]),
    "configuration is huge": image(config=b" " * 300_000),
    "configuration names another layer": image(config={"rootfs": {"diff_ids": ["sha256:" + "0" * 64]}}),
    "configuration names more layers": image(config={"rootfs": {"diff_ids": ["sha256:" + digest(layer_of())] * 2}}),
    "configuration of numbers": image(config={"rootfs": {"diff_ids": [1]}}),
    "blob of another digest": oci(layer_of(), "0" * 64),
    "no program": image(tar(entry("readme"))),
    "program in a folder": image(tar(entry("app/index.js", CODE))),
    "program is a directory": image(tar(entry("index.js", kind=b"5"))),
    "program is not utf-8": image(tar(entry("index.js", b"\xff\xfe"))),
    "program is a link": image(tar(entry("index.js", kind=b"2", at_157=b"/etc/passwd"))),
    "program of macOS only": image(tar(entry("._index.js", CODE))),
    "program removed": image(layers=[layer_of(), tar(entry(".wh.index.js"))]),
    "program covered": image(layers=[layer_of(), tar(entry(".wh..wh..opq"))]),
    "program too large": image(tar(entry("index.js", b" " * (8 * 1024 * 1024 + 1)))),
    **{f"outer: {label}": image(first=(part,)) for label, part in bad_parts()},
    **{f"layer: {label}": image(layer_of(part)) for label, part in bad_parts()},
}

XATTR = pax(
    mtime=b"1700000000.5",
    LIBARCHIVE__xattr__com__apple__quarantine=b"MDA4MTs2",
    SCHILY__xattr__com__apple__provenance=b"\x01\x02\x00\xff\n",
)
GOOD = {
    "as testing writes it": service_archive("hello", "1", CODE.decode()),
    "plain": image(),
    "gzip": gzip.compress(image()),
    "layer gzip": image(gzip.compress(layer_of())),
    "oci": oci(layer_of()),
    "oci, layer gzip": oci(gzip.compress(layer_of())),
    "layer with its digest": image(config={"rootfs": {"diff_ids": ["sha256:" + digest(layer_of())]}}),
    "layer gzip with its digest": image(
        gzip.compress(layer_of()), config={"rootfs": {"diff_ids": ["sha256:" + digest(layer_of())]}}
    ),
    "configuration without digests": image(config={"architecture": "any"}),
    "dot and folders": image(
        tar(entry("./", kind=b"5"), entry("lib/", kind=b"5"), entry("old/"), entry("./index.js", CODE))
    ),
    "macOS's files": image(
        tar(entry("._.", b"x"), entry("._index.js", b"x"), XATTR, entry("index.js", CODE), entry("lib/._a", b"x")),
        entry("._manifest.json", b"junk"),
    ),
    "macOS's files outside": image(
        first=(entry("._0", b"x"), XATTR, entry("0/", kind=b"5"), entry("0/._layer.tar", b"x"))
    ),
    "pax xattrs": image(tar(XATTR, entry("index.js", CODE))),
    "a global comment": image(layer_of(pax(b"g", comment=b"made by git"))),
    "the name by pax": image(tar(by_pax("lib/x"), pax(path=b"./index.js", size=b"%d" % len(CODE)), entry("x", CODE))),
    "the name as GNU writes it": image(tar(entry("L", b"index.js\0", b"L"), entry("x", CODE))),
    "the name with a prefix": image(layer_of(entry("x" * 90, at_345=b"y" * 90))),
    "contiguous": image(tar(entry("index.js", CODE, b"7"))),
    "old": image(tar(entry("index.js", CODE, b"\0", at_257=bytes(8)))),
    "a size in base 256": image(
        tar(header("index.js", b"\x80" + len(CODE).to_bytes(11, "big")) + CODE.ljust(512, b"\0"))
    ),
    "no blocks at the end": image(layer_of()[:-1024])[:-1024],
    "many blocks at the end": image() + bytes(9216),
    "a newer layer over an older one": image(layers=[tar(entry("index.js", b"old")), layer_of()]),
    "removed and written again": image(layers=[tar(entry("index.js", b"old")), layer_of(entry(".wh.index.js"))]),
    "a registry's name": image(tags=("docker.io/library/hello:1",)),
    "two tags": image(tags=("hello:1", "other:2")),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Give an empty folder, with everything that a careless reader could write to inside it."""
    for name in ("cwd", "tmp", "state"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


def tree(folder):
    return sorted((str(path.relative_to(folder)), path.is_file() and path.stat().st_size) for path in folder.rglob("*"))


def chunks(data, size=100_000):
    return (data[at : at + size] for at in range(0, len(data), size))


def refuse(images, data):
    with pytest.raises(ImageRefused) as caught:
        images.load(chunks(data), "api")
    assert str(caught.value).isprintable(), "an error is one line for people, whatever the archive holds"
    assert len(str(caught.value)) < 1200


def test_there_are_enough_hostile_archives():
    assert len(HOSTILE) > 200


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(name, place):
    images = Images(place / "state")
    images.load(chunks(image()), "api")
    before = tree(place)
    refuse(images, HOSTILE[name])
    assert tree(place) == before
    assert list(images.images) == ["api-hello"]
    images.close()


@pytest.mark.parametrize("name", GOOD)
def test_what_docker_and_its_kin_write_is_taken(name, place):
    images = Images(place / "state")
    record = images.load(chunks(GOOD[name]), "api")
    assert (record.id, record.version, record.digest) == ("api-hello", "1", digest(GOOD[name]))
    assert (place / "state" / f"{record.digest}.js").read_bytes() == CODE
    assert {path.parent for path in place.rglob("*") if path.is_file()} == {place / "state"}
    images.close()


@pytest.mark.parametrize("form", ["plain", "oci", "layer gzip", "as testing writes it"])
def test_an_archive_that_was_cut_off_is_refused_unless_all_that_counts_is_there(form, place):
    whole = GOOD[form]
    manifest_begins = whole.index(b'"RepoTags"')
    images = Images(place / "state")
    before = tree(place)
    for cut in sorted({*range(0, len(whole), BLOCK), *range(1, len(whole), 97)}):
        if cut <= manifest_begins:
            refuse(images, whole[:cut])
            assert tree(place) == before
            continue
        try:
            record = images.load(chunks(whole[:cut]), "api")
        except ImageRefused:
            continue
        assert (place / "state" / record.program).read_bytes() == CODE
    images.close()


def test_gzip_that_was_cut_off_is_refused_at_every_byte(place):
    whole = gzip.compress(image())
    images = Images(place / "state")
    before = tree(place)
    for cut in range(len(whole)):
        refuse(images, whole[:cut])
    assert tree(place) == before
    images.close()


@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_is_refused_or_read_and_nothing_else(data):
    whole = bytearray(data.draw(st.sampled_from([GOOD["plain"], GOOD["oci"], GOOD["macOS's files"], GOOD["gzip"]])))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        new = data.draw(st.binary(min_size=1, max_size=16))
        whole[at : at + len(new)] = new
    try:
        program = archive.read_program(io.BytesIO(whole), len(whole))
    except ImageRefused:
        return
    assert program.name
    assert archive.NAME.fullmatch(program.name)


def test_limits_hold_for_all_layers_together(place, monkeypatch):
    monkeypatch.setattr(archive, "LAYER_BYTES_MAX", 100_000)
    images = Images(place / "state")
    filling = [gzip.compress(tar(entry(f"f{at}", bytes(range(256)) * 150))) for at in range(3)]
    refuse(images, image(layers=[*filling, layer_of()]))
    images.load(chunks(image(layers=[filling[0], layer_of()])), "api")
    images.close()


def test_an_upload_that_never_ends_is_cut_off(place, monkeypatch):
    monkeypatch.setattr("atoll.actors.container_manager.images.ARCHIVE_BYTES_MAX", 100_000)
    images = Images(place / "state")
    before = tree(place)
    drawn = []

    def endless():
        while True:
            drawn.append(bytes(10_000))
            yield drawn[-1]

    with pytest.raises(ImageRefused, match="more than 100000 bytes"):
        images.load(endless(), "api")
    assert len(drawn) == 11
    assert tree(place) == before
    images.close()


def test_the_quota_holds_and_a_removed_image_makes_room(place):
    quota_bytes = 200_000
    images = Images(place / "state", quota_bytes=quota_bytes)

    def push(number):
        images.load(chunks(service_archive(f"hello-{number}", "1", ECHO)), "api")

    size = len(service_archive("hello-0", "1", ECHO)) + len(ECHO)
    room = quota_bytes // size
    assert room > 2
    # The index counts, too.
    for number in range(room - 1):
        push(number)
    with pytest.raises(LimitReached, match="remove one"):  # noqa: PT012 - the index decides which of the two
        for number in (room, room + 1):
            push(number)
    assert sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) <= quota_bytes
    images.remove(images.find("hello-0"))
    push(0)
    images.close()


def test_what_a_crash_left_is_swept_at_the_next_start(place):
    images = Images(place / "state")
    images.load(chunks(image()), "api")
    images.close()
    before = tree(place)
    for name in ("0123456789abcdef.incoming", f"{'0' * 64}.tar", f"{'0' * 64}.js", "junk"):
        (place / "state" / name).write_bytes(b"left")
    images = Images(place / "state")
    assert tree(place) == before
    assert list(images.images) == ["api-hello"]
    images.close()
