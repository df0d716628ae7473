"""Each rule by which a relay joins the halves of bearers has a mutant that breaks it, and a nemesis that must notice.

The real machine runs under the very same seeds.
"""

from collections import Counter
from random import Random

import pytest
from kills import must_kill, must_spare

from atoll.actors.tunnel_relay.pairing import End, Pair, Pairing, Refuse
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.tickets import NO_HOLDER, NO_RATE, Role, Ticket

SEEDS = range(12)
NOW = 1_800_000_000.0


class ForgetsWhatWasSpent(Pairing):
    def ended(self, tunnel_id, forwarded_bytes, *, by_itself):
        super().ended(tunnel_id, 0, by_itself=by_itself)


class JoinsWhoIsReplaced(Pairing):
    def arrive(self, connection, ticket, now):
        tunnel = self._tunnels.get(ticket.subject)
        if tunnel and tunnel.waiting and tunnel.waiting.role is ticket.role:
            return [*self.expire(now), Refuse(connection, Reason.REPLACED)]
        return super().arrive(connection, ticket, now)


class KeepsTheOldPair(Pairing):
    def arrive(self, connection, ticket, now):
        tunnel = self._tunnels.get(ticket.subject)
        if tunnel and tunnel.live and now < tunnel.expires_at:
            return [*self.expire(now), Refuse(connection, Reason.FULL)]
        return super().arrive(connection, ticket, now)


class TakesNewOnesWhileDrained(Pairing):
    def drain(self):
        effects = super().drain()
        self.draining = False
        return effects


class LetsTheWaitingWaitWhileDrained(Pairing):
    def drain(self):
        self.draining = True
        return []


class CountsNoPurse(Pairing):
    def _count(self, tunnel, change):
        pass


class LosesPlacesOfAPurse(Pairing):
    def leave(self, connection):
        tunnel_id = self._waiting.pop(connection, None)
        if tunnel_id is not None:
            self._tunnels[tunnel_id].waiting = None


class GivesTheHigherQuota(Pairing):
    def arrive(self, connection, ticket, now):
        return [
            Pair(each.tunnel, each.offer, each.call, each.quota_bytes + 1, each.rate_bytes_s, each.again)
            if isinstance(each, Pair)
            else each
            for each in super().arrive(connection, ticket, now)
        ]


class GivesANewBurst(Pairing):
    def arrive(self, connection, ticket, now):
        return [
            Pair(each.tunnel, each.offer, each.call, each.quota_bytes, each.rate_bytes_s)
            if isinstance(each, Pair)
            else each
            for each in super().arrive(connection, ticket, now)
        ]


class GivesNoRate(Pairing):
    def arrive(self, connection, ticket, now):
        return [
            Pair(each.tunnel, each.offer, each.call, each.quota_bytes, NO_RATE, each.again)
            if isinstance(each, Pair)
            else each
            for each in super().arrive(connection, ticket, now)
        ]


class NeverExpires(Pairing):
    def expire(self, now):
        return super().expire(now - 1e6)


class TakesAnyNumber(Pairing):
    def _refusal(self, tunnel, ticket):
        refusal = super()._refusal(tunnel, ticket)
        return None if refusal is Reason.FULL else refusal


MUTANTS = [
    ForgetsWhatWasSpent,
    JoinsWhoIsReplaced,
    KeepsTheOldPair,
    TakesNewOnesWhileDrained,
    LetsTheWaitingWaitWhileDrained,
    CountsNoPurse,
    LosesPlacesOfAPurse,
    GivesTheHigherQuota,
    GivesANewBurst,
    GivesNoRate,
    NeverExpires,
    TakesAnyNumber,
]


