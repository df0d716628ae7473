"""Hostile messages about topics; `make soak` runs a million."""

import re

import pytest

from atoll.actors.topics.exchange import Exchange
from atoll.actors.topics.gates import Gates
from atoll.actors.topics.messages import MESSAGES
from atoll.testing.topic_fuzz import TopicFuzz


def test_hostile_messages_about_topics_find_nothing_wrong(enough):
    fuzz = TopicFuzz(1)
    fuzz.run(enough(8000))
    assert fuzz.findings == []
    heard = {fate.split()[1] for fate in fuzz.fates if fate != "no message"}
    assert heard == {kind.__name__ for kind in MESSAGES}
    for deep in ("member: TopicMessages taken", "gate: VisitBegins let in", "gate: VisitPublish taken"):
        assert fuzz.fates[deep] > 20
    assert fuzz.fates["gate: VisitBegins TooMany"]
    assert fuzz.fates["gate: VisitBegins NotLetIn"]


def test_cases_are_a_function_of_the_seed():
    first, second = TopicFuzz(7), TopicFuzz(7)
    first.run(500)
    second.run(500)
    assert first.fates == second.fates


def keeps_every_source(self, peer, source):
    self._sources[peer] = source
    return source


@pytest.mark.parametrize(
    ("kind", "rule", "broken", "what"),
    [
        (Exchange, "_check", lambda *_: None, "came back into its site"),
        (Exchange, "_begin_source", keeps_every_source, "sources"),
        (Gates, "_check_item", lambda *_: None, "came back into its site"),
        (Gates, "_check", lambda *_: None, "BadTopic|assert|bytes|nobody can read"),
    ],
)
def test_the_fuzz_notices_an_end_without_its_rule(monkeypatch, kind, rule, broken, what):
    monkeypatch.setattr(kind, rule, broken)
    fuzz = TopicFuzz(2)
    for _ in range(20):
        fuzz.run(1000)
        if fuzz.findings:
            break
    assert fuzz.findings
    assert any(re.search(what, each) for each in fuzz.findings), fuzz.findings[0]
