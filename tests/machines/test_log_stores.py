"""Stores of operation logs by themselves: fences, limits, what they restore, and what no owner believes."""

from random import Random

import pytest
from hand_over_net import A, B, C, found

from atoll.actors.hand_over.durable import COMPACT_BYTES_MAX, PIPELINE_MAX, DurableOwner, Handed, Phase
from atoll.actors.hand_over.log import OperationLog, digest_of, size_of
from atoll.actors.hand_over.log_store import LOG_BYTES_MAX, LogStore
from atoll.actors.hand_over.messages import (
    OPERATION_BYTES_MAX,
    Append,
    Appended,
    Call,
    CallAnswered,
    Entry,
    Fenced,
    Install,
    LogLost,
    NotSealed,
    Position,
    Seal,
    Sealed,
    StoreFull,
    StoresWanted,
)
from atoll.actors.hand_over.state import decode_state
from atoll.actors.placement.messages import Placed
from atoll.actors.runtime.machine import Persist, Received, Rewrite, TimerFired
from atoll.testing.hand_overs import make_ledger
from atoll.transport.errors import MalformedFrame


def test_a_store_that_comes_back_is_brought_up_to_date_before_it_counts():
    net = found((A, B))
    for sequence in range(1, 4):
        net.call(A, Call("x", 9, sequence, b"a"))
    ask = [StoresWanted("x", (A, B), (A,)), StoresWanted("x", (A,), (A, B))]
    net.carry(A, net.hosts[A].handle(Received(C, ask[0]), 0.0))
    assert net.places["x"] == Placed(2, A, (A,))
    net.call(A, Call("x", 9, 4, b"a"))
    assert net.stores[B].logs["x"].log.last < net.stores[A].logs["x"].log.last
    net.carry(A, net.hosts[A].handle(Received(C, ask[0]), 5.0))
    assert net.places["x"].stores == (A,), "it came late, and says what is known no longer"
    net.carry(A, net.hosts[A].handle(Received(C, ask[1]), 5.0))
    net.carry(A, net.hosts[A].handle(TimerFired("x"), 6.0))
    assert net.places["x"] == Placed(3, A, (A, B))
    assert net.stores[B].logs["x"].log.last == net.stores[A].logs["x"].log.last
    assert net.call(A, Call("x", 9, 5, b"a")) == CallAnswered("x", 9, 5, b"5", 3)


def sealed_store(**limits):
    store = LogStore(rng=Random(1), **limits)
    (*_, answer) = store.handle(Received(A, Seal("x", 1, 77, founds=True)), 0.0)
    return store, (1, 77, answer.message.memory)


def said(store, message):
    effects = store.handle(Received(A, message), 0.0)
    store.check()
    return [each for each in effects if isinstance(each, Persist | Rewrite)], effects[-1].message


def test_a_store_has_on_disk_what_it_acknowledges_and_refuses_lower_generations_and_other_lives():
    store, fence = sealed_store()
    entries = (Entry(1, 1), Entry(1, 2, 5, 1, b"op", b"re"))
    kept, answer = said(store, Append("x", *fence, Position(), entries))
    assert (len(kept), type(answer), answer.index) == (1, Appended, 2)
    assert isinstance(said(store, Seal("x", 1, 78))[1], Fenced)
    assert isinstance(said(store, Seal("x", 3, 79))[1], Sealed)
    assert said(store, Append("x", *fence, Position(1, 2), ()))[1].highest == 3
    assert isinstance(said(store, Append("x", 3, 79, fence[2] + 1, Position(1, 2), ()))[1], NotSealed)


def test_a_store_restores_what_it_wrote_and_forgets_nothing_silently():
    store = LogStore(rng=Random(1))
    disk = []

    def take(message):
        for effect in store.handle(Received(A, message), 0.0):
            if isinstance(effect, Persist):
                disk.append(effect.record)
            elif isinstance(effect, Rewrite):
                disk[:] = effect.records
        return effect.message

    fence = (1, 77, take(Seal("x", 1, 77, founds=True)).memory)
    take(Append("x", *fence, Position(), (Entry(1, 1), Entry(1, 2, 5, 1, b"op", b"re"), Entry(1, 3, 5, 2, b"o", b"r"))))
    take(Install("x", *fence, Position(1, 2), digest_of(b"state"), 0, 1, b"state"))
    again = LogStore(rng=Random(2))
    assert again.start(disk, 0.0) == []
    log = again.logs["x"].log
    assert (log.base, log.snapshot, log.last) == (Position(1, 2), b"state", Position(1, 3))
    assert (again.logs["x"].generation, again.logs["x"].life, again.logs["x"].voice) == (1, 77, True)
    damaged = LogStore(rng=Random(3))
    (rewrite,) = damaged.start([*disk[:2], LogLost("x", "rotten")], 0.0)
    assert isinstance(rewrite, Rewrite)
    sealed = damaged.handle(Received(A, Seal("x", 2, 80)), 0.0)[-1].message
    assert (sealed.voice, sealed.last, sealed.memory == fence[2]) == (False, Position(), False)