class Port:
    """What a bearer port is promised by its pairing, kept in the simplest books there can be."""

    TUNNELS_MAX, WAITING_MAX, PURSE_MAX, QUOTA, RATE = 2, 4, 2, 100, 50

    def __init__(self, machine, seed):
        self.random = Random(seed)
        self.machine = machine(
            tunnels_max=self.TUNNELS_MAX, waiting_max=self.WAITING_MAX, waiting_s=10, rate_bytes_s_max=self.RATE
        )
        self.now, self.connections, self.draining = NOW, 0, False
        self.spent, self.joined, self.expiry = Counter(), set(), Counter()
        self.waiting, self.live = {}, {}

    def ticket(self):
        tunnel = self.random.randrange(9)
        life_s = int(self.now - NOW) + self.random.randrange(5, 60)
        role = self.random.choice([Role.OFFER, Role.CALL])
        shared = {"purse": bytes([1 + tunnel % 3]) * 8, "tunnels_max": self.PURSE_MAX}
        rate = self.random.choice([NO_RATE, 30])
        return Ticket(role, bytes([tunnel]) * 16, int(NOW) + life_s, self.QUOTA, NO_HOLDER, b"", rate, **shared)

    def run(self, steps):
        for _ in range(steps):
            self.step()
            self.machine.check()
            open_by_purse = Counter(tunnel[0] % 3 for tunnel in {*self.waiting, *self.live})
            assert all(count <= self.PURSE_MAX for count in open_by_purse.values())
            assert len(self.live) <= self.TUNNELS_MAX

    def step(self):
        dice = self.random.random()
        if dice < 0.6:
            self.arrive()
        elif dice < 0.75 and self.live:
            tunnel = self.random.choice(sorted(self.live))
            self.end(tunnel, by_itself=True)
        elif dice < 0.85 and self.waiting:
            tunnel = self.random.choice(sorted(self.waiting))
            self.machine.leave(self.waiting.pop(tunnel)[0])
        elif dice < 0.998:
            self.now += self.random.randrange(8)
            self.carry_out(self.machine.expire(self.now))
            assert all(self.expiry[tunnel] > self.now for tunnel in self.live)
            assert all(since + 10 > self.now for _, _, since in self.waiting.values())
        else:
            self.draining = True
            self.carry_out(self.machine.drain())
            assert not self.waiting

    def arrive(self):
        ticket = self.ticket()
        tunnel, role = ticket.subject, ticket.role
        self.connections += 1
        effects = self.machine.arrive(self.connections, ticket, self.now)
        refused = [each.reason for each in effects if each == Refuse(self.connections, getattr(each, "reason", None))]
        places = self.places(tunnel)
        if self.draining:
            assert refused == [Reason.DRAINING]
        elif self.spent[tunnel] >= self.QUOTA and tunnel in self.joined and self.expiry[tunnel] > self.now:
            assert refused == [Reason.OVER_QUOTA]
        elif places:
            assert not refused, "who has a place may come again, and the newest wins"
        if refused:
            self.carry_out(effects)
            return
        if self.expiry[tunnel] <= self.now:
            self.spent[tunnel] = 0
            self.joined.discard(tunnel)
        self.expiry[tunnel] = max(self.expiry[tunnel], ticket.expires_at)
        self.arriving = (tunnel, role, ticket)
        self.carry_out(effects)
        if tunnel not in self.live:
            assert tunnel not in self.waiting
            self.waiting[tunnel] = (self.connections, role, self.now)

    def places(self, tunnel):
        # It will wait for its partner, and who waits needs a place, too.
        live = tunnel in self.live and self.expiry[tunnel] > self.now and len(self.waiting) < self.WAITING_MAX
        waits = tunnel in self.waiting and self.waiting[tunnel][2] + 10 > self.now and self.expiry[tunnel] > self.now
        return live or (waits and len(self.live) < self.TUNNELS_MAX)

    def end(self, tunnel, *, by_itself):
        pair = self.live.pop(tunnel)
        carried = min(self.random.randrange(80), pair.quota_bytes)
        self.spent[tunnel] += carried
        self.machine.ended(tunnel, carried, by_itself=by_itself)

    def carry_out(self, effects):
        for effect in effects:
            match effect:
                case Refuse(connection):
                    self.waiting = {tunnel: half for tunnel, half in self.waiting.items() if half[0] != connection}
                case End(tunnel):
                    self.end(tunnel, by_itself=False)
                case Pair(tunnel, offer, call):
                    connection, role, _ = self.waiting.pop(tunnel)
                    assert tunnel not in self.live, "one live connection a role"
                    assert role is not self.arriving[1]
                    assert {offer, call} == {connection, self.connections}
                    assert 0 < effect.quota_bytes <= self.QUOTA - self.spent[tunnel]
                    assert effect.rate_bytes_s != NO_RATE
                    assert effect.rate_bytes_s <= (self.arriving[2].rate_bytes_s or self.RATE)
                    assert effect.again == (tunnel in self.joined)
                    self.joined.add(tunnel)
                    self.live[tunnel] = effect


def is_noticed(machine, seed):
    try:
        Port(machine, seed).run(800)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_is_noticed_in_at_least_half_of_its_seeds(mutant):
    must_kill(mutant, SEEDS, lambda seed: is_noticed(mutant, seed))


def test_the_real_machine_passes_every_seed():
    must_spare(range(60), lambda seed: is_noticed(Pairing, seed))
