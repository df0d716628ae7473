"""Each rule of a blob's talk, its names and its folder has a mutant that breaks it, and a nemesis that must notice.

The real ones run under the very same seeds.
"""

from pathlib import Path
from random import Random

import pytest
from faulty_disk import FaultyDisk, PowerCut
from kills import must_kill

from atoll.actors.blobs import folder as folder_module
from atoll.actors.blobs import manifest, names, receiving, sending
from atoll.actors.blobs.errors import BlobDamaged, UnknownBlob
from atoll.actors.blobs.folder import BlobFolder, Entry, Part
from atoll.actors.blobs.messages import BlobChunk, BlobTaken
from atoll.actors.blobs.receiving import KeepList, Receiving, Seal, Write
from atoll.actors.blobs.sending import Say, Sending
from atoll.testing.blob_world import BlobWorld, manifest_of
from atoll.transport.errors import Refused
from atoll.transport.identity import NodeId

SEEDS = range(16)
CHUNK = 16
SIZES = (3 * CHUNK + 1, 12 * CHUNK, 40 * CHUNK + 5)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(manifest, "CHUNK_BYTES_MIN", CHUNK)
    monkeypatch.setattr(receiving, "WINDOW_BYTES", 4 * CHUNK)
    monkeypatch.setattr(receiving, "LIST_PART_DIGESTS", 4)
    monkeypatch.setattr(sending, "LIST_PART_DIGESTS", 4)
    monkeypatch.setattr(folder_module, "SYNC_BYTES", 5 * CHUNK)


# The talk


class CountsBeforeItVerifies(Receiving):
    def _take_chunk(self, manifest, index, data):
        self._asked.remove(index)
        self._have[index] = 1
        self.got += 1
        return [Write(index, data), *self._go_on()]


class TakesAnyList(Receiving):
    def _take_list(self, first, digests):
        self._digests += digests
        if len(self._digests) < self.count * 32:
            return []
        self.manifest = manifest.Manifest(self.offer.size_bytes, bytes(self._digests)[: self.count * 32])
        return [KeepList(self.manifest), *self._go_on()]


class SealsBeforeTheLastChunk(Receiving):
    def _go_on(self):
        if self.got >= self.count - 1:
            self.over = True
            return [Seal(), Say(BlobTaken())]
        return super()._go_on()


class AsksBeforeTheListIsKept(Receiving):
    def _take_list(self, first, digests):
        return sorted(super()._take_list(first, digests), key=lambda each: isinstance(each, KeepList))


class SaysTakenBeforeItIsSealed(Receiving):
    def _go_on(self):
        return sorted(super()._go_on(), key=lambda each: isinstance(each, Seal))


class AsksForEverythingAgain(Receiving):
    def __init__(self, offer, manifest=None, have=None):
        super().__init__(offer, manifest, None)


class TakesForThereWhatItOnlyAskedFor(Receiving):
    def _ask(self):
        effects = super()._ask()
        for index in self._asked:
            self._have[index] = 1
        return effects


class StopsAskingAfterTheFirstWindow(Receiving):
    def _ask(self):
        return super()._ask() if self._next == 0 else []


class GivesWhatTheFileHasNow(Sending):
    def read(self, index, data):
        self.given += 1
        return [Say(BlobChunk(index, data))]


TALKS = {
    CountsBeforeItVerifies: ("lie",),
    TakesAnyList: ("lie",),
    SealsBeforeTheLastChunk: (),
    AsksBeforeTheListIsKept: (),
    SaysTakenBeforeItIsSealed: (),
    AsksForEverythingAgain: ("cut",),
    TakesForThereWhatItOnlyAskedFor: ("cut",),
    StopsAskingAfterTheFirstWindow: (),
    GivesWhatTheFileHasNow: ("change",),
}


def violations_of_talk(kind, faults, seed):
    rng = Random(seed)
    makes = {"sending" if issubclass(kind, Sending) else "receiving": kind}
    world = BlobWorld(rng, size_bytes=rng.choice(SIZES), faults=faults, fault_rate=0.3, **makes)
    try:
        return world.run()
    except AssertionError as error:
        return [str(error)]


