"""Each rule about calls over several paths has a mutant that breaks it, and a nemesis that must notice.

The real session runs under the very same seeds.
"""

from dataclasses import replace
from functools import cache

import pytest
from kills import must_kill, must_spare

from atoll.testing.session_calls import CallFaults, CallWorld
from atoll.transport.fragments import Outbox
from atoll.transport.multipath import Multipath
from atoll.transport.path_set import PathSet
from atoll.transport.session import Session
from atoll.transport.stream_frames import PathVerb

SEEDS = range(12)


class TellsNobodyWhatItHasLost(PathSet):
    def outgoing(self):
        self._to_tell = {path: verb for path, verb in self._to_tell.items() if verb is PathVerb.LEFT}
        return super().outgoing()


class TellsNobodyWhatItHasLeft(PathSet):
    def outgoing(self):
        self._to_tell = {path: verb for path, verb in self._to_tell.items() if verb is PathVerb.GONE}
        return super().outgoing()


class LetsCallsWaitForNothing(Multipath):
    def called(self, now):
        pass


class AnswersWhereItSpokeLast(Multipath):
    def calls_came(self, path, now):
        return []

    def _take_left(self, left, path, now, *, gone):
        return [each for each in super()._take_left(left, path, now, gone=False) if gone]


class NumbersMessagesOfAllPathsTogether(Session):
    def __init__(self, **how):
        super().__init__(**how)
        self._assemblies = [self._assemblies[0]] * len(self._assemblies)
        self._outbox = _OneRow()


class _OneRow(Outbox):
    def take(self, room, path=0):
        return super().take(room)


def session(mutant):
    """Give a session with the mutant in it."""
    if issubclass(mutant, Session):
        return mutant
    kind = type("M", (Multipath,), {"paths_kind": mutant}) if issubclass(mutant, PathSet) else mutant
    return type("S", (Session,), {"multipath_kind": kind})


KILLS = CallFaults(kinds=("kill",))
SILENCE = CallFaults(kinds=("freeze", "oneway"))
RARE = CallFaults(kinds=("swallow",), every_s=(0.5, 2.0), lasts_s=(20.0, 25.0), answer_s_max=5.0, questions=40)
LATE_ANSWERS = replace(RARE, pauses_s=((7.0, 9.0),), thinks_s=(0.5, 1.5))
"""The question is known to have come through when the path of its answer breaks."""
ORDERLY = CallFaults(bearers_only=True, pauses_s=((0.005, 0.05),), every_s=(1.2, 2.5))
NEMESES = {
    TellsNobodyWhatItHasLost: KILLS,
    TellsNobodyWhatItHasLeft: LATE_ANSWERS,
    LetsCallsWaitForNothing: SILENCE,
    AnswersWhereItSpokeLast: KILLS,
    NumbersMessagesOfAllPathsTogether: ORDERLY,
}


@cache
def violations(seed, faults, kind=Session):
    return CallWorld(seed, faults, kind).run().violations


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
def test_the_nemesis_of_a_rule_kills_its_mutant_in_half_the_seeds_and_never_the_real_session(mutant):
    faults = NEMESES[mutant]
    must_spare(SEEDS, lambda seed: violations(seed, faults))
    must_kill(mutant, SEEDS, lambda seed: violations(seed, faults, session(mutant)))
