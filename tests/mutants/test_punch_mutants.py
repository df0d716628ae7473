"""Each rule of punching has a mutant that breaks it, and a nemesis that must notice in half of its seeds."""

import pytest

from atoll.actors.tunnel_relay.candidates import NatMapping, Policy, View
from atoll.actors.tunnel_relay.punching import DIALS_MAX, Dial, Punch, Role, Say, Use
from atoll.testing.punch_adversary import PunchAdversary
from atoll.testing.punch_world import NatKind, PunchWorld
from atoll.transport.bearer import OK, encode_preamble, preamble_bytes_missing
from atoll.transport.errors import MalformedFrame
from atoll.transport.tcp_address import TcpAddress

SEEDS = range(40)


class BelievesEveryProof(Punch):
    def _makes_sense(self, each):
        try:
            preamble_bytes_missing(each.data)
        except MalformedFrame:
            return each.proved
        return True


class TakesAnEchoForThePeer(Punch):
    def _makes_sense(self, each):
        own = encode_preamble(self._own_proof())
        return super()._makes_sense(each) or own.startswith(each.data)

    def _own_proof(self):
        return self._proof(0).data[6:]


class SaysItsProofToWhoeverComes(Punch):
    def connected(self, connection, *, dialled):
        effects = super().connected(connection, dialled=dialled)
        return effects or [self._proof(connection)]


class TakesEverybodyWhoComes(Punch):
    def connected(self, connection, *, dialled):
        effects = super().connected(connection, dialled=True)
        return effects if dialled else []


class UsesAConnectionThatWasNotChosen(Punch):
    def heard(self, connection, data):
        effects = super().heard(connection, data)
        each = self._connections.get(connection)
        return effects + self._use(connection) if each is not None and each.proved else effects


class GoesOnAfterTheEnd(Punch):
    def _use(self, connection):
        return [*super()._use(connection), Use(connection)]


class DialsForEver(Punch):
    def refused(self, address, now):
        if not self.over:
            self._dials[address] = 1
        return super().refused(address, now)


class NeverGivesUp(Punch):
    @property
    def ends_at(self):
        return super().ends_at + 1000.0


class DialsOnce(Punch):
    def refused(self, address, now):
        return []


class ChoosesNothing(Punch):
    def heard(self, connection, data):
        return [each for each in super().heard(connection, data) if each != Say(connection, OK)]


class ListensOnly(Punch):
    def start(self):
        super().start()
        return []


class DialsWhateverIsShown(Policy):
    def objection(self, address, *, same_outside):
        return ""


class DialsServices(Policy):
    def objection(self, address, *, same_outside):
        why = super().objection(address, same_outside=same_outside)
        return "" if why == "a port of a service" else why


class DialsItself(Policy):
    def objection(self, address, *, same_outside):
        why = super().objection(address, same_outside=same_outside)
        return "" if why == "this node itself" else why


class DialsRelays(Policy):
    def objection(self, address, *, same_outside):
        why = super().objection(address, same_outside=same_outside)
        return "" if why == "a relay" else why


class DialsPrivateNetworks(Policy):
    def objection(self, address, *, same_outside):
        why = super().objection(address, same_outside=same_outside)
        return "" if why == "an address of a private network" else why


class TakesEveryNatForAGoodOne(View):
    @classmethod
    def of(cls, own, seen, *, show_private):
        return View(NatMapping.INDEPENDENT, View.of(own, seen, show_private=show_private).candidates)


def attacked(seed, *, punch=Punch, policy=Policy):
    """Each seed attacks both roles, a few times."""
    for attempt in range(12):
        for role in Role:
            PunchAdversary(100 * seed + attempt, role, punch=punch, policy=policy).run()


def gets_through(seed, *, punch=Punch):
    for nats in ((NatKind(), NatKind(rejects=True)), (NatKind(rejects=True), NatKind(rejects=True))):
        assert PunchWorld(seed, nats, punch=punch).run().punched


def knows_what_is_in_vain(seed, *, view=View):
    world = PunchWorld(seed, (NatKind(dependent=True), NatKind(dependent=True)), view=view).run()
    assert all("both ends" in end.failed for end in world.ends.values())


def refused_by_all(seed, *, punch=Punch):
    """Nobody lets it in, and says so at once."""
    target = TcpAddress("203.0.113.2", 1024 + seed)
    view = View(NatMapping.INDEPENDENT, (target,))
    for role in Role:
        attempt = punch(role, (bytes(16), bytes(16)), view, view, [target], began_at=0.0)
        dials, now = len(attempt.start()), 0.0
        while not attempt.over:
            attempt.refused(target, now)
            now = attempt.deadline
            dials += sum(isinstance(each, Dial) for each in attempt.tick(now))
        assert dials <= DIALS_MAX


NEMESES = {
    BelievesEveryProof: (attacked, "punch"),
    TakesAnEchoForThePeer: (attacked, "punch"),
    SaysItsProofToWhoeverComes: (attacked, "punch"),
    TakesEverybodyWhoComes: (attacked, "punch"),
    UsesAConnectionThatWasNotChosen: (attacked, "punch"),
    GoesOnAfterTheEnd: (attacked, "punch"),
    DialsForEver: (refused_by_all, "punch"),
    NeverGivesUp: (attacked, "punch"),
    DialsOnce: (gets_through, "punch"),
    ChoosesNothing: (gets_through, "punch"),
    ListensOnly: (gets_through, "punch"),
    DialsWhateverIsShown: (attacked, "policy"),
    DialsServices: (attacked, "policy"),
    DialsItself: (attacked, "policy"),
    DialsRelays: (attacked, "policy"),
    DialsPrivateNetworks: (attacked, "policy"),
    TakesEveryNatForAGoodOne: (knows_what_is_in_vain, "view"),
}


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda each: each.__name__)
def test_a_mutant_is_killed_in_half_of_the_seeds(mutant):
    nemesis, place = NEMESES[mutant]
    killed = 0
    for seed in SEEDS:
        try:
            nemesis(seed, **{place: mutant})
        except AssertionError:
            killed += 1
    assert killed >= len(SEEDS) / 2


@pytest.mark.parametrize(
    "nemesis", dict.fromkeys(nemesis for nemesis, _ in NEMESES.values()), ids=lambda each: each.__name__
)
def test_the_real_ones_pass_under_the_same_seeds(nemesis):
    for seed in SEEDS:
        nemesis(seed)
