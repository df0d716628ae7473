"""The roll of a site: who is on it, for how long, and which records are fit for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.cloud.messages import NodeRecord, OfferedService
from atoll.actors.duties import roll as module
from atoll.actors.duties.roll import NAME_CHARACTERS_MAX, RECORD_S, SERVICES_MAX, Roll, sane
from atoll.transport.identity import NodeId


def record(number, name="", **fields):
    return NodeRecord(NodeId(bytes([number]) * 32), name or f"node-{number}", "home", **fields)


def test_a_record_is_news_once_and_again_when_it_changes():
    roll = Roll()
    assert roll.take(record(1), 0.0)
    assert not roll.take(record(1), 1.0)
    assert roll.take(record(1, version="2"), 2.0)
    assert roll.records() == (record(1, version="2"),)


def test_who_says_nothing_for_too_long_is_struck_off_and_who_reports_is_not():
    roll = Roll()
    roll.take(record(1), 0.0)
    roll.take(record(2), 0.0)
    assert not roll.sweep(RECORD_S - 0.1)
    roll.take(record(2), RECORD_S - 0.1)
    assert roll.sweep(RECORD_S)
    assert roll.records() == (record(2),)
    assert not roll.sweep(RECORD_S)


def test_a_dead_member_is_struck_off_at_once():
    roll = Roll()
    roll.take(record(1), 0.0)
    assert roll.lost(record(1).node)
    assert not roll.lost(record(1).node)
    assert roll.records() == ()


def test_records_stand_by_name_and_equal_names_by_id():
    roll = Roll()
    for number, name in ((3, "tv"), (1, "tv"), (2, "desk")):
        roll.take(record(number, name), 0.0)
    assert [each.node[0] for each in roll.records()] == [2, 1, 3]


def test_a_full_roll_takes_nobody_new_and_keeps_those_it_has(monkeypatch):
    monkeypatch.setattr(module, "MEMBERS_MAX", 2)
    roll = Roll()
    roll.take(record(1), 0.0)
    roll.take(record(2), 0.0)
    assert not roll.take(record(3), 0.0)
    assert roll.take(record(2, version="2"), 0.0)
    assert len(roll.records()) == 2
    roll.lost(record(1).node)
    assert roll.take(record(3), 0.0)


LONG = "x" * (NAME_CHARACTERS_MAX + 1)


@pytest.mark.parametrize(
    "bad",
    [
        record(1, LONG),
        record(1, "a\nb"),
        record(1, version=LONG),
        record(1, version="1\x1b[2J"),
        record(1, actors=("",)),
        record(1, actors=("a\x00",)),
        record(1, actors=("a",) * (SERVICES_MAX + 1)),
        record(1, services=(OfferedService("echo", "/echo\r\n"),)),
        record(1, services=(OfferedService("", "/echo"),)),
        record(1, services=(OfferedService("echo", ""),)),
        record(1, services=(OfferedService("echo", "/" + LONG),)),
        record(1, services=(OfferedService("echo", "/echo"),) * (SERVICES_MAX + 1)),
    ],
)
def test_a_record_beyond_the_limits_is_not_sane(bad):
    assert not sane(bad)


def test_a_record_at_the_limits_is_sane():
    assert sane(record(1))
    name = "x" * NAME_CHARACTERS_MAX
    services = (OfferedService(name, "/" + name[1:]),) * SERVICES_MAX
    assert sane(record(1, name, version=name, actors=(name,) * SERVICES_MAX, services=services))


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "lost", "sweep"]), st.integers(1, 5), st.floats(0.0, RECORD_S)), max_size=40
    )
)
def test_the_roll_has_exactly_those_who_reported_in_time(steps):
    roll, expected, now = Roll(), {}, 0.0
    for kind, number, passed_s in steps:
        now += passed_s
        match kind:
            case "take":
                assert roll.take(record(number), now) is (number not in expected)
                expected[number] = now + RECORD_S
            case "lost":
                assert roll.lost(record(number).node) is (expected.pop(number, None) is not None)
            case "sweep":
                left = {each: until for each, until in expected.items() if until > now}
                assert roll.sweep(now) is (left != expected)
                expected = left
        assert {each.node[0] for each in roll.records()} == set(expected)
