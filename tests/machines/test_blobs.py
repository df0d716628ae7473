"""Blobs: what they are, what they may be called, and that what is whole is what was sent, whatever happens."""

import hashlib
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.blobs import manifest, messages, receiving, sending
from atoll.actors.blobs.manifest import (
    BLOB_BYTES_MAX,
    CHUNKS_MAX,
    Manifest,
    address_of,
    chunk_bytes_of,
    chunk_count,
    chunk_digest,
    read_address,
)
from atoll.actors.blobs.messages import (
    BlobAccepted,
    BlobChunk,
    BlobOffered,
    BlobRefused,
    BlobTaken,
    BlobWaits,
    BlobWithdrawn,
    ChunksWanted,
    ListPart,
)
from atoll.actors.blobs.names import check_name
from atoll.actors.blobs.receiving import KeepList, Over, Receiving, Seal, Write
from atoll.actors.blobs.sending import Ended, Outcome, Read, Say, Sending
from atoll.testing.blob_fuzz import BlobFuzz
from atoll.testing.blob_world import FAULTS, BlobWorld, manifest_of
from atoll.transport.errors import MalformedFrame, Refused, UsageError

CHUNK = 16


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(manifest, "CHUNK_BYTES_MIN", CHUNK)
    monkeypatch.setattr(receiving, "WINDOW_BYTES", 4 * CHUNK)
    monkeypatch.setattr(receiving, "LIST_PART_DIGESTS", 4)
    monkeypatch.setattr(sending, "LIST_PART_DIGESTS", 4)


# What a blob is


def test_an_address_is_a_blake2b_tree_hash_that_the_standard_library_computes():
    data = bytes(range(256)) * 2500
    size, chunk = len(data), 256 * 1024
    leaves = [data[at : at + chunk] for at in range(0, size, chunk)]
    shape = {"digest_size": 32, "fanout": 0, "depth": 2, "leaf_size": chunk, "inner_size": 32}
    digests = [
        hashlib.blake2b(leaf, node_offset=at, node_depth=0, last_node=at == len(leaves) - 1, **shape).digest()
        for at, leaf in enumerate(leaves)
    ]
    root = hashlib.blake2b(b"".join(digests), node_offset=0, node_depth=1, last_node=True, **shape).hexdigest()
    assert address_of(manifest_of(data).digest) == f"blake2b-tree:{root}"


