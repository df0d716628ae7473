"""Topics and filters against an oracle of MQTT's words, and what is none."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.topics.errors import BadTopic
from atoll.actors.topics.filters import (
    FILTERS_MAX,
    LEVELS_MAX,
    TOPIC_BYTES_MAX,
    FilterTree,
    all_covered,
    check_filter,
    check_topic,
    covers,
    good_filters,
    matches,
)

LEVELS = st.sampled_from(["", "a", "b", "$x"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = (
    st.tuples(st.lists(st.sampled_from(["", "a", "b", "$x", "+"]), max_size=4), st.booleans())
    .map(lambda found: "/".join([*found[0], *(["#"] if found[1] else [])]))
    .filter(bool)
)


def oracle(wanted, topic):
    """Say the same by a regular expression."""
    if wanted[0] in "+#" and topic.startswith("$"):
        return False
    body, rest = (wanted[:-1], True) if wanted.endswith("#") else (wanted, False)
    text = re.escape(body).replace(r"\+", "[^/]*")
    if rest:
        # The `/` before `#` goes with it: `a/#` is `a`, too.
        text = text[:-1] + "(/.*)?" if text.endswith("/") else ".*"
    return re.fullmatch(text, topic) is not None


@given(FILTERS, TOPICS)
def test_a_filter_matches_what_the_standard_says(wanted, topic):
    assert matches(wanted, topic) == oracle(wanted, topic)


@pytest.mark.parametrize(
    ("wanted", "topic", "fits"),
    [
        # The examples of MQTT 5.0, sections 4.7.1 and 4.7.2.
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/monitor", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/monitor", True),
        ("ACCOUNTS", "Accounts", False),
    ],
)
def test_the_examples_of_the_standard_hold(wanted, topic, fits):
    assert matches(wanted, topic) == oracle(wanted, topic) == fits


@given(st.lists(FILTERS, max_size=6), st.lists(FILTERS, max_size=3), TOPICS)
def test_a_tree_finds_the_holders_and_forgets_those_that_go(kept, gone, topic):
    tree = FilterTree()
    for number, wanted in enumerate(kept):
        tree.add(wanted, number)
    for wanted in gone:
        tree.add(wanted, "gone")
    for wanted in gone:
        tree.remove(wanted, "gone")
    assert tree.holders(topic) == {number for number, wanted in enumerate(kept) if oracle(wanted, topic)}
    for number, wanted in enumerate(kept):
        tree.remove(wanted, number)
    assert not tree


ALL_TOPICS = [
    "/".join(each) for size in range(1, 5) for each in itertools.product(["", "a", "b", "$x", "z"], repeat=size)
]


@given(FILTERS, FILTERS)
def test_a_filter_covers_another_one_if_it_matches_all_that_that_one_does(allowed, wanted):
    inside = all(oracle(allowed, topic) for topic in ALL_TOPICS if topic and oracle(wanted, topic))
    if covers(allowed, wanted):
        assert inside
    elif inside:
        # Not found are only those whose cover is made of several cases; to refuse them is safe.
        assert wanted != allowed
    assert all_covered((allowed,), (wanted,)) == covers(allowed, wanted)


@given(FILTERS)
def test_every_filter_covers_itself_and_all_is_covered_by_everything(wanted):
    assert covers(wanted, wanted)
    assert covers("#", wanted) or wanted.startswith("$")


BAD = {
    "": "at least one character",
    "a\0b": "zero character",
    "x" * (TOPIC_BYTES_MAX + 1): f"at most {TOPIC_BYTES_MAX} bytes",
    "é" * (TOPIC_BYTES_MAX // 2 + 1): f"at most {TOPIC_BYTES_MAX} bytes",
    "/" * LEVELS_MAX: f"at most {LEVELS_MAX} levels",
    "\ud800": "UTF-8",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_what_is_neither_topic_nor_filter_is_refused_in_words(text):
    for check in (check_topic, check_filter):
        with pytest.raises(BadTopic, match=BAD[text]):
            check(text)


@pytest.mark.parametrize("wanted", ["a#", "#a", "a/#/b", "#/a", "a+", "+a/b", "a/b+", "##", "++", "$share/group/a"])
def test_wildcards_stand_alone_and_the_last_one_last(wanted):
    with pytest.raises(BadTopic):
        check_filter(wanted)


def test_a_topic_has_no_wildcards_and_may_have_empty_levels():
    for topic in ("a/+", "#", "a+"):
        with pytest.raises(BadTopic, match="for filters"):
            check_topic(topic)
    for topic in ("/", "//", "a/", "/a", "$SYS/x", "a b", "é"):
        check_topic(topic)


def test_a_subscriber_has_filters_and_not_too_many():
    assert good_filters(["a", "b", "a"]) == ("a", "b")
    for bad in ([], [str(number) for number in range(FILTERS_MAX + 1)]):
        with pytest.raises(BadTopic, match=f"1 to {FILTERS_MAX} filters"):
            good_filters(bad)
