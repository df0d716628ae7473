"""The journal that keeps records by key, against power cuts at every step, damage, and a full disk."""

import os
from random import Random

import msgspec
import pytest
from examples import examples
from faulty_disk import FaultyDisk, PowerCut
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.runtime import JournalFailed, KeyedJournal
from atoll.actors.runtime.keyed_journal import FILE_NAME_CHARACTERS_MAX, file_name
from atoll.actors.runtime.records import CORRUPT_FILES_MAX
from atoll.transport.errors import UsageError


class Note(msgspec.Struct, frozen=True, array_like=True, tag="n"):
    key: str
    text: str


class Lost(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    key: str
    damage: str


class Other(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    key: str


KINDS = (Note, Lost)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state" / "logs"


def opened(folder, loss=Lost):
    journal = KeyedJournal(folder, KINDS, loss=loss)
    return journal, list(journal.open())


def found_in(folder, loss=Lost):
    journal, restored = opened(folder, loss)
    journal.close()
    return restored


def written(folder, *records, loss=Lost):
    journal, _ = opened(folder, loss)
    for record in records:
        journal.append(record)
    journal.close()


NOTES = [Note("a", "1"), Note("b", "2"), Note("a", "3")]


def test_records_come_back_key_by_key_in_order_and_the_files_are_private(folder):
    written(folder, *NOTES)
    journal, restored = opened(folder)
    assert restored == [NOTES[0], NOTES[2], NOTES[1]]
    assert journal.damage == {}
    journal.close()
    journal.close()
    assert sorted(path.name for path in folder.iterdir()) == ["a.log", "b.log"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_rewrite_takes_the_place_of_one_key_alone(folder):
    written(folder, *NOTES)
    journal, _ = opened(folder)
    journal.rewrite("a", [Note("a", "4"), Note("a", "5")])
    journal.append(Note("a", "6"))
    journal.rewrite("c", [Note("c", "7")])
    journal.rewrite("b", [])
    journal.rewrite("never", [])
    journal.close()
    journal, restored = opened(folder)
    assert restored == [Note("a", "4"), Note("a", "5"), Note("a", "6"), Note("c", "7")]
    assert journal.damage == {}
    journal.close()


KEYS = st.sampled_from(["a", "b", "../c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), KEYS, st.integers(0, 9)),
        st.tuples(st.just("rewrite"), KEYS, st.integers(0, 3)),
        st.tuples(st.just("reopen"), KEYS, st.just(0)),
    ),
    min_size=1,
    max_size=4,
)


class Tried:
    """A journal on a faulty disk, and what it must hold."""

    def __init__(self, folder, loss):
        self.folder, self.loss = folder, loss
        self.before = self.after = {}
        """What was there before the step in hand, and what is after it: by key."""
        self.number = 0

    def run(self, steps):
        journal, _ = opened(self.folder, self.loss)
        try:
            for what, key, count in steps:
                self.number += 1
                if what == "reopen":
                    journal.close()
                    journal, _ = opened(self.folder, self.loss)
                    continue
                notes = [Note(key, f"{self.number}.{each}" * 30) for each in range(max(1, count))]
                whole = notes[:1] if what == "append" else notes if count else []
                self.after = self.before | {key: (self.before.get(key, []) if what == "append" else []) + whole}
                if what == "append":
                    journal.append(whole[0])
                else:
                    journal.rewrite(key, whole)
                self.before = self.after
        finally:
            journal.close()

    def check(self):
        journal, restored = opened(self.folder, self.loss)
        journal.close()
        assert journal.damage == {}
        found = {}
        for note in restored:
            found.setdefault(note.key, []).append(note)
        assert found in [{key: notes for key, notes in each.items() if notes} for each in (self.before, self.after)]


@settings(max_examples=examples(60))
@given(STEPS, st.integers(0), st.booleans())
def test_after_a_power_cut_at_any_step_there_is_what_was_or_what_was_to_be(tmp_path_factory, steps, seed, listed):
    loss, rng, folder = Lost if listed else None, Random(seed), tmp_path_factory.mktemp("disks")
    at = 0
    while True:
        root = folder / str(at)
        root.mkdir()
        disk, tried = FaultyDisk(root, steps=at), Tried(root / "logs", loss)
        try:
            with disk.used():
                tried.run(steps)
            break
        except PowerCut:
            disk.lose(rng)
            with FaultyDisk(root).used():
                tried.check()
        at += 1
    assert at >= len([each for each in steps if each[0] == "append"])
    tried.check()


def damaged(folder, key, flipped=14):
    path = folder / file_name(key)
    data = bytearray(path.read_bytes())
    data[flipped] ^= 0x40
    path.write_bytes(data)
    return path, bytes(data)


def test_a_damaged_file_is_set_aside_under_its_name_and_costs_its_key_alone(folder, caplog):
    written(folder, *NOTES)
    path, data = damaged(folder, "a")
    for _ in range(3):
        journal, restored = opened(folder)
        assert [type(each) for each in restored] == [Lost, Note]
        assert (restored[0].key, restored[1]) == ("a", NOTES[1])
        assert "kept as a.log.corrupt-1" in restored[0].damage
        journal.close()
    assert path.with_name("a.log.corrupt-1").read_bytes() == data
    assert f"journal {path} of a is corrupt" in caplog.text
    journal, _ = opened(folder)
    journal.rewrite("a", [Note("a", "anew")])
    journal.close()
    assert found_in(folder) == [Note("a", "anew"), NOTES[1]]


def test_a_file_that_is_gone_or_empty_is_a_loss(folder):
    for ruin in (
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(99)),
    ):
        written(folder, Note("x", "1"))
        ruin(folder / "x.log")
        journal, restored = opened(folder)
        assert [(each.key, type(each)) for each in restored] == [("x", Lost)]
        journal.rewrite("x", [])
        journal.close()
        assert found_in(folder) == []


def test_a_folder_that_is_gone_is_a_loss_of_each_key(folder):
    written(folder, *NOTES)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert [(each.key, type(each)) for each in found_in(folder)] == [("a", Lost), ("b", Lost)]


def test_a_damaged_list_is_said_first_at_every_start_and_whole_files_stay(folder):
    written(folder, *NOTES)
    index = folder.with_name("logs.index")
    index.write_bytes(b"no list")
    for _ in range(3):
        journal, restored = opened(folder)
        assert (restored[0].key, restored[1:]) == ("", [NOTES[0], NOTES[2], NOTES[1]])
        journal.close()
    written(folder, Note("c", "4"))
    (folder / "b.log").unlink()
    assert [(each.key, type(each)) for each in found_in(folder)] == [
        ("", Lost),
        ("a", Note),
        ("a", Note),
        ("c", Note),
        ("b", Lost),
    ]


def test_a_file_under_a_wrong_name_is_damage(folder):
    written(folder, *NOTES)
    (folder / "a.log").rename(folder / "c.log")
    journal, restored = opened(folder)
    assert {each.key for each in restored if isinstance(each, Lost)} == {"a"}
    assert journal.damage["c.log"].startswith("it holds records of something else")
    assert (folder / "c.log.corrupt-1").exists()
    journal.close()


def test_without_a_list_damage_is_set_aside_and_forgotten(folder, caplog):
    written(folder, *NOTES, loss=None)
    damaged(folder, "a")
    journal, restored = opened(folder, None)
    assert (restored, list(journal.damage)) == ([NOTES[1]], ["a.log"])
    assert "is corrupt" in caplog.text
    assert (folder / "a.log.corrupt-1").exists()
    journal.close()
    assert not folder.with_name("logs.index").exists()


def test_a_torn_write_is_cut_and_the_file_goes_on(folder, caplog):
    written(folder, *NOTES)
    path = folder / "a.log"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    journal, restored = opened(folder)
    assert (restored, journal.damage) == ([NOTES[0], NOTES[1]], {})
    journal.append(NOTES[2])
    journal.close()
    assert path.read_bytes() == whole
    assert "did not finish" in caplog.text


def test_after_a_failed_write_nothing_more_is_taken(folder, monkeypatch):
    written(folder, *NOTES)
    for break_it in (lambda j: j.append(Note("a", "no")), lambda j: j.rewrite("a", [Note("a", "no")])):
        journal, _ = opened(folder)

        def full(_descriptor):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(JournalFailed, match="No space left"):
                break_it(journal)
        with pytest.raises(UsageError, match="not open"):
            journal.append(Note("a", "no"))
        with pytest.raises(UsageError, match="not open"):
            journal.rewrite("a", [])


def test_what_it_does_not_keep_is_refused(folder):
    journal, _ = opened(folder)
    with pytest.raises(UsageError, match="does not keep Other"):
        journal.append(Other("a"))
    with pytest.raises(UsageError, match="longer than"):
        journal.append(Note("a", "x" * 1024 * 1024))
    with pytest.raises(UsageError, match="another key"):
        journal.rewrite("a", [Note("b", "1")])
    with pytest.raises(UsageError, match="open already"):
        journal.open()
    assert journal.keeps_no_other([Note, Lost, Other])
    assert not journal.keeps_no_other([Note])
    with pytest.raises(JournalFailed, match="open elsewhere"):
        opened(folder)
    journal.close()
    with pytest.raises(UsageError, match="at least one"):
        KeyedJournal(folder, [])
    folder.rmdir()
    folder.write_text("a file")
    with pytest.raises(JournalFailed, match="cannot be opened"):
        opened(folder)


def test_damage_without_end_is_said_in_the_end(folder):
    written(folder, *NOTES)
    for number in range(1, CORRUPT_FILES_MAX + 1):
        (folder / f"a.log.corrupt-{number}").touch()
    damaged(folder, "a")
    with pytest.raises(JournalFailed, match="look at the disk"):
        opened(folder)


@given(st.text(max_size=300), st.text(max_size=300))
def test_each_key_has_a_file_of_its_own_in_the_folder(one, other):
    name = file_name(one)
    assert (name == file_name(other)) == (one == other)
    assert name.lower() == name
    assert len(name) <= FILE_NAME_CHARACTERS_MAX + 4
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-%~.")
    assert name.count(".") == 1
