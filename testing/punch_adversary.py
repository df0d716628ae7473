"""A hostile world around one end of an attempt to punch: liars connect, echo, replay, keep still, and refuse.

    PunchAdversary(seed, role).run()  --> raises where the end did what it must not; else what it came to

It says whatever anybody may say who has heard all that this end has said on connections it dialled, but does not know
the tickets; and now and then the genuine peer is there, too.
"""

from collections import Counter
from random import Random

from atoll.actors.runtime.machine import insist
from atoll.actors.tunnel_relay.candidates import NatMapping, Policy, View
from atoll.actors.tunnel_relay.punching import (
    COMERS_MAX,
    DIALS_MAX,
    HEAD_START_S,
    WINDOW_S,
    Dial,
    Drop,
    Fail,
    Punch,
    PunchEffect,
    Role,
    Say,
    Use,
    proof_of,
)
from atoll.transport.bearer import OK, encode_preamble
from atoll.transport.tcp_address import TcpAddress

OWN = TcpAddress("10.0.0.5", 40_000)
MAPPED = TcpAddress("203.0.113.1", 40_000)
RELAY = TcpAddress("192.0.2.1", 8089)
GOOD = (TcpAddress("203.0.113.2", 41_000), TcpAddress("2001:db8::7", 41_000))
"""Where a peer may be."""
BAD = (
    *(TcpAddress(host, 41_000) for host in ("127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1")),
    *(TcpAddress(host, 41_000) for host in ("10.0.0.9", "192.168.1.1", "172.16.0.1", "100.64.0.1", "169.254.1.1")),
    *(TcpAddress("203.0.113.2", port) for port in (22, 80, 443, 1023)),
    TcpAddress("::1", 41_000),
    TcpAddress("fd00::1", 41_000),
    OWN,
    MAPPED,
    RELAY,
)
"""What this end must never dial, whoever says so."""
STEPS = 400


class PunchAdversary:
    """One end under attack; `punch` and `policy` may be mutants."""

    def __init__(self, seed: int, role: Role, *, punch: type[Punch] = Punch, policy: type[Policy] = Policy) -> None:
        self._rng = rng = Random(seed)
        self._tickets = (rng.randbytes(16), rng.randbytes(16))
        self._genuine = encode_preamble(proof_of(role.other, self._tickets))
        shown = tuple([*rng.sample(BAD, 3), GOOD[0]] if rng.random() < 0.7 else rng.sample(BAD, 4))
        own, peer = View(NatMapping.INDEPENDENT, (MAPPED,)), View(NatMapping(rng.randrange(4)), shown)
        targets = policy(frozenset({OWN, MAPPED}), frozenset({RELAY})).admitted(peer, own)
        self._punch = punch(role, self._tickets, own, peer, targets, began_at=0.0)
        self._role = role
        self._now = 0.0
        self._numbered = 0
        self._dialling: list[TcpAddress] = []
        self._dials: Counter[TcpAddress] = Counter()
        self._dialled: dict[int, bool] = {}
        """The connections that stand, and whether this end dialled them."""
        self._heard: dict[int, bytes] = {}
        self._lies: list[bytes] = []
        """What was said to us, which we can say again."""
        self._used: int | None = None
        self.failed = ""

    @property
    def used(self) -> bool:
        """Whether the genuine peer was found."""
        return self._used is not None

    def run(self) -> "PunchAdversary":
        """Do hostile things until the attempt is over."""
        self._do(self._punch.start())
        for _ in range(STEPS):
            if self._punch.over:
                break
            self._step()
        while not self._punch.over:
            deadline = self._punch.deadline
            insist(deadline is not None and deadline <= WINDOW_S + HEAD_START_S, "an attempt ends in time")
            self._pass(deadline or 0.0)
        insist(self.used != bool(self.failed), "it comes to one thing or the other")
        insist(not self._punch.connected(10_000, dialled=True)[1:], "nothing happens when it is over")
        return self

    def _step(self) -> None:
        act = self._rng.choices(
            (self._answer_dial, self._refuse_dial, self._come, self._speak, self._hang_up, self._wait),
            (2, 3, 2, 8, 1, 2),
        )[0]
        act()
        self._punch.check()

    def _answer_dial(self) -> None:
        if self._dialling:
            self._dialling.pop(self._rng.randrange(len(self._dialling)))
            self._connect(dialled=True)

    def _refuse_dial(self) -> None:
        if self._dialling:
            address = self._dialling.pop(self._rng.randrange(len(self._dialling)))
            self._do(self._punch.refused(address, self._now))

    def _come(self) -> None:
        for _ in range(self._rng.choice((1, 1, 1, 20))):
            self._connect(dialled=False)

    def _connect(self, *, dialled: bool) -> None:
        self._numbered += 1
        self._dialled[self._numbered], self._heard[self._numbered] = dialled, b""
        self._do(self._punch.connected(self._numbered, dialled=dialled))
        insist(list(self._dialled.values()).count(False) <= COMERS_MAX, "connections of strangers are bounded")

    def _speak(self) -> None:
        if not self._dialled:
            return
        number = self._rng.choice(list(self._dialled))
        said = self._rng.choices(
            (
                self._genuine,
                OK,
                encode_preamble(proof_of(self._role, self._tickets)) if self._lies else b"ATB1",
                self._rng.choice(self._lies) if self._lies else b"",
                encode_preamble(self._rng.randbytes(32)),
                encode_preamble(self._rng.randbytes(self._rng.randrange(1, 200))),
                self._rng.randbytes(self._rng.randrange(1, 60)),
            ),
            (1, 2, 2, 2, 2, 1, 1),
        )[0]
        while said and number in self._dialled and (wanted := self._punch.bytes_wanted(number)):
            count = self._rng.randint(1, wanted)
            piece, said = said[:count], said[count:]
            self._heard[number] += piece
            self._do(self._punch.heard(number, piece))

    def _hang_up(self) -> None:
        if self._dialled:
            self._do(self._punch.heard(self._rng.choice(list(self._dialled)), b""))

    def _wait(self) -> None:
        self._pass(self._now + self._rng.uniform(0.0, 0.3))

    def _pass(self, until: float) -> None:
        self._now = max(self._now, until)
        self._do(self._punch.tick(self._now))

    def _do(self, effects: list[PunchEffect]) -> None:
        for effect in effects:
            insist(self._used is None and not self.failed, "nothing is done when it is over")
            match effect:
                case Dial(address):
                    self._dialling.append(address)
                    self._dials[address] += 1
                    insist(address not in BAD, f"{address} is never dialled")
                    insist(self._dials[address] <= DIALS_MAX, "nobody is dialled for ever")
                case Say(connection, data):
                    proved = self._heard[connection].startswith(self._genuine)
                    insist(self._dialled[connection] or proved, "who comes hears nothing before it has proved itself")
                    insist(data != OK or proved, "nobody is chosen who has not proved itself")
                    if self._dialled[connection]:
                        self._lies.append(data)
                case Drop(connection):
                    del self._dialled[connection]
                case Use(connection):
                    wanted = self._genuine if self._role is Role.INITIATOR else self._genuine + OK
                    insist(self._heard[connection] == wanted, "only the peer's connection is used, as it has agreed")
                    self._used = connection
                case Fail(reason):
                    insist(bool(reason), "it is said why")
                    self.failed = reason
