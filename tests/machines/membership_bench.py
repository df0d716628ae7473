"""A membership machine on a bench: inputs go in, effects are looked at."""

from random import Random

import pytest

from atoll.actors.discoverer.membership import (
    Membership,
)
from atoll.actors.discoverer.messages import (
    DialWanted,
    NodeLost,
    NodeSeen,
)
from atoll.actors.router.messages import LetGo, PeerUp
from atoll.actors.runtime.machine import Announce, Arm, TimerFired, Told
from atoll.transport.base import Standing
from atoll.transport.beacon_packet import Heard
from atoll.transport.identity import NodeId

PORT = 8085


def node(number):
    return NodeId(number.to_bytes(2, "big") * 16)


LOW, OWN, HIGH = node(1), node(1000), node(2000)
OTHERS = [node(number) for number in range(2001, 2600)]


class Bench:
    """A machine with its one timer, in virtual time."""

    def __init__(self, *, own=OWN, seeds=()):
        self.machine = Membership(own, rng=Random(7), seeds=seeds)
        self.now = 100.0
        self.look_at = None
        self.dials, self.seen, self.lost, self.let_go = [], [], [], []
        self.sequence = 0
        self._take(self.machine.start([], self.now))

    def _take(self, effects):
        for effect in effects:
            match effect:
                case Arm("look", after):
                    assert after > 0
                    self.look_at = self.now + after
                case Announce(DialWanted() as wanted):
                    self.dials.append((self.now, wanted))
                case Announce(NodeSeen(node=who)):
                    self.seen.append(who)
                case Announce(LetGo(peer=who)):
                    self.let_go.append(who)
                case Announce(NodeLost(node=who)):
                    self.lost.append(who)
                case _:
                    pytest.fail(f"{effect} was not expected")
        self.machine.check()

    def tell(self, fact):
        self._take(self.machine.handle(Told(fact), self.now))

    def hear(self, who=HIGH, host="192.0.2.7", *, member=True, boot=1):
        self.sequence += 1
        self.tell(Heard(who, host, PORT, boot, self.sequence, member, "tv", "0.1.0"))

    def up(self, who=HIGH, standing=Standing.MEMBER):
        self.tell(PeerUp(who, standing, "tv", "192.0.2.7"))

    def wait(self, seconds, hearing=()):
        """Let time pass; whoever is in `hearing` (node, host) is heard each second."""
        until, beat = self.now + seconds, self.now + 1.0
        while True:
            at = min(self.look_at, beat if hearing else until, until)
            self.now = at
            if at == self.look_at:
                self._take(self.machine.handle(TimerFired("look"), at))
            if hearing and at == beat:
                beat += 1.0
                for who, host in hearing:
                    self.hear(who, host)
            if at >= until:
                return

    @property
    def dialled(self):
        return [wanted.peer for _, wanted in self.dials]

    def line(self, who=HIGH):
        return next((each for each in self.machine.seen(self.now).nodes if each.node == who), None)