def test_a_late_snapshot_takes_nothing_back():
    store, fence = sealed_store()
    said(store, Append("x", *fence, Position(), tuple(Entry(1, number) for number in range(1, 6))))
    for base in (4, 2):
        said(store, Install("x", *fence, Position(1, base), digest_of(b"s"), 0, 1, b"s"))
    assert (store.logs["x"].log.base, store.logs["x"].log.last) == (Position(1, 4), Position(1, 5))


def test_a_store_is_bounded_and_says_what_to_do():
    store, fence = sealed_store(log_bytes_max=500, actors_max=1)
    full = said(store, Append("x", *fence, Position(), (Entry(1, 1, 5, 1, bytes(600), b""),)))[1]
    assert isinstance(full, StoreFull)
    assert full.compact
    assert "compact it" in full.why
    assert isinstance(said(store, Seal("y", 1, 5, founds=True))[1], StoreFull)


def test_a_full_store_still_takes_what_an_earlier_generation_left_and_what_begins_one():
    store, fence = sealed_store(log_bytes_max=500)
    said(store, Append("x", *fence, Position(), (Entry(1, 1), Entry(1, 2, 5, 1, bytes(300), b""))))
    fence = (2, 78, said(store, Seal("x", 2, 78))[1].memory)
    left, begins = Entry(1, 3, 6, 1, bytes(300), b""), Entry(2, 4)
    assert said(store, Append("x", *fence, Position(1, 2), (left, begins)))[1].index == 4
    assert isinstance(said(store, Append("x", *fence, Position(2, 4), (Entry(2, 5, 7, 1, b"a"),)))[1], StoreFull)


def test_the_longest_operations_fit_into_a_store_that_is_about_to_be_compacted():
    longest = size_of(Entry(1, 1, 1, 1, bytes(OPERATION_BYTES_MAX), bytes(OPERATION_BYTES_MAX)))
    assert COMPACT_BYTES_MAX + (PIPELINE_MAX + 1) * longest <= LOG_BYTES_MAX


def test_a_snapshot_longer_than_any_is_read_is_not_applied():
    with pytest.raises(MalformedFrame, match="not the state of an actor"):
        decode_state(b"\x93\x01")
    owner = DurableOwner("x", Placed(2, A, (A,)), life=1, make=make_ledger, handed=Handed(Position(1, 1), b"\xc1"))
    owner.begin()
    owner.receive(A, Sealed("x", 2, 1, 9, True, Position(1, 1), 1), 0.0)
    assert owner.phase is Phase.ENDED
    assert "cannot be read" in owner.why


def test_logs_that_differ_are_told_apart():
    log = OperationLog(Position(1, 2), b"s", [Entry(1, 3), Entry(2, 4)])
    assert log.has(Position(1, 2))
    assert log.has(Position(2, 4))
    assert not log.has(Position(1, 4))
    assert not log.has(Position(2, 5))
    assert log.fresh((Entry(1, 3), Entry(3, 4))) == (Entry(3, 4),)


def test_a_store_drops_the_log_of_an_actor_that_was_removed_when_another_of_that_name_begins():
    store, fence = sealed_store()
    said(store, Append("x", *fence, Position(), (Entry(1, 1), Entry(1, 2, 5, 1, b"op", b"re"))))
    written, sealed = said(store, Seal("x", 9, 78, founds=True))
    assert (sealed.voice, sealed.last, sealed.memory == fence[2]) == (True, Position(), False)
    again = LogStore(rng=Random(2))
    again.start(written[0].records, 0.0)
    assert (again.logs["x"].generation, again.logs["x"].life, again.logs["x"].log.last) == (9, 78, Position())
    assert isinstance(said(store, Seal("x", 8, 79, founds=True))[1], Fenced)
