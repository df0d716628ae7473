"""Each rule of streams and paths has a mutant that breaks it, and a nemesis that must notice.

The real machines run under the very same seeds.
"""

from dataclasses import replace

import pytest
from kills import must_kill, must_spare

from atoll.testing.multipath_world import MultipathFaults, MultipathWorld
from atoll.transport.multipath import Multipath
from atoll.transport.path_set import Condition, PathSet, Rank
from atoll.transport.stream_answers import StreamAnswers
from atoll.transport.stream_credit import BUFFER_BYTES
from atoll.transport.stream_halves import ReceiveHalf, SendHalf
from atoll.transport.streams import StreamSet

SEEDS = range(6)


class ForgetsToResend(StreamSet):
    def resend(self):
        self._marked = False


class BelievesThatNothingIsLost(StreamSet):
    def echoed(self):
        self._marked = False
        return 0


class AnswersNoProbe(StreamSet):
    def answer_all(self):
        pass


class ForgetsToLend(StreamSet):
    def _lend(self, stream, each):
        pass


class LendsEveryStreamTheWholeBuffer(StreamSet):
    def _lend(self, stream, each):
        each.receive.limit = each.receive.read_bytes + BUFFER_BYTES // 2
        self._answers.ack(stream)


class OpensInAnyOrder(StreamSet):
    def _take_open(self, stream, service):
        self._next_peer = max(self._next_peer, stream)
        return super()._take_open(stream, service)


class TellsNobodyThatAStreamIsGone(StreamAnswers):
    def gone(self, stream):
        pass


class ForgetsStreamsBeforeTheirEndIsAcknowledged(StreamSet):
    def settle(self, stream):
        each = self._streams.get(stream)
        if each is not None and each.send.finished and not each.send.sendable and each.receive.at_end:
            each.send.acked = each.send.end + 1
        return super().settle(stream)


class SaysAResetOnce(StreamSet):
    def outgoing(self, room):
        frames = super().outgoing(room)
        for stream in [each for each in self._resets if not self._turns.is_ordered(each)]:
            del self._resets[stream]
        return frames


class GivesServicesBytesBehindAGap(ReceiveHalf):
    def take(self, offset, piece, *, last):
        return super().take(min(offset, self.received), piece, last=last)


class TakesBytesTwice(ReceiveHalf):
    def take(self, offset, piece, *, last):
        return super().take(max(offset, self.received), piece, last=last)


class AcknowledgesNoEnd(ReceiveHalf):
    @property
    def position(self):
        return self.received


class SendsBeyondItsCredit(SendHalf):
    def take(self, room):
        self.limit = max(self.limit, self.end)
        return super().take(room)


class LetsGoOfWhatWasSent(SendHalf):
    def go_back(self):
        pass


class WaitsForEver(PathSet):
    def _fall_silent(self, path, now):
        path.waits_since = now
        return []


class TakesAnyEchoForItsOwn(PathSet):
    def echoed(self, number, probe, now):
        for each in self._paths.values():
            each.heard_at = now
            each.waits_since = None if each.waits_since is None else now
        return super().echoed(number, probe, now)


class NeverProbes(PathSet):
    def _send_probe(self, path, now):
        super()._send_probe(path, now)
        self._frames.pop()


class StaysWithALostPath(PathSet):
    def lost(self, number, reason, now):
        path = self._paths.get(number)
        if path is not None and number != self.current:
            return super().lost(number, reason, now)
        return []


class DoesNotFollow(PathSet):
    def bytes_came(self, number, now):
        return []


class AsksNobodyElse(PathSet):
    def _pause(self, path, now):
        known = super()._pause(path, now)
        return known if path.number == self.current or path.condition is Condition.OPENING else 20.0

    def _leave(self, reason, alive_since, now):
        return super()._leave(reason, now - 1000.0, now)


class TellsNobodyThatItLeaves(PathSet):
    def retire(self, number, reason, now):
        super().retire(number, reason, now)
        self._to_tell.pop(number, None)


class StaysWithWhatIsToEnd(PathSet):
    def _prefer_better(self, now):
        for each in self._paths.values():
            each.leaving = ""
        return super()._prefer_better(now)


class GoesBackToWhatIsToEnd(PathSet):
    def _prefer_better(self, now):
        moved = super()._prefer_better(now)
        leaving = [each for each in self._paths.values() if each.leaving and each.number != self.current]
        return moved or [turn for each in leaving[:1] for turn in self._use(each, "it was better", now)]


class EchoesBeforeItAnswers(Multipath):
    def receive(self, frame, path, via, now):
        events = super().receive(frame, path, via, now)
        # What was put off stays put off: the echo overtakes the answer that it stands for.
        if frame[0] == 3:
            self.streams._answers._due.clear()
        return events


def with_half(name, kind):
    """Make a stream set whose streams have another half."""

    class Mutant(StreamSet):
        def _opened_stream(self, service, *, opening):
            stream = super()._opened_stream(service, opening=opening)
            setattr(stream, name, kind(getattr(stream, name).limit))
            return stream

    return Mutant