@pytest.mark.parametrize("size", [0, 1, 262_144, 700_000])
def test_the_example_of_the_documents_computes_the_same_address(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(Random(size).randbytes(size))
    example = Path(__file__).parents[2] / "docs" / "examples" / "blob_address.py"
    done = subprocess.run([sys.executable, example, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == address_of(manifest_of(path.read_bytes()).digest)


def test_the_chunk_size_follows_from_the_size_and_no_list_is_longer_than_2_mib():
    assert [chunk_bytes_of(size) // 1024 for size in (0, 1, 2**34, 2**34 + 1, 2**35 + 1, BLOB_BYTES_MAX)] == [
        256,
        256,
        256,
        512,
        1024,
        1024,
    ]
    assert chunk_count(BLOB_BYTES_MAX) == CHUNKS_MAX
    assert chunk_count(0) == 1


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 5 * CHUNK + 3])
def test_chunks_of_any_size_add_up(small, size):
    data = Random(size).randbytes(size)
    listed = manifest_of(data)
    pieces = [data[listed.offset(at) : listed.offset(at) + listed.length(at)] for at in range(listed.count)]
    assert b"".join(pieces) == data
    assert all(listed.fits(at, piece) for at, piece in enumerate(pieces))


def test_a_chunk_fits_its_own_place_alone(small):
    data = b"a" * CHUNK * 3
    listed = manifest_of(data)
    assert not Manifest(listed.size_bytes, listed.digests[32:64] + listed.digests[:32] + listed.digests[64:]).fits(
        0, b"a" * CHUNK
    ), "the same bytes elsewhere are another leaf"
    assert chunk_digest(b"a" * CHUNK, 1, 2 * CHUNK) != chunk_digest(b"a" * CHUNK, 1, 3 * CHUNK), "the last is the last"


def test_a_list_that_is_too_short_is_none(small):
    with pytest.raises(UsageError):
        Manifest.of(CHUNK * 3, [b"d" * 32] * 2)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_different_bytes_have_different_addresses(one, other):
    assert (manifest_of(one).digest == manifest_of(other).digest) == (one == other)


def test_addresses_are_read_as_they_are_written():
    assert read_address(address_of(b"d" * 32)) == b"d" * 32
    for wrong in ("", "blake2b-256:" + "0" * 64, "blake2b-tree:" + "0" * 63, "blake2b-tree:" + "G" * 64, "0" * 64):
        with pytest.raises(UsageError):
            read_address(wrong)


# Names

GOOD_NAMES = (
    "a",
    "holiday.jpg",
    "2026-11-21 10:00.png",
    "ü" * 127,
    "日本.txt",
    "console",
    "com10.txt",
    "a..b",
    "x" * 255,
)
BAD_NAMES = {
    "empty": "",
    "this folder": ".",
    "the folder above": "..",
    "a way up": "../x",
    "absolute": "/etc/passwd",
    "a folder": "a/b",
    "a folder of Windows": "a\\b",
    "a drive": "C:\\x",
    "NUL byte": "a\0b",
    "newline": "a\nb",
    "escape": "a\x1b[2Jb",
    "C1 control": "a\x9bb",
    "hidden": ".bashrc",
    "300 bytes": "x" * 300,
    "256 bytes in UTF-8": "ü" * 128,
    "a device": "NUL",
    "a device with a suffix": "com1.txt",
    "another device": "LPT9",
    "a device with a space": "aux .txt",
    "a space behind": "a ",
    "a space before": " a",
    "a dot behind": "a.",
    "turned round": "gpj\u202eexe",
    "a lone surrogate": "a\udc80",
    "line separator": "a\u2028b",
}


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_ordinary_names_are_taken_as_they_are(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_elsewhere_or_deceive_are_refused(name):
    with pytest.raises(Refused):
        check_name(BAD_NAMES[name])


@given(st.text(max_size=300))
def test_whatever_name_is_taken_is_one_file_in_one_folder(name):
    try:
        check_name(name)
    except Refused:
        return
    assert not any(ord(each) < 32 or ord(each) == 127 for each in name)
    assert "/" not in name
    assert "\\" not in name
    assert name.strip(". ") != ""
    assert not name.startswith(".")
    assert 0 < len(name.encode()) <= 255


# The talk


def offer_of(listed):
    return BlobOffered(b"o" * 16, listed.digest, listed.size_bytes, "name")


def receiving_of(data, **more):
    listed = manifest_of(data)
    return Receiving(offer_of(listed), **more), listed


def said(effects):
    return [each.message for each in effects if isinstance(each, Say)]


def test_the_list_comes_first_and_is_kept_before_a_chunk_is_asked_for(small):
    machine, listed = receiving_of(b"x" * CHUNK * 6)
    assert machine.start() == [Say(BlobAccepted(0, list_wanted=True))]
    assert machine.take(ListPart(0, listed.digests[:128])) == []
    assert machine.take(ListPart(4, listed.digests[128:])) == [KeepList(listed), Say(ChunksWanted(0, 4))]


def test_what_is_there_is_not_asked_for(small):
    data = Random(1).randbytes(CHUNK * 10)
    machine, _ = receiving_of(data, manifest=manifest_of(data), have=bytes([1, 0, 0, 1, 1, 0, 1, 1, 1, 0]))
    assert machine.start() == [
        Say(BlobAccepted(6, list_wanted=False)),
        Say(ChunksWanted(1, 2)),
        Say(ChunksWanted(5, 1)),
        Say(ChunksWanted(9, 1)),
    ]


def test_no_more_is_on_its_way_than_the_window(small):
    data = Random(1).randbytes(CHUNK * 10)
    machine, _ = receiving_of(data, manifest=manifest_of(data))
    assert said(machine.start())[1:] == [ChunksWanted(0, 4)]
    asked = []
    for index in range(10):
        effects = machine.take(BlobChunk(index, data[index * CHUNK : (index + 1) * CHUNK]))
        asked += [message for message in said(effects) if isinstance(message, ChunksWanted)]
    assert asked == [ChunksWanted(4, 2), ChunksWanted(6, 2), ChunksWanted(8, 2)]


def test_the_last_chunk_seals_and_only_then_it_is_taken(small):
    data = b"x" * CHUNK
    machine, _ = receiving_of(data, manifest=manifest_of(data))
    machine.start()
    assert machine.take(BlobChunk(0, data)) == [Write(0, data), Seal(), Say(BlobTaken()), Over()]


def test_an_empty_blob_is_one_chunk_without_bytes(small):
    machine, listed = receiving_of(b"")
    machine.start()
    machine.take(ListPart(0, listed.digests))
    assert machine.take(BlobChunk(0, b"")) == [Write(0, b""), Seal(), Say(BlobTaken()), Over()]
    assert machine.got_bytes == 0


def test_what_is_all_there_is_sealed_without_a_word(small):
    data = b"x" * CHUNK * 2
    machine, _ = receiving_of(data, manifest=manifest_of(data), have=b"\1\1")
    assert machine.start()[1:] == [Seal(), Say(BlobTaken()), Over()]


LIES = {
    "a wrong chunk": BlobChunk(0, b"y" * CHUNK),
    "a short chunk": BlobChunk(0, b"x" * (CHUNK - 1)),
    "a long chunk": BlobChunk(0, b"x" * (CHUNK + 1)),
    "an empty chunk": BlobChunk(0, b""),
    "a chunk in the place of another": BlobChunk(1, b"x" * CHUNK),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_the_list_s_is_never_written_and_ends_it(small, lie):
    data = b"x" * CHUNK + b"z" * CHUNK
    machine, _ = receiving_of(data, manifest=manifest_of(data))
    machine.start()
    effects = machine.take(LIES[lie])
    assert [type(each) for each in effects] == [Say, Over]
    assert isinstance(effects[0].message, BlobRefused)
    assert machine.got == 0
    with pytest.raises(MalformedFrame):
        machine.take(BlobChunk(0, b"x" * CHUNK))


LISTS = {
    "of another blob": lambda digests: [(0, bytes(128)), (4, bytes(64))],
    "endless": lambda digests: [(0, digests[:128]), (4, digests[:128])],
    "too short": lambda digests: [(0, digests[:96])],
    "from the middle": lambda digests: [(4, digests[128:])],
    "the first part again": lambda digests: [(0, digests[:128]), (0, digests[:128])],
    "not whole digests": lambda digests: [(0, digests[:127])],
}


@pytest.mark.parametrize("lie", LISTS)
def test_a_list_that_is_not_the_address_s_ends_it(small, lie):
    machine, listed = receiving_of(Random(1).randbytes(CHUNK * 6))
    machine.start()
    effects = []
    for first, digests in LISTS[lie](listed.digests):
        assert effects == []
        effects = machine.take(ListPart(first, digests))
        machine.check()
    assert [type(each) for each in effects] == [Say, Over]


@pytest.mark.parametrize("strange", [BlobTaken(), BlobWaits(), BlobChunk(0, b"x"), ChunksWanted(0, 1)], ids=repr)
def test_a_receiver_hears_nothing_out_of_its_turn(small, strange):
    machine, _ = receiving_of(b"x" * CHUNK * 6)
    machine.start()
    with pytest.raises(MalformedFrame):
        machine.take(strange)


def test_a_sender_s_changed_file_makes_what_has_come_useless(small):
    machine, _ = receiving_of(b"x" * CHUNK)
    machine.start()
    (over,) = machine.take(BlobWithdrawn("the file changed", changed=True))
    assert over.useless
    machine, _ = receiving_of(b"x" * CHUNK)
    (over,) = machine.take(BlobWithdrawn("it was called back"))
    assert not over.useless


def sending_of(data):
    listed = manifest_of(data)
    return Sending(offer_of(listed), listed), listed


def test_a_sender_gives_what_is_asked_for_and_only_once(small):
    data = Random(2).randbytes(CHUNK * 6)
    machine, listed = sending_of(data)
    assert machine.start() == [Say(offer_of(listed))]
    assert machine.take(BlobWaits()) == []
    assert machine.waits
    assert said(machine.take(BlobAccepted(1, list_wanted=True))) == [
        ListPart(0, listed.digests[:128]),
        ListPart(4, listed.digests[128:]),
    ]
    assert machine.take(ChunksWanted(2, 2)) == [Read(2), Read(3)]
    assert machine.read(2, data[2 * CHUNK : 3 * CHUNK]) == [Say(BlobChunk(2, data[2 * CHUNK : 3 * CHUNK]))]
    assert machine.there_bytes == 2 * CHUNK
    with pytest.raises(MalformedFrame, match="twice"):
        machine.take(ChunksWanted(3, 2))


def test_a_sender_finds_out_that_its_file_changed(small):
    data = Random(2).randbytes(CHUNK * 2)
    machine, _ = sending_of(data)
    machine.take(BlobAccepted(0, list_wanted=False))
    machine.take(ChunksWanted(0, 2))
    effects = machine.read(0, b"other bytes 1234")
    assert isinstance(effects[0].message, BlobWithdrawn)
    assert effects[0].message.changed
    assert effects[1].outcome is Outcome.CHANGED


ASKS = {
    "behind the last": ChunksWanted(1, 2),
    "far away": ChunksWanted(60_000, 1),
    "more than there are": BlobAccepted(3, list_wanted=False),
    "accepted twice": BlobAccepted(0, list_wanted=False),
    "waits after a yes": BlobWaits(),
    "a list from the receiver": ListPart(0, b"d" * 32),
}


@pytest.mark.parametrize("ask", ASKS)
def test_a_sender_answers_no_ask_that_has_no_sense(small, ask):
    machine, _ = sending_of(b"x" * CHUNK * 2)
    if ask != "more than there are":
        machine.take(BlobAccepted(0, list_wanted=False))
    with pytest.raises(MalformedFrame):
        machine.take(ASKS[ask])


def test_chunks_are_given_only_after_a_yes(small):
    machine, _ = sending_of(b"x")
    with pytest.raises(MalformedFrame):
        machine.take(ChunksWanted(0, 1))


@pytest.mark.parametrize(("again", "outcome"), [(True, Outcome.LATER), (False, Outcome.REFUSED)])
def test_a_no_says_whether_there_is_sense_in_asking_again(small, again, outcome):
    machine, _ = sending_of(b"x")
    assert machine.take(BlobRefused("no room", again)) == [Ended(outcome, "no room")]
    with pytest.raises(MalformedFrame):
        machine.take(BlobTaken())


# Everything at once

SIZES = (0, 1, CHUNK, 3 * CHUNK + 1, 12 * CHUNK, 40 * CHUNK + 5)


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_one_kind_of_fault_alone(small, fault):
    for seed in range(30):
        rng = Random(seed)
        faults = () if fault is None else (fault,)
        world = BlobWorld(rng, size_bytes=rng.choice(SIZES), faults=faults, fault_rate=0.2)
        assert world.run() == [], f"seed {seed}"


def test_whatever_happens_on_the_way_what_is_whole_is_what_was_offered(small):
    for seed in range(150):
        rng = Random(seed)
        world = BlobWorld(rng, size_bytes=rng.choice(SIZES), fault_rate=rng.choice((0.02, 0.1, 0.4)))
        assert world.run() == [], f"seed {seed}"


def test_without_faults_each_chunk_is_written_once(small):
    for seed in range(20):
        rng = Random(seed)
        world = BlobWorld(rng, size_bytes=40 * CHUNK, faults=("cut", "crash sender"), fault_rate=0.1)
        assert world.run() == []
        assert world.counts["written"] == 40


def test_hostile_messages_find_nothing(enough):
    fuzz = BlobFuzz(3)
    fuzz.run(enough(10_000, least=5_000))
    assert fuzz.findings == []
    assert len(fuzz.fates) > 8, fuzz.fates


def test_the_largest_messages_fit_into_a_frame():
    assert messages.FRAME_BYTES_MAX >= manifest.CHUNK_BYTES_MAX + 64
    assert messages.LIST_PART_DIGESTS * 32 < messages.FRAME_BYTES_MAX
