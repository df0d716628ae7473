"""How fit a node is to be supernode, and in which respect one is ahead of another.

Facts are put into classes before they are compared: a supernode that changed with every megabyte of free memory would
help nobody.
"""

import math
from collections.abc import Mapping

import msgspec

from atoll.transport.identity import NodeId

CLASS_MAX = 40
"""Highest class; 2**40 MiB of memory is enough."""
UPTIME_CLASSES_S = (600.0, 86_400.0, 604_800.0)
"""Ten minutes, a day, a week: who has just started may stop again soon."""


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node knows of its host and its place in the network."""

    on_mains: bool
    wired: bool
    cloud_reachable: bool
    memory_free_bytes: int
    processors_idle: float
    """Idle processors, as cores: four cores half busy are 2.0."""
    uptime_s: float


class Score(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Fitness; fields in the order of their weight, more is better. Equal scores are decided by the higher node id."""

    mains: bool = False
    wired: bool = False
    cloud: bool = False
    memory_class: int = 0
    """log2 of the free MiB."""
    processor_class: int = 0
    """log2 of the idle cores, plus one; 0 for less than one."""
    uptime_class: int = 0


_ADVANTAGES = {
    "mains": "on mains power",
    "wired": "wired",
    "cloud": "reaches the cloud",
    "memory_class": "more free memory",
    "processor_class": "more idle processors",
    "uptime_class": "up for longer",
}


def score_of(facts: NodeFacts) -> Score:
    """Put facts into classes."""
    return Score(
        mains=facts.on_mains,
        wired=facts.wired,
        cloud=facts.cloud_reachable,
        memory_class=_class_of(facts.memory_free_bytes / 2**20),
        processor_class=_class_of(facts.processors_idle),
        uptime_class=sum(facts.uptime_s >= limit for limit in UPTIME_CLASSES_S),
    )


def _class_of(amount: float) -> int:
    return 0 if amount < 1 else min(CLASS_MAX, 1 + int(math.log2(amount)))


def advantage(better: Score, worse: Score) -> str:
    """Name the first respect in which `better` is ahead; empty where the scores are equal or it is behind."""
    if better <= worse:
        return ""
    return next(words for name, words in _ADVANTAGES.items() if getattr(better, name) != getattr(worse, name))


def best_of(scores: Mapping[NodeId, Score]) -> NodeId:
    """Choose the fittest node; the higher id among equals, so that every node chooses alike."""
    return max(scores, key=lambda node: (scores[node], node))


def why_best(node: NodeId, scores: Mapping[NodeId, Score]) -> str:
    """Say in words how `node` compares with the others in `scores`, which holds its own score too."""
    others = {other: score for other, score in scores.items() if other != node}
    if not others:
        return "no other node is known"
    rival = best_of(others)
    if ahead := advantage(scores[node], scores[rival]):
        return f"best of {len(scores)}, ahead of {rival.short}: {ahead}"
    if ahead := advantage(scores[rival], scores[node]):
        return f"{rival.short} is better ({ahead}), but this one was chosen first"
    return f"as good as {rival.short}" + (", the higher id decided" if node > rival else ", and quicker")
