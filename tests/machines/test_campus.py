"""A campus of 200 nodes at rest: how many links it keeps, and what that costs each node in packets."""

from random import Random

import pytest

from atoll.actors.discoverer.membership import RING_LINKS, Membership
from atoll.actors.discoverer.messages import DialWanted, Wanted
from atoll.actors.discoverer.suspicion_settings import SuspicionSettings
from atoll.actors.router.messages import PeerUp
from atoll.actors.runtime.machine import Announce, TimerFired, Told
from atoll.testing.elections import simulated_node
from atoll.transport.base import SILENCE_S, Standing
from atoll.transport.beacon import CROWD_STRETCH, PERIOD_S
from atoll.transport.beacon_packet import Heard
from atoll.transport.pulse import BEATS_PER_SILENCE, SIGNS_PER_SILENCE

NODES, VOTERS = 200, 7
PACKETS_MAX = 8.0
FAMILIES = 2
"""IPv4 and IPv6: each says its own beacons."""


class Campus:
    """Two hundred membership machines whose dials come up at once."""

    def __init__(self):
        self.nodes = sorted(simulated_node(number) for number in range(NODES))
        self.machines = {node: Membership(node, rng=Random(number)) for number, node in enumerate(self.nodes)}
        self.links = set()
        self.now = 100.0
        for node, machine in self.machines.items():
            self.take(node, machine.start([], self.now))

    def take(self, node, effects):
        for effect in effects:
            if isinstance(effect, Announce) and isinstance(effect.fact, DialWanted):
                self.join(node, effect.fact.peer)

    def join(self, one, other):
        if frozenset((one, other)) in self.links:
            return
        self.links.add(frozenset((one, other)))
        for here, there in ((one, other), (other, one)):
            self.take(here, self.machines[here].handle(Told(PeerUp(there, Standing.MEMBER, "", "")), self.now))

    def wanted(self, supernode, voters):
        for node, machine in self.machines.items():
            others = frozenset(voters if node in voters else ()) | {supernode}
            self.take(node, machine.handle(Told(Wanted(others - {node}, everybody=node == supernode)), self.now))

    def beat(self, sequence):
        self.now += 1.0
        for node in self.nodes:
            said = Heard(node, "192.0.2.7", 8085, 1, sequence, True, "", "")
            for there, machine in self.machines.items():
                if there != node:
                    self.take(there, machine.handle(Told(said), self.now))
        for node, machine in self.machines.items():
            self.take(node, machine.handle(TimerFired("look"), self.now))


@pytest.mark.deep
def test_a_campus_at_rest_sends_at_most_eight_packets_per_node_and_second():
    campus = Campus()
    supernode, *more = Random(1).sample(campus.nodes, VOTERS)
    campus.beat(1)
    campus.wanted(supernode, {supernode, *more})
    for sequence in range(2, 4):
        campus.beat(sequence)
    of = {node: sum(node in link for link in campus.links) for node in campus.nodes}
    assert of[supernode] == NODES - 1
    assert min(of.values()) >= 2 * RING_LINKS
    beat_s = SILENCE_S / BEATS_PER_SILENCE
    sign_every_s = SILENCE_S / SIGNS_PER_SILENCE + beat_s
    settings = SuspicionSettings()
    assert settings.crowd < NODES
    probes = 2 / (2 * settings.period_s)
    ends = 2 * len(campus.links) / NODES
    assert all(machine.crowded for machine in campus.machines.values())
    packets = FAMILIES / (PERIOD_S * CROWD_STRETCH) + ends / sign_every_s + probes
    assert packets <= PACKETS_MAX, f"{ends:.2f} link ends a node, {packets:.2f} packets"
