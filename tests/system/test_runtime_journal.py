"""The journal against torn writes, damage, a full disk and a second owner."""

import os

import msgspec
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.runtime import Journal, JournalFailed
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId


class Ballot(msgspec.Struct, frozen=True, array_like=True, tag="b"):
    epoch: int
    voted_for: NodeId | None = None


class Note(msgspec.Struct, frozen=True, array_like=True, tag="n"):
    text: str


class Other(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    pass


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "elector.journal"


def opened(path, **more):
    journal = Journal(path, [Ballot, Note], **more)
    return journal, list(journal.open())


def written(path, *records):
    journal, _ = opened(path)
    for record in records:
        journal.append(record)
    journal.close()
    return path.read_bytes()


BALLOTS = [Ballot(1), Note("hello"), Ballot(2, NodeId(b"x" * 32))]


def test_records_come_back_in_order_and_the_file_is_private(path):
    written(path, *BALLOTS)
    journal, restored = opened(path)
    assert restored == BALLOTS
    assert journal.damage is None
    journal.close()
    journal.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_append_is_synced_before_it_returns(path, monkeypatch):
    journal, _ = opened(path)
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(path.stat().st_size), real(fd)))
    journal.append(Ballot(1))
    assert synced == [path.stat().st_size]
    journal.close()


def test_a_tail_torn_at_any_byte_is_cut_and_the_journal_goes_on(path, caplog):
    whole = written(path, *BALLOTS)
    last = written(path.with_name("one"), BALLOTS[-1])
    for length in range(len(whole) - len(last) + 1, len(whole)):
        path.write_bytes(whole[:length])
        journal, restored = opened(path)
        assert restored == BALLOTS[:2]
        assert journal.damage is None
        journal.append(Ballot(3))
        journal.close()
        journal, restored = opened(path)
        assert restored == [*BALLOTS[:2], Ballot(3)]
        journal.close()
    assert "did not finish" in caplog.text


def test_a_tail_of_zeros_is_a_torn_write_too(path):
    path.parent.mkdir()
    whole = written(path, *BALLOTS)
    path.write_bytes(whole + bytes(500))
    journal, restored = opened(path)
    assert (restored, journal.damage) == (BALLOTS, None)
    journal.close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("flipped", range(4 + 4 + 4 + 5))
def test_damage_before_good_records_is_kept_aside_and_said(path, caplog, flipped):
    whole = bytearray(written(path, *BALLOTS))
    first = len(written(path.with_name("one"), BALLOTS[0]))
    whole[first + flipped] ^= 0x40
    path.write_bytes(whole)
    journal, restored = opened(path)
    assert restored == BALLOTS[:1]
    assert "corrupt-1" in journal.damage
    assert path.with_name("elector.journal.corrupt-1").read_bytes() == whole
    assert "is corrupt" in caplog.text
    journal.append(Ballot(9))
    journal.close()
    journal, restored = opened(path)
    assert restored == [Ballot(1), Ballot(9)]
    journal.close()


def test_a_record_of_an_unknown_type_is_damage_not_a_crash(path):
    foreign = Journal(path, [Other])
    foreign.open()
    foreign.append(Other())
    foreign.close()
    journal, restored = opened(path)
    assert restored == []
    assert "none of ['Ballot', 'Note']" in journal.damage
    journal.close()


def test_a_file_that_is_no_journal_at_all_is_kept_aside(path):
    path.parent.mkdir()
    path.write_bytes(b"not ours" * 1_000_000)
    journal, restored = opened(path)
    assert restored == []
    assert journal.damage
    journal.close()


def test_a_long_journal_is_compacted_to_the_newest_of_each_type(path):
    journal, _ = opened(path, size_bytes_max=2000)
    for number in range(1000):
        journal.append(Ballot(number))
        if number == 500:
            journal.append(Note("once"))
    assert path.stat().st_size <= 2100
    journal.close()
    journal, restored = opened(path)
    assert [each for each in restored if isinstance(each, Note)] == [Note("once")]
    assert restored[-1] == Ballot(999)
    journal.close()
    assert list(path.parent.iterdir()) == [path]


def test_a_crash_during_compaction_leaves_the_old_journal(path, monkeypatch):
    journal, _ = opened(path, size_bytes_max=200)

    def crash(self, target):
        raise OSError("power cut")

    monkeypatch.setattr("pathlib.Path.replace", crash)
    with pytest.raises(JournalFailed, match="power cut"):  # noqa: PT012 - at some append
        for number in range(100):
            journal.append(Ballot(number))
    monkeypatch.undo()
    journal, restored = opened(path)
    assert restored[-1] == Ballot(len(restored) - 1)
    journal.close()


