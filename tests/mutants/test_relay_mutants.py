"""Each rule by which a relay switches, counts and believes tickets has a mutant, and a nemesis that must notice.

The real machines run under the very same seeds.
"""

from collections import Counter
from random import Random

import pytest
from kills import must_spare

from atoll.actors.tunnel_relay import frames
from atoll.actors.tunnel_relay.bucket import Bucket
from atoll.actors.tunnel_relay.circuit_events import Cut, Deliver, Draining, Elapsed
from atoll.actors.tunnel_relay.circuits import Circuits
from atoll.actors.tunnel_relay.tickets import NO_HOLDER, NO_RATE, SEP_ROLES, Role, Ticket, issue, judge
from atoll.transport.arrivals import Arrived, Gone
from atoll.transport.keys import NodeKey

SEEDS = range(12)
NOW = 1_800_000_000.0
ISSUER, RELAY = NodeKey(b"issuer".ljust(32)), NodeKey(b"relay".ljust(32))


# The switch
class TakesCallersWhileDrained(Circuits):
    def handle(self, event, now):
        effects = super().handle(event, now)
        self.going_at = None
        return effects


class TellsNobodyOfTheDrain(Circuits):
    def handle(self, event, now):
        effects = super().handle(event, now)
        return [] if isinstance(event, Draining) else effects


class ForgetsWhatATicketSpent(Circuits):
    def _close(self, name):
        connection = self._connections.get(name)
        if connection is not None:
            for grant in (connection.register, connection.reach):
                if grant is not None:
                    grant.spent_bytes = 0
        return super()._close(name)


class KeepsNoRate(Circuits):
    def _bucket(self, ticket, now):
        return None


class FillsTheBucketAnew(Circuits):
    def _close(self, name):
        connection = self._connections.get(name)
        if connection is not None and connection.reach is not None:
            connection.reach.bucket = self._bucket(connection.reach.ticket, connection.reach.bucket.now)
        return super()._close(name)


class KeepsExpiredRoles(Circuits):
    def _elapsed(self, now):
        return super()._elapsed(NOW)


class LeavesTheOldHolder(Circuits):
    def _ticket(self, connection, data, now):
        verdict = self.judge(data, connection.key, now)
        if isinstance(verdict, Ticket) and verdict.digest in self._grants:
            self._grants[verdict.digest].holder = None
        return super()._ticket(connection, data, now)

    def check(self):
        pass


SWITCH_MUTANTS = [
    TakesCallersWhileDrained,
    TellsNobodyOfTheDrain,
    ForgetsWhatATicketSpent,
    KeepsNoRate,
    FillsTheBucketAnew,
    KeepsExpiredRoles,
    LeavesTheOldHolder,
]


class SepPort:
    """What a SEP port is promised by its switch: callers show few tickets again and again, and send what they can."""

    QUOTA, RATE, LABEL = 75_000, 1_000, b"l" * 16

    def __init__(self, machine, seed):
        self.random = Random(seed)
        self.now, self.names, self.draining = NOW, 0, False
        self.machine = machine(judge=self.judge)
        self.holders, self.sent = {}, Counter()
        self.quotas = {bytes([number]) * 32: quota for number, quota in enumerate((self.QUOTA, self.QUOTA, 10**9), 1)}
        self.tickets = {}
        self.proxy = self.open(b"p" * 32, Role.REGISTER, 10**9, quota=10**9)
        self.say(self.proxy, frames.labels_frame([self.LABEL]))

    @staticmethod
    def judge(data, key, now):
        return judge(data, issuer=ISSUER.node_id, relay=RELAY.node_id, roles=SEP_ROLES, holder=key, now=now)

    def open(self, key, role, life_s, *, quota, rate=NO_RATE):
        self.names += 1
        name = b"%d" % self.names
        expires_at = min(2**32 - 1, int(self.now) + life_s)
        data = issue(
            ISSUER,
            role=role,
            subject=b"s" * 16,
            relay=RELAY.node_id,
            expires_at=expires_at,
            quota_bytes=quota,
            holder=key,
            rate_bytes_s=rate,
        )
        self.show(name, key, data)
        return name

    def show(self, name, key, data):
        self.tickets[name] = key
        effects = self.handle(Arrived(name, key, frames.ticket_frame(data)))
        return [
            frames.read_event(each.frame) for each in effects if isinstance(each, Deliver) and each.connection == name
        ]

    def say(self, name, frame):
        return self.handle(Arrived(name, self.tickets[name], frame))

    def handle(self, event):
        effects = self.machine.handle(event, self.now)
        self.machine.check()
        for each in effects:
            if isinstance(each, Cut):
                self.holders = {key: held for key, held in self.holders.items() if held[0] != each.connection}
        return effects

    def run(self, steps):
        callers = {}
        for key in self.quotas:
            expires_at = int(self.now) + self.random.randrange(15, 120)
            fields = {"role": Role.REACH, "subject": b"s" * 16, "relay": RELAY.node_id, "holder": key}
            more = {"quota_bytes": self.quotas[key], "rate_bytes_s": self.RATE}
            callers[key] = (expires_at, issue(ISSUER, expires_at=expires_at, **fields, **more))
        for _ in range(steps):
            key = self.random.choice(sorted(callers))
            self.step(key, *callers[key])
        self.draining = True
        told = {each.connection for each in self.handle(Draining(5))}
        assert told == {self.proxy, *(name for name, _ in self.holders.values())}
        late = bytes([9]) * 32
        before = set(self.holders)
        self.open(late, Role.REACH, 60, quota=1000)
        assert set(self.holders) == before
        name = b"%d" % self.names
        assert not [
            each for each in self.say(name, frames.call_frame(self.LABEL, b"x")) if each.connection == self.proxy
        ]

    def step(self, key, expires_at, data):
        dice = self.random.random()
        if dice < 0.25:
            self.names += 1
            name = b"%d" % self.names
            old = self.holders.get(key)
            said = self.show(name, key, data)
            if frames.Accepted(frames.TICKET) in said:
                assert self.now < expires_at
                assert old is None or key not in self.holders, "the newest connection of a ticket replaces the older"
                self.holders[key] = (name, expires_at)
        elif dice < 0.35 and key in self.holders:
            self.handle(Gone(self.holders.pop(key)[0]))
        elif dice < 0.5:
            self.now += self.random.randrange(1, 6)
            self.handle(Elapsed())
            assert all(until > self.now for _, until in self.holders.values())
        elif key in self.holders:
            record = bytes(self.random.randrange(1, 40_000))
            effects = self.say(self.holders[key][0], frames.call_frame(self.LABEL, record))
            if any(each.connection == self.proxy for each in effects):
                self.sent[key] += len(record)
        for who, sent in self.sent.items():
            assert sent <= self.quotas[who]
            assert sent <= 65_536 + self.RATE * (self.now - NOW) + 1


