"""The bytes of the Elector's messages and records: they are the protocol, and what is on people's disks."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from atoll.actors.elector.messages import (
    MESSAGES,
    Amnesia,
    Ballot,
    Fitness,
    Heartbeat,
    HeartbeatAck,
    Leaving,
    Outdated,
    Presiding,
    PreVote,
    PreVoteReply,
    Recall,
    Recalled,
    Release,
    RosterChain,
    RosterProposed,
    RosterSigned,
    Signing,
    Vote,
    VoteRequest,
)
from atoll.actors.elector.roster import Roster
from atoll.actors.elector.score import NodeFacts, Score, advantage, best_of, score_of, why_best
from atoll.testing.elections import SITE, simulated_node, simulated_notary
from atoll.transport.codec import Codec, decode_special, encode_special

GOLDEN = Path(__file__).parent.parent / "golden" / "elector.txt"
A, B, C = (simulated_node(number) for number in range(3))
SCORE = Score(mains=True, wired=True, cloud=False, memory_class=12, processor_class=3, uptime_class=1)
ROSTER = Roster.found(SITE, [A, B, C])
PROPOSAL = ROSTER.next([A, B], 7, "without one: it leaves")
SIGNED = simulated_notary(A).signature(PROPOSAL)
SECOND = replace(PROPOSAL, signatures=((A, SIGNED), (B, simulated_notary(B).signature(PROPOSAL)))).sealed(
    SITE.roster_key
)
EXAMPLES = (
    PreVote(7, 1, SCORE),
    PreVoteReply(7, "promised to another", 6, SCORE),
    VoteRequest(7, 1),
    Vote(7, "", 7, PROPOSAL),
    Heartbeat(7, 300, "the only voter of its site", 1),
    HeartbeatAck(7, 300, 1),
    Outdated(8),
    Release(7, B),
    Recall(4242, 1),
    Recalled(4242, 7, sure=True, roster_version=1, pending=PROPOSAL),
    Presiding(7, True, "chosen", SCORE, 1),
    Fitness(SCORE, 1),
    RosterProposed(7, PROPOSAL),
    RosterSigned(7, 2, SIGNED),
    RosterChain((ROSTER, SECOND)),
    Leaving("sold"),
)
CODEC = Codec(MESSAGES)


def golden():
    return dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())


def test_every_message_of_the_elector_has_its_golden_bytes():
    assert {type(message) for message in EXAMPLES} == set(MESSAGES)
    written = {type(message).__name__: CODEC.encode(message).hex() for message in EXAMPLES}
    assert written == {name: text for name, text in golden().items() if name not in ("Ballot", "Amnesia", "Signing")}


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_golden_bytes_are_read_as_what_was_written(message):
    assert CODEC.decode(bytes.fromhex(golden()[type(message).__name__])) == message


@pytest.mark.parametrize(
    "record",
    [Ballot(7, A, 1), Amnesia("no record at byte 0 of 7"), Signing(PROPOSAL, 6)],
    ids=lambda record: type(record).__name__,
)
def test_a_record_on_disk_keeps_its_bytes(record):
    data = msgspec.msgpack.encode(record, enc_hook=encode_special)
    assert data.hex() == golden()[type(record).__name__]
    assert msgspec.msgpack.decode(data, type=type(record), dec_hook=decode_special) == record


def test_facts_become_classes():
    facts = NodeFacts(
        on_mains=True,
        wired=True,
        cloud_reachable=False,
        memory_free_bytes=3000 * 2**20,
        processors_idle=4.0,
        uptime_s=3600.0,
    )
    assert score_of(facts) == SCORE


def test_the_first_difference_decides_and_is_named():
    better, worse = Score(mains=True), Score(wired=True, memory_class=9)
    assert advantage(better, worse) == "on mains power"
    assert advantage(worse, better) == advantage(better, better) == ""
    assert best_of({A: worse, B: better}) == B
    assert why_best(B, {A: worse, B: better}) == f"best of 2, ahead of {A.short}: on mains power"
    assert why_best(A, {A: worse, B: better}).startswith(f"{B.short} is better (on mains power)")
    assert why_best(A, {A: worse}) == "no other node is known"
    assert best_of({A: worse, C: worse}) == max(A, C)