def test_after_a_failed_write_nothing_more_is_taken(path, monkeypatch):
    journal, _ = opened(path)
    journal.append(Ballot(1))

    def full(fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(JournalFailed, match="No space left"):
            journal.append(Ballot(2))
    with pytest.raises(UsageError, match="not open"):
        journal.append(Ballot(3))
    journal, restored = opened(path)
    assert restored[0] == Ballot(1)
    journal.close()


def test_a_journal_has_one_owner(path):
    journal, _ = opened(path)
    with pytest.raises(JournalFailed, match="open elsewhere"):
        opened(path)
    with pytest.raises(UsageError, match="open already"):
        journal.open()
    for number in range(3):
        journal.append(Ballot(number))
    journal._compact()
    with pytest.raises(JournalFailed, match="open elsewhere"):
        opened(path)
    journal.close()


def test_what_it_does_not_keep_is_refused(path):
    journal, _ = opened(path)
    with pytest.raises(UsageError, match="does not keep Other"):
        journal.append(Other())
    with pytest.raises(UsageError, match="longer than"):
        journal.append(Note("x" * 1024 * 1024))
    journal.close()
    with pytest.raises(UsageError, match="at least one"):
        Journal(path, [])
    path.unlink()
    path.mkdir()
    with pytest.raises(JournalFailed, match="cannot be opened"):
        opened(path)


class Lost(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    damage: str


def opened_with_loss(path, **more):
    journal = Journal(path, [Ballot, Note, Lost], loss=Lost, **more)
    return journal, list(journal.open())


def test_a_new_journal_has_lost_nothing_not_even_when_its_first_write_was_cut_short(path):
    for content in (b"", b"ATJ1", bytes(40)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        journal, restored = opened_with_loss(path)
        assert (restored, journal.damage) == ([], None)
        journal.close()


def test_a_journal_that_is_gone_or_empty_where_one_was_is_damage(path):
    for ruin in (path.unlink, lambda: path.write_bytes(b""), lambda: path.write_bytes(bytes(64))):
        journal, _ = opened_with_loss(path)
        journal.append(Ballot(1))
        journal.close()
        ruin()
        journal, restored = opened_with_loss(path)
        assert restored == [Lost("it had records once, and none is left")]
        journal.close()


def test_a_loss_is_known_at_every_later_start(path):
    whole = bytearray(written(path, *BALLOTS))
    whole[14] ^= 0x40
    path.write_bytes(whole)
    for _ in range(3):
        journal, restored = opened_with_loss(path)
        assert [type(record) for record in restored] == [Lost]
        assert "corrupt-1" in restored[0].damage
        journal.close()
    journal, _ = opened_with_loss(path)
    journal.append(Ballot(4))
    journal.append(Lost(""))
    journal.close()
    journal, restored = opened_with_loss(path)
    assert (restored[1:], journal.damage) == ([Ballot(4), Lost("")], None)
    journal.close()


def test_a_crash_while_damage_is_mended_leaves_the_damage_to_be_found_again(path, monkeypatch):
    whole = bytearray(written(path, *BALLOTS))
    whole[14] ^= 0x40
    path.write_bytes(whole)

    def crash(self, target):
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", crash)
        with pytest.raises(JournalFailed, match="power cut"):
            opened_with_loss(path)
    journal, restored = opened_with_loss(path)
    assert [type(record) for record in restored] == [Lost]
    journal.close()


@pytest.mark.parametrize("flipped", range(-8, 0))
def test_a_last_record_that_rotted_is_not_taken_for_a_torn_one(path, flipped):
    whole = bytearray(written(path, *BALLOTS))
    whole[flipped] ^= 0x40
    path.write_bytes(whole)
    journal, restored = opened_with_loss(path)
    assert restored[:-1] == BALLOTS[:2]
    assert isinstance(restored[-1], Lost)
    journal.close()


def test_a_damaged_record_is_kept_through_compaction(path):
    journal, _ = opened_with_loss(path, size_bytes_max=500)
    journal.append(Lost("once"))
    for number in range(100):
        journal.append(Ballot(number))
    journal.close()
    journal, restored = opened_with_loss(path)
    journal.close()
    assert (restored[0], restored[-1]) == (Lost("once"), Ballot(99))


@settings(max_examples=examples(60))
@given(st.lists(st.integers(0, 2**40), max_size=8), st.data())
def test_whatever_one_byte_does_a_beginning_comes_back_and_nothing_false(tmp_path_factory, numbers, data):
    path = tmp_path_factory.mktemp("journal") / "j"
    records = [Ballot(number) for number in numbers]
    whole = bytearray(written(path, *records))
    if whole:
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(whole)
    journal, restored = opened(path)
    assert restored == records[: len(restored)]
    journal.close()
    journal, again = opened(path)
    assert again == restored
    assert journal.damage is None
    journal.close()
