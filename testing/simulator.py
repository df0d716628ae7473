"""Runs machines in virtual time, on hosts with drifting clocks, over a network that loses, delays and cuts.

        up        --Crash, Tear-->   down       --`for_s`-->   up (a new machine, with what was persisted)
        up        --Forget-->        down       --`for_s`-->   up (with a beginning of it, and word of the loss)
        up        --Pause-->         paused     --`for_s`-->   up (what arrived meanwhile is delivered)
        up        --Suspend-->       suspended  --`for_s`-->   up (timers go on, the lease clock has gone on)

One heap of events; one seeded `random.Random` for the world and one for each host; every message passes through the
real codec, every record through its bytes. The same seed gives the same `trace_hash`, whatever PYTHONHASHSEED is. It
must never look at a real clock, and never iterate a set.
"""

import enum
import hashlib
import heapq
import math
import struct
import traceback
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Disarm,
    Effect,
    Input,
    Machine,
    Persist,
    Received,
    Record,
    Rewrite,
    Seconds,
    Send,
    TimerFired,
    Told,
)
from atoll.testing.disk import DISK_RECORDS_MAX, Disk, Lost
from atoll.testing.faults import Crash, Cut, Drift, Fault, FaultPlan, Forget, Loss, Pause, Slow, Suspend, Tear, Tell
from atoll.testing.hosts import Clock, Host, State
from atoll.testing.invariants import Invariant, Report
from atoll.transport.codec import Codec
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId

VIOLATIONS_MAX = 20
"""A run ends here: one that has broken so much tells nothing new."""
LINK_UP_S = (0.02, 0.5)
LINK_DOWN_S = (0.1, 3.0)
"""How long it takes until a host hears that a link is up or down; the latter is at most the links' silence."""
RESTART_S = 0.05
"""How long a machine that raised stays down."""

_HEADER = struct.Struct("<dBB")
_DURABLE = (Persist, Rewrite)


class _Kind(enum.IntEnum):
    MESSAGE = 0
    TIMER = 1
    FAULT = 2
    HEAL = 3
    LINK = 4
    SCRIPT = 5
    STOP = 6