def switch_killed(machine, seed):
    try:
        SepPort(machine, seed).run(700)
    except AssertionError:
        return True
    return False


# Tickets
def judged(**changes):
    """What a machine that forgets one check would find of each bad ticket."""

    def find(data, **asked):
        return judge(data, **(asked | changes))

    return find


BAD = {
    "expired": {"expires_at": int(NOW) - 1},
    "of another relay": {"relay": NodeKey(b"other".ljust(32)).node_id},
    "of another role": {"role": Role.CALL, "holder": NO_HOLDER},
    "of another holder": {"holder": b"x" * 32},
}
TICKET_MUTANTS = {
    "looks at no clock": {"now": 0},
    "believes any relay": {"relay": BAD["of another relay"]["relay"]},
    "believes any role": {"roles": frozenset(Role), "holder": None},
    "believes any holder": {"holder": b"x" * 32},
}


def ticket_killed(find, seed):
    random = Random(seed)
    for bad in BAD.values():
        fields = {"role": random.choice(sorted(SEP_ROLES)), "relay": RELAY.node_id, "holder": b"h" * 32}
        fields |= {"expires_at": int(NOW) + random.randrange(1, 600), "subject": random.randbytes(16)} | bad
        asked = {"issuer": ISSUER.node_id, "relay": RELAY.node_id, "roles": SEP_ROLES, "holder": b"h" * 32, "now": NOW}
        if isinstance(find(issue(ISSUER, **fields), **asked), Ticket):
            return True
    return False


# The rate of a tunnel
class SavesWithoutEnd(Bucket):
    def available(self, now):
        self._bytes += max(0.0, now - self.now) * self.rate_bytes_s
        self.now = now
        return int(self._bytes)


class TakesNothing(Bucket):
    def take(self, count):
        pass


class BeginsFullAlways(Bucket):
    def __post_init__(self):
        super().__post_init__()
        self._bytes = float(self.burst_bytes)


BUCKET_MUTANTS = [SavesWithoutEnd, TakesNothing, BeginsFullAlways]


def bucket_killed(machine, seed):
    random = Random(seed)
    rate, now = random.randrange(1_000, 5_000_000), 0.0
    bucket = machine(rate_bytes_s=rate, now=now, full=False)
    passed = [(0.0, 0)]
    for _ in range(60):
        now += random.choice([0.0, 0.0, 0.01, 0.01, 0.1, 2.0])
        taken = min(random.randrange(100_000, 400_000), bucket.available(now))
        bucket.take(taken)
        passed.append((now, passed[-1][1] + taken))
    burst = max(65_536, rate // 10)
    return any(
        after - before > (burst if begin else 0) + rate * (until - since) + 1
        for begin, (since, before) in enumerate(passed)
        for until, after in passed[begin:]
    )


CASES = {
    **{each.__name__: (switch_killed, each) for each in SWITCH_MUTANTS},
    **{name: (ticket_killed, judged(**changes)) for name, changes in TICKET_MUTANTS.items()},
    **{each.__name__: (bucket_killed, each) for each in BUCKET_MUTANTS},
}
REAL = {"switch": (switch_killed, Circuits), "bucket": (bucket_killed, Bucket)}
REAL["tickets"] = (ticket_killed, judge)


@pytest.mark.parametrize("mutant", CASES)
def test_a_mutant_is_noticed_in_at_least_half_of_its_seeds(mutant):
    nemesis, machine = CASES[mutant]
    killed = sum(nemesis(machine, seed) for seed in SEEDS)
    assert killed >= len(SEEDS) / 2, f"{mutant}: {killed} of {len(SEEDS)}"


@pytest.mark.parametrize("real", REAL)
def test_the_real_machine_passes_every_seed(real):
    nemesis, machine = REAL[real]
    must_spare(range(60), lambda seed: nemesis(machine, seed))