@pytest.mark.parametrize("mutant", TALKS)
def test_every_rule_of_a_talk_is_needed(mutant):
    must_kill(mutant, SEEDS, lambda seed: violations_of_talk(mutant, TALKS[mutant], seed))


@pytest.mark.parametrize("faults", sorted(set(TALKS.values())), ids=str)
def test_the_real_talk_breaks_no_rule(faults):
    for kind in (Sending, Receiving):
        assert [(seed, bad) for seed in range(40) for bad in violations_of_talk(kind, faults, seed)] == []


# Names


def takes_paths(name):
    return "" if "/" in name or "\\" in name else names._wrong(name)


def takes_hidden(name):
    return "" if name.startswith(".") and set(name) != {"."} else names._wrong(name)


def takes_the_folder_above(name):
    return "" if name in {".", ".."} else names._wrong(name)


def takes_any_length(name):
    return "" if len(name) > 255 else names._wrong(name)


def takes_control_characters(name):
    return "" if "\0" in name or "\n" in name else names._wrong(name)


def takes_devices(name):
    return "" if name.lower().startswith(("con", "nul", "com")) else names._wrong(name)


def takes_nothing(name):
    return "" if not name else names._wrong(name)


NAME_MUTANTS = (
    takes_paths,
    takes_hidden,
    takes_the_folder_above,
    takes_any_length,
    takes_control_characters,
    takes_devices,
    takes_nothing,
)
PIECES = ("../", "/", "..", ".", ".ssh", "\\", "a", "x.txt", "\0", "\n", "NUL", "con", "com1", "\u202e", "x" * 300)

DEVICES = {"nul", "con", "com1"}


def violations_of_names(seed):
    """Take names that a hostile peer would try, and look where they lead and what they do."""
    rng, found = Random(seed), []
    for _ in range(200):
        name = "".join(rng.choices(PIECES, k=rng.randrange(4)))
        try:
            names.check_name(name)
        except Refused:
            continue
        where = Path("/home/user/inbox") / name if "\0" not in name else None
        if where is None or where.parent != Path("/home/user/inbox") or name in {"", ".", ".."} or "\\" in name:
            found.append(f"{name!r} leads elsewhere")
        elif (
            name.startswith(".")
            or "\n" in name
            or len(name) > 255
            or name.split(".")[0].lower() in {"nul", "con", "com1"}
        ):
            found.append(f"{name!r} deceives or does harm")
    return found


@pytest.mark.parametrize("mutant", NAME_MUTANTS)
def test_every_rule_of_names_is_needed(mutant, monkeypatch):
    real = names._wrong
    # The mutants call what stands there when they are asked.
    monkeypatch.setattr(names, "_wrong", lambda name: _with(real, mutant, name))
    must_kill(mutant, SEEDS, violations_of_names)


def _with(real, mutant, name):
    mutated, names._wrong = names._wrong, real
    try:
        return mutant(name)
    finally:
        names._wrong = mutated


def test_the_real_rules_of_names_let_nothing_pass():
    assert [bad for seed in range(60) for bad in violations_of_names(seed)] == []


# The folder, on a disk that loses its power


class RenamesBeforeItSyncs(Part):
    def seal(self):
        self._folder._sealed(self._key)


class TrustsWhatStandsThere(Part):
    def verified(self):
        for _ in range(self._manifest.count):
            yield True


class TrustsTheFirstBytes(Part):
    def verified(self):
        for index, right in enumerate(super().verified()):
            yield right or bool(folder_module.os.pread(self._descriptor, 4, self._manifest.offset(index)).strip(b"\0"))


class ForgetsBeforeItNotes(BlobFolder):
    def collect(self, key):
        with self._lock:
            entry = self._entries[key]
            self._drop(key)
            self._write_entry(folder_module.msgspec.structs.replace(entry, taken=True, digests=b""))


class GivesAwayUnseen(BlobFolder):
    def read(self, key, index):
        listed = self._entries[key].manifest if key in self._entries else None
        if key not in self._whole or listed is None or index >= listed.count:
            raise UnknownBlob("not here")
        return self._vault.read_part(f"{folder_module._stem(key)}.blob", listed.offset(index), listed.length(index))[0]


