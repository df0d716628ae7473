"""Elections played by hand: a test says which message arrives when, and nothing else happens.

For the few orders of events that chance does not meet, because leases and rosters that are passed on at once cover for
the rule that is tried. Timers may fire late, as on a busy host; messages may wait as long as a test likes.
"""

from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace

from atoll.actors.elector.election import Election
from atoll.actors.elector.election_state import Role
from atoll.actors.elector.electorate import Electorate, Wish
from atoll.actors.elector.messages import Heartbeat, HeartbeatAck, PreVote, PreVoteReply, RosterChain, Vote, VoteRequest
from atoll.actors.elector.roster import Roster
from atoll.actors.elector.rosters import Rosters
from atoll.actors.runtime.machine import Announce, Effect, Persist, Received, Record, Send, TimerFired
from atoll.testing.elections import (
    SITE,
    EpochsRiseOnDisk,
    OneRosterEach,
    OneSupernodePerEpoch,
    simulated_node,
    simulated_notary,
)
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

ELECTING = (PreVote, PreVoteReply, VoteRequest, Vote)


class Told(Electorate):
    """Wishes for what a test wants, and for nothing by itself."""

    wanted: tuple[NodeId, ...] = ()

    def wish(self, roster: Roster, scores: Any, now: float) -> Wish | None:
        """Wish for the voters that are wanted, while they are not in force."""
        del scores, now
        return Wish(self.wanted, "a test wants it") if self.wanted and self.wanted != roster.voters else None


class ToldRosters(Rosters):
    """Rosters that change only when a test says so."""

    electorate_kind = Told


class ToldElection(Election):
    """An election whose rosters change only when a test says so."""

    rosters_kind = ToldRosters


class ElectionByHand:
    """Some elections, the messages between them, one clock; hosts are numbers."""

    def __init__(self, seed: int, count: int, kind: type[Election] = ToldElection) -> None:
        """Prepare; the seed says which node is which, and how long everything takes."""
        self.rng = Random(f"by hand {seed}")
        self.kind = kind
        self.nodes = [simulated_node(number) for number in range(count)]
        self.rng.shuffle(self.nodes)
        self.now = self.rng.uniform(0, 100)
        self.hosts: dict[int, Election] = {}
        self.letters: list[tuple[int, int, Message]] = []
        self.violations: list[str] = []
        self.changes = 0
        self._probes: list[Any] = [OneRosterEach(), OneSupernodePerEpoch(), EpochsRiseOnDisk()]

    def start(self, host: int, *restored: Record, roster: Roster) -> None:
        """Start a host with these records on its disk."""
        node = self.nodes[host]
        for probe in self._probes:
            if hasattr(probe, "forgot"):
                probe.forgot(self, SimpleNamespace(index=host))
        self.hosts[host] = self.kind(
            node, roster, rng=Random(self.rng.random()), notary=simulated_notary(node), gated=False
        )
        self._carry_out(host, self.hosts[host].start(restored, self.now))

    def founded(self, *hosts: int) -> Roster:
        """Make version 1 of these voters."""
        return Roster.found(SITE, [self.nodes[host] for host in hosts])

    def wait(self, seconds: float) -> None:
        """Let time pass, and a little more."""
        self.now += seconds + self.rng.uniform(0, 0.002)

    def handle(self, host: int, event: Any) -> None:
        """Let a host take one input."""
        machine = self.hosts[host]
        effects = machine.handle(event, self.now)
        machine.check()
        self._carry_out(host, effects)
        if sum(each.lease_held(self.now) for each in self.hosts.values()) > 1:
            self.violate("two lease holders")

    def fire(self, host: int, timer: str) -> None:
        """Let a timer run out."""
        self.handle(host, TimerFired(timer))

    def flow(
        self, *hosts: int, only: tuple[type[Message], ...] = (Message,), but: tuple[type[Message], ...] = ()
    ) -> None:
        """Deliver what is on its way between these hosts, and what they answer."""
        waiting: list[tuple[int, int, Message]] = []
        while self.letters:
            sender, target, message = letter = self.letters.pop(0)
            between = sender in hosts and target in hosts
            if between and isinstance(message, only) and not isinstance(message, but):
                self.handle(target, Received(self.nodes[sender], message))
            else:
                waiting.append(letter)
        self.letters = waiting

    def drop(self) -> None:
        """Lose what is on its way."""
        self.letters.clear()

    def beat(self, host: int, *heard: int) -> None:
        """Let a supernode send its heartbeat, and those hear it and answer."""
        self.fire(host, "heartbeat")
        self.flow(host, *heard)

    def beat_only(self, host: int, *heard: int) -> None:
        """Let those hear a heartbeat and answer it, and nothing else arrive."""
        self.fire(host, "heartbeat")
        self.flow(host, *heard, only=(Heartbeat, HeartbeatAck))
        self.drop()

    def ask(self, host: int) -> None:
        """Let a voter whose patience is over ask whether it may stand."""
        for _ in range(9):
            self.fire(host, "patience")
            if self.hosts[host].role is not Role.FOLLOWER:
                return
            self.wait(0.2)

    def elect(self, host: int, *voters: int) -> None:
        """Let it be elected by these."""
        self.ask(host)
        self.flow(host, *voters, only=ELECTING)
        self.drop()

    def want(self, host: int, *voters: int) -> None:
        """Let that host wish for these voters when it is supernode."""
        electorate = self.hosts[host].rosters.electorate
        assert isinstance(electorate, Told)  # noqa: S101 - every kind here has it
        electorate.wanted = tuple(sorted(self.nodes[voter] for voter in voters))

    def violate(self, what: str) -> None:
        """Note what is wrong; the invariants call it."""
        self.violations.append(what)

    def _carry_out(self, host: int, effects: Sequence[Effect]) -> None:
        seen: Any = SimpleNamespace(index=host, node=self.nodes[host])
        for effect in effects:
            match effect:
                case Send(target, message) if target in self.nodes:
                    self.letters.append((host, self.nodes.index(target), message))
                case Persist(record):
                    for probe in self._probes:
                        probe.persisted(self, seen, record)
                case Announce(fact):
                    for probe in self._probes:
                        probe.announced(self, seen, fact)


def certified(
    hand: ElectionByHand, before: Roster, voters: Sequence[int], signers: Sequence[int], epoch: int
) -> Roster:
    """Make what a supernode made final in an earlier epoch."""
    proposal = before.next([hand.nodes[voter] for voter in voters], epoch, "it was so")
    nodes = sorted(hand.nodes[signer] for signer in signers)
    signed = tuple((node, simulated_notary(node).signature(proposal)) for node in nodes)
    return replace(proposal, signatures=signed).sealed(SITE.roster_key)


def chain(*rosters: Roster) -> RosterChain:
    """Make the record of rosters that are on a disk."""
    return RosterChain(rosters)
