"""What a store forgets, and when: logs of actors that were removed, and of those that are kept elsewhere by now."""

from random import Random

import pytest

from atoll.actors.hand_over.log_store import LogStore
from atoll.actors.hand_over.messages import (
    Append,
    Entry,
    Forget,
    FoundingsOver,
    LogDoubted,
    MayForget,
    Position,
    Seal,
    Sealed,
)
from atoll.actors.hand_over.retention import LOOK
from atoll.actors.placement.messages import FindPlace, Placed, PlaceFound
from atoll.actors.runtime.machine import Arm, Persist, Received, Rewrite, Send, TimerFired
from atoll.testing.elections import simulated_node

OWN, A, B, C = (simulated_node(number) for number in range(4))


class Kept:
    """A store and its disk."""

    def __init__(self):
        self.disk = []
        self.start()

    def start(self):
        self.store = LogStore(rng=Random(len(self.disk)), own=OWN)
        self._carry_out(self.store.start(list(self.disk), 0.0))

    def _carry_out(self, effects, count=None):
        self.sent = []
        for effect in effects[:count]:
            match effect:
                case Persist(record):
                    self.disk.append(record)
                case Rewrite(key=key, records=records):
                    self.disk = [*(each for each in self.disk if each.actor != key), *records]
                case Send(_, message):
                    self.sent.append(message)

    def hear(self, message, sender=A, count=None):
        """Take a message, and carry out so many of the effects, or all of them."""
        self._carry_out(self.store.handle(Received(sender, message), 0.0), count)
        self.store.check()
        return self.sent

    def founded(self, generation=1, life=7):
        (sealed,) = self.hear(Seal("ledger", generation, life, founds=True, kind="Ledger"))
        assert isinstance(sealed, Sealed)
        entry = Entry(generation, 1, operation=b"Ledger")
        self.hear(Append("ledger", generation, life, sealed.memory, Position(), (entry,)))
        return sealed


@pytest.fixture
def kept():
    return Kept()


def test_a_log_is_dropped_when_no_actor_of_its_name_can_begin_so_low(kept):
    assert kept.founded().voice
    kept.hear(PlaceFound("ledger", None, A, first=1))
    assert "ledger" in kept.store.logs, "its founder may be about to claim it"
    kept.hear(PlaceFound("ledger", None, A, "a hint", first=9))
    assert "ledger" in kept.store.logs, "a hint is not enough"
    kept.hear(PlaceFound("ledger", None, A, first=3))
    assert "ledger" not in kept.store.logs
    assert kept.store.size_bytes == 0
    assert kept.disk == [FoundingsOver("", 2)]


def test_nobody_founds_an_actor_of_that_name_as_it_was_even_after_a_restart(kept):
    kept.founded()
    kept.hear(PlaceFound("ledger", None, A, first=3))
    kept.start()
    (late,) = kept.hear(Seal("ledger", 1, 7, founds=True, kind="Ledger"))
    assert not late.voice
    (new,) = kept.hear(Seal("ledger", 3, 8, founds=True, kind="Ledger"))
    assert new.voice
    assert new.last == Position()


@pytest.mark.parametrize("count", range(3))
def test_a_crash_while_a_log_is_dropped_leaves_it_or_the_number(kept, count):
    kept.founded()
    kept.hear(PlaceFound("ledger", None, A, first=3), count=count)
    kept.start()
    assert ("ledger" in kept.store.logs, kept.store.generation_floor) == ((True, 0), (True, 2), (False, 2))[count]
    kept.hear(PlaceFound("ledger", None, A, first=3))
    assert kept.disk == [FoundingsOver("", 2)]


def test_a_log_that_is_kept_elsewhere_is_emptied_when_the_host_says_that_it_is_whole_there(kept):
    sealed = kept.founded()
    assert kept.hear(Forget("ledger", 4)) == [], "nobody was asked"
    assert kept.hear(PlaceFound("ledger", Placed(4, B, (A, B, C)), A)) == [MayForget("ledger", 4)]
    for wrong, sender in ((Forget("ledger", 4), A), (Forget("ledger", 3), B), (Forget("other", 4), B)):
        kept.hear(wrong, sender)
        assert kept.store.logs["ledger"].voice
    kept.hear(Forget("ledger", 4), B)
    assert kept.store.size_bytes == 0
    kept.start()
    log = kept.store.logs["ledger"]
    assert (log.voice, log.generation, log.log.last) == (False, 3, Position())
    assert log.memory != sealed.memory
    assert kept.hear(PlaceFound("ledger", Placed(4, B, (A, B, C)), A)) == [], "there is nothing to ask about"


def test_an_emptied_log_keeps_the_fence_and_an_owner_that_wants_it_again_is_heard(kept):
    kept.founded()
    kept.hear(PlaceFound("ledger", Placed(4, B, (A, B, C)), A))
    kept.hear(Forget("ledger", 4), B)
    for generation in (1, 3):
        (refused,) = kept.hear(Seal("ledger", generation, 7, founds=True))
        assert (type(refused).__name__, refused.highest) == ("Fenced", 3)
    (sealed,) = kept.hear(Seal("ledger", 4, 9))
    assert (sealed.voice, sealed.generation) == (False, 4)


def test_a_log_that_was_sealed_since_is_not_emptied(kept):
    kept.founded()
    kept.hear(PlaceFound("ledger", Placed(4, B, (A, B, C)), A))
    kept.hear(Seal("ledger", 4, 9))
    kept.hear(Forget("ledger", 4), B)
    assert kept.store.logs["ledger"].voice


def test_a_store_of_the_set_keeps_its_log_and_looks_at_each_now_and_then(kept):
    kept.founded()
    assert kept.hear(PlaceFound("ledger", Placed(4, B, (A, OWN)), A)) == []
    effects = kept.store.handle(TimerFired(LOOK), 0.0)
    assert [type(each) for each in effects] == [Send, Arm]
    assert effects[0].message == FindPlace("ledger")
    assert kept.hear(LogDoubted("ledger")) == [FindPlace("ledger")]
    assert kept.hear(LogDoubted("other")) == []