def machine(mutant):
    """Give the whole with the part that was changed."""
    if issubclass(mutant, Multipath):
        return mutant
    names = {StreamSet: "streams_kind", PathSet: "paths_kind"}
    part = mutant
    if issubclass(mutant, SendHalf):
        part = with_half("send", mutant)
    elif issubclass(mutant, ReceiveHalf):
        part = with_half("receive", mutant)
    elif issubclass(mutant, StreamAnswers):
        part = type(mutant.__name__, (StreamSet,), {"answers_kind": mutant})
    name = next(name for base, name in names.items() if issubclass(part, base))
    return type(mutant.__name__, (Multipath,), {name: part})


BEARER, SIGNALING = Rank.BEARER, Rank.SIGNALING
STRICT = MultipathFaults(stall_s_max=1.5, every_s=(0.5, 1.5), opens_within_s=1.0)
STRICTER = replace(STRICT, stall_s_max=1.4)
"""Without `resend` the next probe's echo still finds what was lost, a quarter of a second later."""
KILLS = MultipathFaults(kinds=("kill",), every_s=(0.5, 1.5), opens_within_s=1.0, stall_s_max=1.0)
TWO = MultipathFaults(
    ranks=(BEARER, BEARER, SIGNALING), victims=2, kinds=("freeze", "swallow"), every_s=(0.5, 1.5), opens_within_s=1.0
)
CHATS = MultipathFaults(bytes_max=1000, streams=(6, 9), opens_within_s=8.0, every_s=(0.5, 1.5), stall_s_max=1.5)
"""Questions and answers: both directions meet the dead path one after the other."""
SILENT_CHATS = replace(
    CHATS, kinds=("freeze", "swallow", "oneway"), lasts_s=(1.0, 3.0), streams=(16, 20), opens_within_s=16.0
)
"""And nobody sees that it is lost, which would be told."""
LOSSES = MultipathFaults(
    loss=0.05, ranks=(SIGNALING, SIGNALING), bytes_max=300_000, streams=(3, 6), reset_ratio=0.0, stall_s_max=8.0
)
NEVER = (1e9, 1e9)
ONLY_LOSSES = MultipathFaults(
    loss=0.1, every_s=NEVER, ranks=(SIGNALING,), bytes_max=100_000, streams=(3, 6), reset_ratio=0.0, stall_s_max=8.0
)
OPENINGS = MultipathFaults(
    loss=0.25,
    every_s=NEVER,
    ranks=(SIGNALING,),
    bytes_max=1000,
    streams=(8, 12),
    opens_within_s=0.3,
    reset_ratio=0.0,
    stall_s_max=20.0,
)
RESETS = MultipathFaults(
    loss=0.25,
    every_s=NEVER,
    ranks=(SIGNALING,),
    bytes_max=400_000,
    streams=(6, 9),
    reset_ratio=0.9,
    resets_within_s=0.5,
    stall_s_max=20.0,
)
LAZY = MultipathFaults(lazy_s=0.4, every_s=(0.5, 1.5), stall_s_max=5.0)
LAZY_LOSSES = MultipathFaults(
    loss=0.5,
    loss_bytes_max=100,
    every_s=NEVER,
    ranks=(SIGNALING,),
    lazy_s=0.4,
    bytes_max=200_000,
    streams=(4, 8),
    stall_s_max=30.0,
)
"""Credit is lost when everything was acknowledged: only a probe can bring it again."""
QUIET = MultipathFaults(every_s=NEVER, ranks=(SIGNALING,), reset_ratio=0.0, nothing_twice=True)
RETIRES = MultipathFaults(
    kinds=("retire",), every_s=(0.5, 1.0), opens_within_s=4.0, streams=(3, 6), reset_ratio=0.0, stall_s_max=0.5
)
"""Paths end in good order: nobody is on one when it is cut, and nothing waits for anything."""

NEMESES = {
    ForgetsToResend: STRICTER,
    BelievesThatNothingIsLost: ONLY_LOSSES,
    AnswersNoProbe: LAZY_LOSSES,
    ForgetsToLend: STRICT,
    LendsEveryStreamTheWholeBuffer: STRICT,
    OpensInAnyOrder: OPENINGS,
    TellsNobodyThatAStreamIsGone: LOSSES,
    ForgetsStreamsBeforeTheirEndIsAcknowledged: LOSSES,
    SaysAResetOnce: RESETS,
    GivesServicesBytesBehindAGap: LOSSES,
    TakesBytesTwice: STRICT,
    AcknowledgesNoEnd: STRICT,
    SendsBeyondItsCredit: LAZY,
    LetsGoOfWhatWasSent: LOSSES,
    WaitsForEver: STRICT,
    TakesAnyEchoForItsOwn: STRICT,
    NeverProbes: STRICT,
    StaysWithALostPath: KILLS,
    DoesNotFollow: SILENT_CHATS,
    AsksNobodyElse: TWO,
    EchoesBeforeItAnswers: QUIET,
    TellsNobodyThatItLeaves: RETIRES,
    StaysWithWhatIsToEnd: RETIRES,
    GoesBackToWhatIsToEnd: RETIRES,
}


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
def test_the_nemesis_of_a_rule_kills_its_mutant_in_half_the_seeds_and_never_the_real_machine(mutant, right_seeds):
    faults = NEMESES[mutant]
    must_spare(right_seeds, lambda seed: MultipathWorld(seed, faults).run().violations)
    must_kill(mutant, SEEDS, lambda seed: MultipathWorld(seed, faults, machine(mutant)).run().violations)