class Simulation:
    """A world of hosts, each with one machine, under a fault plan."""

    disk_records_max: float = DISK_RECORDS_MAX

    def __init__(
        self,
        seed: int,
        nodes: Mapping[NodeId, Callable[[Random], Machine]],
        faults: FaultPlan,
        probes: Sequence[Invariant] = (),
        *,
        codec: Codec,
        reachability: Callable[[NodeId, bool], Any] | None = None,
        focus: Callable[[Any], bool] | None = None,
        loss: Callable[[str], Record] | Sequence[Lost] | None = None,
        violations_max: int = VIOLATIONS_MAX,
    ) -> None:
        """Prepare; nothing happens before `run`.

        `nodes` makes a machine from a seeded generator, again after each crash. `reachability` makes the fact that a
        machine is told when its link to a node comes up or goes down. `focus` says of a machine whether it matters at
        the moment, so that faults can aim at it. `loss` makes the record that a machine finds last on a disk which
        forgot something; without it, disks cannot be made to. With several journals, some or all forget at once.
        """
        if loss is None and faults.forgets:
            raise UsageError("the plan lets disks forget, and these machines have no record that would say so")
        if not 1 <= len(nodes) < 256:
            raise UsageError(f"{len(nodes)} nodes cannot be simulated, 1 to 255 can")
        self.seed = seed
        self.now: Seconds = 0.0
        self.plan = faults
        self.rng = Random(f"atoll simulation {seed}")
        self.events = self.crashes = self.partitions = self.elections = self.changes = 0
        self.torn = 0
        """Of the crashes those in the midst of effects that persist something."""
        self.gaps_s: list[float] = []
        self.violations: list[str] = []
        self.hosts = [
            Host(index, node, Clock(self.rng.uniform(0, 1e5), faults.rate(self.rng)), Disk(self.disk_records_max))
            for index, node in enumerate(nodes)
        ]
        self.probes = tuple(probes)
        self._index = {node: index for index, node in enumerate(nodes)}
        self._factories = list(nodes.values())
        self._violations_max = violations_max
        self._codec = codec
        self._reachability = reachability
        self._focus = focus
        self._losses = (Lost((), loss),) if callable(loss) else tuple(loss or ())
        self._heap: list[tuple[Any, ...]] = []
        self._serial = 0
        self._trace = hashlib.sha256()
        self._encoded: tuple[Any, bytes] = (None, b"")
        self._blocked: frozenset[tuple[int, int]] = frozenset()
        self._loss = self._slow = 0.0
        self._network_turns = {"cut": 0, "loss": 0, "slow": 0}
        self._links: dict[tuple[int, int], int] = {}
        self._quiet = False
        self._listen()
        self._begun = False

    def _listen(self) -> None:
        """Call only those probes that have something to do; most events concern few of them."""
        self._handled = [p.handled for p in self.probes if type(p).handled is not Invariant.handled]
        self._forgot = [p.forgot for p in self.probes if type(p).forgot is not Invariant.forgot]
        self._persisted = [p.persisted for p in self.probes if type(p).persisted is not Invariant.persisted]
        self._sent = [p.sent for p in self.probes if type(p).sent is not Invariant.sent]
        self._announced = [p.announced for p in self.probes if type(p).announced is not Invariant.announced]

    def watch(self, probe: Invariant) -> None:
        """Let one more probe see what happens from now on."""
        self.probes = (*self.probes, probe)
        self._listen()

    def run(self, seconds: Seconds) -> Report:
        """Run for `seconds` of true time; may be called again to go on."""
        if not self._begun:
            self._begin()
        end = self.now + seconds
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end and len(self.violations) < self._violations_max:
            event = pop(heap)
            self.now = event[0]
            self._step(event)
        if len(self.violations) < self._violations_max:
            self.now = max(self.now, end)
        for probe in self.probes:
            probe.finished(self)
        return Report(
            seed=self.seed,
            trace_hash=self._trace.hexdigest(),
            violations=tuple(self.violations),
            events=self.events,
            simulated_s=self.now,
            crashes=self.crashes,
            partitions=self.partitions,
            elections=self.elections,
            changes=self.changes,
            gaps_s=tuple(self.gaps_s),
        )

    def violate(self, what: str) -> None:
        """Record that an invariant is broken."""
        self.violations.append(f"at {self.now:.6f} s: {what}")

    def local(self, host: Host) -> Seconds:
        """Read a host's lease clock now."""
        if host.state is State.SUSPENDED and self.plan.lease_clock_sleeps:
            return host.clock.local(host.since)
        return host.clock.local(self.now)

    def tell(self, host: Host, fact: Any) -> None:
        """Tell a running machine a fact now."""
        if host.state is State.UP:
            self._handle(host, Told(fact))

    def tell_later(self, host: Host, fact: Any, after_s: Seconds) -> None:
        """Tell a machine a fact in a while, if its host is up then."""
        self._push(self.now + after_s, _Kind.SCRIPT, Tell(host.index, fact))

    def _begin(self) -> None:
        self._begun = True
        for host in self.hosts:
            self._boot(host)
        if self.plan.weights:
            self._push(self.rng.uniform(*self.plan.every_s), _Kind.FAULT)
        for at, fault in self.plan.script:
            self._push(at, _Kind.SCRIPT, fault)
        if math.isfinite(self.plan.until_s):
            self._push(self.plan.until_s, _Kind.STOP)

    def _push(self, at: Seconds, kind: _Kind, *details: Any) -> int:
        self._serial += 1
        heapq.heappush(self._heap, (at, self._serial, kind, *details))
        return self._serial

    def _step(self, event: tuple[Any, ...]) -> None:
        kind = event[2]
        if kind is _Kind.MESSAGE:
            self._arrive(event)
        elif kind is _Kind.TIMER:
            self._fire(event)
        elif kind is _Kind.LINK:
            self._link(*event[3:])
        elif kind is _Kind.HEAL:
            self._heal(*event[3:])
        elif kind is _Kind.SCRIPT:
            self.apply(event[3])
        elif kind is _Kind.STOP:
            self._stop()
        elif not self._quiet:
            focused = [h.index for h in self.hosts if h.machine is not None and self._focus and self._focus(h.machine)]
            self.apply(self.plan.draw(self.rng, len(self.hosts), focused))
            self._push(self.now + self.rng.uniform(*self.plan.every_s), _Kind.FAULT)

    def _note(self, kind: int, host: int, data: bytes) -> None:
        self._trace.update(_HEADER.pack(self.now, kind, host))
        self._trace.update(data)

    def _arrive(self, event: tuple[Any, ...]) -> None:
        host, sender, data, path = event[3:]
        if host.state is State.UP:
            self.events += 1
            self._note(_Kind.MESSAGE, host.index, data)
            self._handle(host, Received(sender, self._codec.decode(data), path))
        elif host.state is State.PAUSED or (host.state is State.SUSPENDED and self.rng.random() < 0.5):
            host.held.append(event)

    def _fire(self, event: tuple[Any, ...]) -> None:
        serial, host, name = event[1], event[3], event[4]
        armed = host.timers.get(name)
        if armed is None or armed[1] != serial:
            return
        if host.state is State.PAUSED:
            host.held.append(event)
        elif host.state is State.UP:
            del host.timers[name]
            self.events += 1
            self._note(_Kind.TIMER, host.index, name.encode())
            self._handle(host, TimerFired(name))

    def _handle(self, host: Host, event: Input) -> None:
        now = host.clock.local(self.now)
        try:
            effects = host.machine.handle(event, now)
            host.machine.check()
        except Exception as error:  # noqa: BLE001 - a machine that raises is a finding, and ends like an actor does
            self._raised(host, error)
            return
        if effects:
            self._carry_out(host, effects)
        if host.machine is not None:
            for probe in self._handled:
                probe(self, host)

    def _raised(self, host: Host, error: Exception) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        self.violate(f"{host.node.short} raised {type(error).__name__}: {error} ({place.name}, line {place.lineno})")
        self._crash(host, RESTART_S)

    def _boot(self, host: Host) -> None:
        host.boots += 1
        rng = Random(f"atoll host {self.seed} {host.index} {host.boots}")
        host.machine = self._factories[host.index](rng)
        self._enter(host, State.UP)
        restored = host.disk.restored()
        try:
            effects = host.machine.start(restored, host.clock.local(self.now))
        except Exception as error:  # noqa: BLE001 - as in `_handle`
            self._raised(host, error)
            return
        self._carry_out(host, effects)
        if host.machine is not None:
            for probe in self._handled:
                probe(self, host)
            self._relink()

    def _carry_out(self, host: Host, effects: list[Effect]) -> None:
        if host.torn and any(type(effect) in _DURABLE for effect in effects):
            down_s, host.torn = host.torn, 0.0
            self.torn += 1
            for effect in effects[: self.rng.randrange(len(effects))]:
                self._effect(host, effect)
            self._crash(host, down_s)
            return
        turn = host.turn
        for effect in effects:
            self._effect(host, effect)
            if host.turn != turn:
                return  # A probe that aims has crashed it in between.

    def _effect(self, host: Host, effect: Effect) -> None:
        kind = type(effect)
        if kind is Send:
            self._transmit(host, effect)  # type: ignore[arg-type]
        elif kind is Arm:
            due = self.now + effect.after / host.clock.rate  # type: ignore[union-attr]
            host.timers[effect.name] = (due, self._push(due, _Kind.TIMER, host, effect.name))  # type: ignore[union-attr]
        elif isinstance(effect, Disarm):
            host.timers.pop(effect.name, None)
        elif isinstance(effect, Persist):
            self._note(_Kind.HEAL, host.index, host.disk.persist(effect.record))
            for persisted in self._persisted:
                persisted(self, host, effect.record)
        elif isinstance(effect, Rewrite):
            for data in host.disk.rewrite(effect):
                self._note(_Kind.HEAL, host.index, data)
        elif isinstance(effect, Announce):
            self._note(_Kind.LINK, host.index, repr(effect.fact).encode())
            for announced in self._announced:
                announced(self, host, effect.fact)
        else:
            self.violate(f"{host.node.short} answers an ask, and nobody asks in a simulation")

    def _transmit(self, host: Host, effect: Send) -> None:
        if self._encoded[0] is not effect.message:
            self._encoded = (effect.message, self._codec.encode(effect.message))
        for probe in self._sent:
            probe(self, host, effect)
        target = self._index.get(effect.target)
        random = self.rng.random
        if target is None or (host.index, target) in self._blocked or (self._loss and random() < self._loss):
            return
        plan = self.plan
        at = self.now + plan.latency_s * (0.1 - math.log(1.0 - random()))
        if self._slow:
            at += random() * self._slow
        if not self._quiet:
            fate = random()
            if fate < plan.late_ratio:
                at += random() * plan.late_s_max
            elif fate > 1 - plan.duplicate_ratio:
                again = at + random() * plan.duplicate_s_max
                self._push(again, _Kind.MESSAGE, self.hosts[target], host.node, self._encoded[1], effect.path)
        self._push(at, _Kind.MESSAGE, self.hosts[target], host.node, self._encoded[1], effect.path)

    def apply(self, fault: Fault) -> None:
        """Let a fault happen now."""
        if isinstance(fault, Cut):
            self._blocked = fault.pairs
            self.partitions += 1
            self._relink()
            self._heal_network_after("cut", fault.for_s)
        elif isinstance(fault, Loss):
            self._loss = fault.ratio
            self._heal_network_after("loss", fault.for_s)
        elif isinstance(fault, Slow):
            self._slow = fault.extra_s
            self._heal_network_after("slow", fault.for_s)
        else:
            self._apply_to_host(self.hosts[fault.host], fault)

    def _apply_to_host(self, host: Host, fault: Crash | Forget | Tear | Pause | Suspend | Drift | Tell) -> None:
        if host.state is not State.UP:
            return
        if isinstance(fault, Crash):
            self._crash(host, fault.for_s)
        elif isinstance(fault, Forget):
            self._forget(host)
            self._crash(host, fault.for_s)
        elif isinstance(fault, Tear):
            host.torn = fault.for_s
        elif isinstance(fault, Drift):
            host.clock.set(self.now, fault.rate)
        elif isinstance(fault, Tell):
            self._handle(host, Told(fault.fact))
        else:
            self._enter(host, State.PAUSED if isinstance(fault, Pause) else State.SUSPENDED)
            self._push(self.now + fault.for_s, _Kind.HEAL, host, host.turn)

    def _forget(self, host: Host) -> None:
        host.disk.damage(self._losses, self.rng)
        for forgot in self._forgot:
            forgot(self, host)

    def _enter(self, host: Host, state: State) -> None:
        host.state, host.since = state, self.now
        host.turn += 1

    def _crash(self, host: Host, down_s: Seconds) -> None:
        self.crashes += 1
        self._enter(host, State.DOWN)
        host.machine = None
        host.torn = 0.0
        host.timers.clear()
        host.held.clear()
        self._relink()
        self._push(self.now + (0 if self._quiet else down_s), _Kind.HEAL, host, host.turn)

    def _heal_network_after(self, what: str, seconds: Seconds) -> None:
        self._network_turns[what] += 1
        self._push(self.now + seconds, _Kind.HEAL, what, self._network_turns[what])

    def _heal(self, what: Host | str, turn: int) -> None:
        if isinstance(what, Host):
            if what.turn == turn:
                self._wake(what)
        elif self._network_turns[what] == turn:
            if what == "cut":
                self._blocked = frozenset()
                self._relink()
            elif what == "loss":
                self._loss = 0.0
            else:
                self._slow = 0.0

    def _wake(self, host: Host) -> None:
        was, slept_s = host.state, self.now - host.since
        if was is State.DOWN:
            self._boot(host)
            return
        if was is State.SUSPENDED:
            if self.plan.lease_clock_sleeps:
                host.clock.set(self.now, host.clock.rate, back_s=slept_s * host.clock.rate)
            for name, (due, _) in host.timers.items():
                host.timers[name] = (due + slept_s, self._push(due + slept_s, _Kind.TIMER, host, name))
        self._enter(host, State.UP)
        held, host.held = host.held, []
        for _, serial, *details in held:
            # Soon, and in no particular order: timers and messages race after a pause.
            heapq.heappush(self._heap, (self.now + self.rng.random() * 0.001, serial, *details))

    def _stop(self) -> None:
        """End all faults: lose what is in flight, mend the network, wake everybody."""
        self._quiet = True
        self._heap[:] = [event for event in self._heap if event[2] is not _Kind.MESSAGE]
        heapq.heapify(self._heap)
        self._blocked, self._loss, self._slow = frozenset(), 0.0, 0.0
        for host in self.hosts:
            host.torn = 0.0
            host.held = [event for event in host.held if event[2] is not _Kind.MESSAGE]
            if host.state is not State.UP:
                self._wake(host)
        self._relink()

    def _relink(self) -> None:
        """Look at every pair of hosts; a link needs both running and both directions."""
        if self._reachability is None:
            return
        for a in self.hosts:
            for b in self.hosts[a.index + 1 :]:
                pair = (a.index, b.index)
                running = a.state is not State.DOWN and b.state is not State.DOWN
                up = running and pair not in self._blocked and pair[::-1] not in self._blocked
                turn = self._links.get(pair, 0)
                if up != bool(turn % 2):
                    # Odd turns are up, even ones down; a fact of an earlier turn is not told any more.
                    self._links[pair] = turn + 1
                    for host, peer in ((a, b), (b, a)):
                        delay_s = self.rng.uniform(*(LINK_UP_S if up else LINK_DOWN_S))
                        self._push(self.now + delay_s, _Kind.LINK, pair, turn + 1, host, peer.node)

    def _link(self, pair: tuple[int, int], turn: int, host: Host, peer: NodeId) -> None:
        if self._links[pair] != turn or self._reachability is None:
            return
        if host.state in (State.PAUSED, State.SUSPENDED):
            self._push(self.now + LINK_UP_S[1], _Kind.LINK, pair, turn, host, peer)
        elif host.state is State.UP:
            self.events += 1
            self._note(_Kind.FAULT, host.index, peer)
            self._handle(host, Told(self._reachability(peer, turn % 2 == 1)))
