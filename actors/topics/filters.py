"""Topics and filters as MQTT has them (MQTT 5.0, section 4.7): which are good, which match, which one covers another.

    sensors/+/temperature   `+` is any one level          sensors/#   `#` is `sensors`, and everything below it
    $x/y                    `$` in front: no filter that begins with a wildcard matches it

Levels are compared byte by byte, empty ones count, and nothing is normalized. Shared subscriptions (`$share/…`) are not
offered: they need somebody who says whose turn it is.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from atoll.actors.topics.errors import BadTopic

TOPIC_BYTES_MAX = 1024
"""Of a topic or a filter, in UTF-8."""
LEVELS_MAX = 32
FILTERS_MAX = 64
"""Of one subscriber."""
SHOWN_CHARACTERS = 80
SHARED = "$share"

H = TypeVar("H", bound=Hashable)


def check_topic(topic: str) -> None:
    """Let a topic pass that can be published to.

    Raises:
        BadTopic: It is none.
    """
    _check(topic, "topic")
    if "+" in topic or "#" in topic:
        raise BadTopic(f"{_shown(topic)} is no topic: + and # are for filters; name one topic")


def check_filter(wanted: str) -> None:
    """Let a filter pass that can be subscribed to.

    Raises:
        BadTopic: It is none.
    """
    _check(wanted, "filter")
    levels = wanted.split("/")
    if levels[0] == SHARED:
        raise BadTopic(f"{_shown(wanted)} is a shared subscription, which Atoll has not; subscribe without {SHARED}")
    if any(("+" in each or "#" in each) and len(each) > 1 for each in levels):
        raise BadTopic(f"{_shown(wanted)} is no filter: + and # stand alone in their level; write it as a/+/b or a/#")
    if "#" in levels[:-1]:
        raise BadTopic(f"{_shown(wanted)} is no filter: # is the last level; write + for a level in the middle")


def good_filters(wanted: Iterable[str]) -> tuple[str, ...]:
    """Give the filters of one subscriber, each once.

    Raises:
        BadTopic: One is none, or there are none, or too many.
    """
    filters = tuple(dict.fromkeys(wanted))
    for each in filters:
        check_filter(each)
    if not 0 < len(filters) <= FILTERS_MAX:
        raise BadTopic(f"a subscriber has 1 to {FILTERS_MAX} filters; use + and #, or subscribe twice")
    return filters


def _check(text: str, what: str) -> None:
    if not text:
        raise BadTopic(f"a {what} has at least one character; name one, as sensors/kitchen")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadTopic(f"a {what} is UTF-8, and this one is not; name another one") from error
    if size > TOPIC_BYTES_MAX:
        raise BadTopic(f"a {what} has at most {TOPIC_BYTES_MAX} bytes, this one {size}; name a shorter one")
    if "\0" in text:
        raise BadTopic(f"a {what} holds no zero character; name another one")
    if text.count("/") >= LEVELS_MAX:
        raise BadTopic(f"a {what} has at most {LEVELS_MAX} levels; name one with fewer /")


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")


def matches(wanted: str, topic: str) -> bool:
    """Tell whether a good filter matches a good topic."""
    tree: FilterTree[None] = FilterTree()
    tree.add(wanted, None)
    return bool(tree.holders(topic))


def covers(allowed: str, wanted: str) -> bool:
    """Tell whether a filter matches every topic that another one does."""
    have, want = allowed.split("/"), wanted.split("/")
    if have[0] in {"+", "#"} and want[0].startswith("$"):
        return False
    for index, level in enumerate(have):
        if level == "#":
            return True
        if index == len(want) or want[index] == "#" or level not in {"+", want[index]}:
            return False
    return len(have) == len(want)


def all_covered(allowed: Iterable[str], wanted: Iterable[str]) -> bool:
    """Tell whether each filter that is wanted is within one that is allowed."""
    have = tuple(allowed)
    return all(any(covers(each, want) for each in have) for want in wanted)


@dataclass(slots=True)
class _Level(Generic[H]):
    below: "dict[str, _Level[H]]" = field(default_factory=dict)
    here: dict[H, int] = field(default_factory=dict)
    """Whose filters end here, and how often."""


class FilterTree(Generic[H]):
    """Finds who holds a filter that matches a topic, in steps that depend on the topic's levels alone."""

    def __init__(self) -> None:
        self._root: _Level[H] = _Level()

    def add(self, wanted: str, holder: H) -> None:
        """Enter a good filter of somebody."""
        level = self._root
        for name in wanted.split("/"):
            level = level.below.setdefault(name, _Level())
        level.here[holder] = level.here.get(holder, 0) + 1

    def remove(self, wanted: str, holder: H) -> None:
        """Strike it off, once."""
        way = [self._root]
        names = wanted.split("/")
        for name in names:
            way.append(way[-1].below[name])
        here = way[-1].here
        here[holder] -= 1
        if not here[holder]:
            del here[holder]
        for above, name in zip(reversed(way[:-1]), reversed(names), strict=True):
            level = above.below[name]
            if level.here or level.below:
                return
            del above.below[name]

    def holders(self, topic: str) -> set[H]:
        """Give who wants that topic."""
        found: set[H] = set()
        levels: list[_Level[H]] = [self._root]
        wild = not topic.startswith("$")
        for name in topic.split("/"):
            following: list[_Level[H]] = []
            for level in levels:
                if wild and (rest := level.below.get("#")) is not None:
                    found.update(rest.here)
                if wild and (any_one := level.below.get("+")) is not None:
                    following.append(any_one)
                # A topic has no wildcards, so this is the level of that very name.
                if (same := level.below.get(name)) is not None:
                    following.append(same)
            levels, wild = following, True
        for level in levels:
            found.update(level.here)
            if (rest := level.below.get("#")) is not None:
                found.update(rest.here)
        return found

    def __bool__(self) -> bool:
        return bool(self._root.below)