class WritesTheEntryInPlace(BlobFolder):
    def _write_entry(self, entry):
        path = self._vault.folder / f"{folder_module._stem(entry.key)}.entry"
        path.write_bytes(folder_module.msgspec.msgpack.encode(entry))
        self._entries[entry.key] = entry


FOLDERS = {
    RenamesBeforeItSyncs: "cuts",
    TrustsWhatStandsThere: "cuts",
    TrustsTheFirstBytes: "cuts",
    ForgetsBeforeItNotes: "cuts",
    WritesTheEntryInPlace: "cuts",
    GivesAwayUnseen: "rot",
}
PEER = NodeId(b"p" * 32)


def violations_of_folder(folder, seed, *, make=BlobFolder, part=Part, rot=False):
    """Take a blob and fetch it, on a disk whose power goes again and again; nothing wrong is given, nothing twice."""
    rng = Random(seed)
    data = rng.randbytes(rng.choice(SIZES))
    listed = manifest_of(data)
    entry = Entry(bytes(PEER), listed.digest, b"o" * 16, "x", len(data), 0.0)
    folder.mkdir()
    # What the process told others: these are promises that no crash may break.
    told = {"taken": False, "fetched": False}
    for _ in range(60):
        # What is whole is fetched in a few steps: the power goes in the middle of them, or it never would.
        disk = FaultyDisk(folder, rng.randrange(1, 12 if told["taken"] and not rot else 40))
        try:
            with disk.used():
                opened = make(folder, now=lambda: 0.0)
                bad = _live(opened, part, entry, listed, data, told=told, rng=rng, rot=rot)
        except PowerCut:
            disk.lose(rng)
            continue
        if bad or told["fetched"]:
            return bad
    return ["it never came to its end"]


def _live(opened, part, entry, listed, data, *, told, rng, rot):
    """One life of the process, until its power goes."""
    try:
        known = opened.find(entry.key)
        if told["fetched"]:
            return [] if rot or (known is not None and known.taken) else ["forgot an order that was fetched"]
        if told["taken"] and not rot and not (known is not None and (opened.is_whole(entry.key) or known.taken)):
            return ["lost what it had said to be taken"]
        if known is not None and known.taken:
            told["fetched"] = True
            return []
        if not opened.is_whole(entry.key):
            _take(opened, part, folder_module.msgspec.structs.replace(entry, at_s=rng.random()), listed, data)
            told["taken"] = True
            if rng.random() < 0.9:
                raise PowerCut
        if rot:
            (path,) = opened._vault.folder.glob("*.blob")
            at = rng.randrange(len(data))
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            got = b"".join(opened.read(entry.key, index) for index in range(listed.count))
        except BlobDamaged:
            told["fetched"] = rot
            return [] if rot else ["what it had said to be taken is damaged"]
        if got != data:
            return ["gave away what is not the blob"]
        opened.collect(entry.key)
        told["fetched"] = True
        return []
    finally:
        opened.close()


def _take(opened, part, entry, listed, data):
    opened.note(folder_module.msgspec.structs.replace(entry, digests=listed.digests))
    coming = opened.part(entry.key)
    coming.__class__ = part
    try:
        have = list(coming.verified())
        for index in range(listed.count):
            if not have[index]:
                coming.write(index, data[listed.offset(index) : listed.offset(index) + listed.length(index)])
        coming.seal()
    finally:
        coming.close()


@pytest.mark.parametrize("mutant", FOLDERS)
def test_every_rule_of_the_folder_is_needed(mutant, tmp_path):
    makes = {"part" if issubclass(mutant, Part) else "make": mutant, "rot": FOLDERS[mutant] == "rot"}
    must_kill(mutant, SEEDS, lambda seed: violations_of_folder(tmp_path / str(seed), seed, **makes))


@pytest.mark.parametrize("rot", [False, True])
def test_the_real_folder_breaks_no_promise(tmp_path, rot):
    seeds = range(60)
    assert [(seed, bad) for seed in seeds for bad in violations_of_folder(tmp_path / str(seed), seed, rot=rot)] == []
