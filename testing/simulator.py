"""Runs machines in virtual time, on hosts with drifting clocks, over a network that loses, delays and cuts.

        up        --Crash, Tear-->   down       --`for_s`-->   up (a new machine, with what was persisted)
        up        --Forget-->        down       --`for_s`-->   up (with a beginning of it, and word of the loss)
        up        --Pause-->         paused     --`for_s`-->   up (what arrived meanwhile is delivered)
        up        --Suspend-->       suspended  --`for_s`-->   up (timers go on, the lease clock has gone on)

One heap of events; one seeded `random.Random` for the world and one for each host; every message passes through the
real codec, every record through its bytes. The same seed gives the same `trace_hash`, whatever PYTHONHASHSEED is. It
must never look at a real clock, and never iterate a set.
"""

import heapq
import itertools
import math
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any, TypeAlias

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
    Reply,
    Rewrite,
    Seconds,
    Send,
    TimerFired,
    Told,
)
from atoll.testing.disk import DISK_RECORDS_MAX, Disk, Lost
from atoll.testing.event_trace import EventTrace
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

DECODED_MAX = 4096
"""Messages that are kept as they were read: one goes to several hosts, and may come twice."""

_DURABLE = (Persist, Rewrite)
_MESSAGE, _TIMER, _FAULT, _HEAL, _LINK, _SCRIPT, _STOP = range(7)
"""Kinds of events, and of what the trace tells."""
# Names of their own, as Python 3.11 takes as long to find a member in its class as for six calls.
_UP, _DOWN, _PAUSED, _SUSPENDED = State

_Event: TypeAlias = tuple[Any, ...]
"""When, a serial number, the kind, and what else there is to know of one of that kind."""


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
        linked: Callable[[NodeId, NodeId], bool] | None = None,
        focus: Callable[[Any], bool] | None = None,
        loss: Callable[[str], Record] | Sequence[Lost] | None = None,
        violations_max: int = VIOLATIONS_MAX,
    ) -> None:
        """Prepare; nothing happens before `run`.

        `nodes` makes a machine from a seeded generator, again after each crash. `reachability` makes the fact that a
        machine is told when its link to a node comes up or goes down; `linked` says which two have one, usually all.
        `focus` says of a machine whether it matters at the moment, so that faults can aim at it. `loss` makes the
        record that a machine finds last on a disk which forgot something; without it, disks cannot be made to. With
        several journals, some or all forget at once.
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
        self._by_node = {host.node: host for host in self.hosts}
        self._factories = list(nodes.values())
        self._violations_max = violations_max
        self._encode, self._decode = codec.encode, lru_cache(DECODED_MAX)(codec.decode)
        self._reachability = reachability
        self._pairs = [
            (a, b)
            for a, b in itertools.combinations(self.hosts, 2)
            if reachability is not None and (linked is None or linked(a.node, b.node))
        ]
        """Those that have a link, when all is well; `link` and `unlink` change it."""
        self._focus = focus
        self._losses = (Lost((), loss),) if callable(loss) else tuple(loss or ())
        self._heap: list[_Event] = []
        self._serials = itertools.count(1)
        self._steps: tuple[Callable[[_Event], None], ...] = (
            self._arrive,
            self._fire,
            self._draw_fault,
            self._heal,
            self._link,
            lambda event: self.apply(event[3]),
            self._stop,
        )
        """By the kind of the event."""
        carriers: dict[type, Callable[[Host, Any], object]] = {
            Send: self._transmit,
            Arm: self._arm,
            Disarm: lambda host, effect: host.timers.pop(effect.name, None),
            Persist: self._persist,
            Rewrite: self._rewrite,
            Announce: self._announce,
            Reply: self._reply,
        }
        self._carriers = defaultdict(lambda: self._wonder, carriers)
        """By the kind of the effect."""
        self._trace = EventTrace()
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
        sent = [p for p in self.probes if type(p).sent is not Invariant.sent]
        self._sent_any = [p.sent for p in sent if not p.sent_kinds]
        kinds = dict.fromkeys(kind for p in sent for kind in p.sent_kinds)
        self._sent = {kind: [p.sent for p in sent if not p.sent_kinds or kind in p.sent_kinds] for kind in kinds}
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
        heap, pop, steps = self._heap, heapq.heappop, self._steps
        while heap and heap[0][0] <= end and len(self.violations) < self._violations_max:
            event = pop(heap)
            self.now = event[0]
            steps[event[2]](event)
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
        if host.state is _SUSPENDED and self.plan.lease_clock_sleeps:
            return host.clock.local(host.since)
        return host.clock.local(self.now)

    def tell(self, host: Host, fact: Any) -> None:
        """Tell a running machine a fact now."""
        if host.state is _UP:
            self._handle(host, Told(fact))

    def tell_later(self, host: Host, fact: Any, after_s: Seconds) -> None:
        """Tell a machine a fact in a while, if its host is up then."""
        self._push(self.now + after_s, _SCRIPT, Tell(host.index, fact))

    @property
    def unlinked(self) -> list[tuple[Host, Host]]:
        """Pairs of hosts that have no link even when all is well."""
        linked = set(self._pairs)
        return [pair for pair in itertools.combinations(self.hosts, 2) if pair not in linked]

    def link(self, pair: tuple[Host, Host]) -> None:
        """Let two of the `unlinked` have a link from now on."""
        self._pairs.append(pair)
        self._relink()

    def unlink(self, pair: tuple[Host, Host]) -> None:
        """Take the link of two away that have one."""
        self._pairs.remove(pair)
        self._turn_link(pair, up=False)

    def _begin(self) -> None:
        self._begun = True
        for host in self.hosts:
            self._boot(host)
        if self.plan.weights:
            self._push(self.rng.uniform(*self.plan.every_s), _FAULT)
        for at, fault in self.plan.script:
            self._push(at, _SCRIPT, fault)
        if math.isfinite(self.plan.until_s):
            self._push(self.plan.until_s, _STOP)

    def _push(self, at: Seconds, kind: int, *details: Any) -> None:
        heapq.heappush(self._heap, (at, next(self._serials), kind, *details))

    def _arrive(self, event: _Event) -> None:
        _, _, _, host, sender, data, path = event
        if host.state is _UP:
            self.events += 1
            self._trace.note(self.now, _MESSAGE, host.index, data)
            self._handle(host, Received(sender, self._decode(data), path))
        elif host.state is _PAUSED or (host.state is _SUSPENDED and self.rng.random() < 0.5):
            host.held.append(event)

    def _fire(self, event: _Event) -> None:
        _, serial, _, host, name = event
        armed = host.timers.get(name)
        if armed is None or armed[1] != serial:
            return
        if host.state is _PAUSED:
            host.held.append(event)
        elif host.state is _UP:
            del host.timers[name]
            self.events += 1
            self._trace.note(self.now, _TIMER, host.index, name.encode())
            self._handle(host, TimerFired(name))

    def _draw_fault(self, _event: _Event) -> None:
        if not self._quiet:
            focused = [h.index for h in self.hosts if h.machine is not None and self._focus and self._focus(h.machine)]
            self.apply(self.plan.draw(self.rng, len(self.hosts), focused))
            self._push(self.now + self.rng.uniform(*self.plan.every_s), _FAULT)

    def _handle(self, host: Host, event: Input) -> None:
        machine, now = host.machine, host.clock.local(self.now)
        try:
            effects = machine.handle(event, now)
            machine.check()
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
        self._enter(host, _UP)
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
                self._carriers[type(effect)](host, effect)
            self._crash(host, down_s)
            return
        turn = host.turn
        for effect in effects:
            self._carriers[type(effect)](host, effect)
            if host.turn != turn:
                return  # A probe that aims has crashed it in between.

    def _arm(self, host: Host, effect: Arm) -> None:
        self._start_timer(host, effect.name, self.now + effect.after / host.clock.rate)

    def _start_timer(self, host: Host, name: str, due: Seconds) -> None:
        serial = next(self._serials)
        host.timers[name] = (due, serial)
        heapq.heappush(self._heap, (due, serial, _TIMER, host, name))

    def _persist(self, host: Host, effect: Persist) -> None:
        self._trace.note(self.now, _HEAL, host.index, host.disk.persist(effect.record))
        for persisted in self._persisted:
            persisted(self, host, effect.record)

    def _rewrite(self, host: Host, effect: Rewrite) -> None:
        for data in host.disk.rewrite(effect):
            self._trace.note(self.now, _HEAL, host.index, data)

    def _announce(self, host: Host, effect: Announce) -> None:
        self._trace.note(self.now, _LINK, host.index, repr(effect.fact).encode())
        for announced in self._announced:
            announced(self, host, effect.fact)

    def _reply(self, host: Host, _effect: Reply) -> None:
        self.violate(f"{host.node.short} answers an ask, and nobody asks in a simulation")

    def _wonder(self, host: Host, effect: object) -> None:
        self.violate(f"{host.node.short} wants {type(effect).__name__}, which is no effect")

    def _transmit(self, host: Host, effect: Send) -> None:
        message = effect.message
        if self._encoded[0] is not message:
            self._encoded = (message, self._encode(message))
        for probe in self._sent.get(type(message), self._sent_any):
            probe(self, host, effect)
        target, random = self._by_node.get(effect.target), self.rng.random
        if target is None or (self._blocked and (host.index, target.index) in self._blocked):
            return
        if self._loss and random() < self._loss:
            return
        plan, data = self.plan, self._encoded[1]
        at = self.now + plan.latency_s * (0.1 - math.log(1.0 - random()))
        if self._slow:
            at += random() * self._slow
        if not self._quiet:
            fate = random()
            if fate < plan.late_ratio:
                at += random() * plan.late_s_max
            elif fate > 1 - plan.duplicate_ratio:
                again = at + random() * plan.duplicate_s_max
                self._push(again, _MESSAGE, target, host.node, data, effect.path)
        heapq.heappush(self._heap, (at, next(self._serials), _MESSAGE, target, host.node, data, effect.path))

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
        if host.state is not _UP:
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
            self._enter(host, _PAUSED if isinstance(fault, Pause) else _SUSPENDED)
            self._push(self.now + fault.for_s, _HEAL, host, host.turn)

    def _forget(self, host: Host) -> None:
        host.disk.damage(self._losses, self.rng)
        for forgot in self._forgot:
            forgot(self, host)

    def _enter(self, host: Host, state: State) -> None:
        host.state, host.since = state, self.now
        host.turn += 1

    def _crash(self, host: Host, down_s: Seconds) -> None:
        self.crashes += 1
        self._enter(host, _DOWN)
        host.machine = None
        host.torn = 0.0
        host.timers.clear()
        host.held.clear()
        self._relink()
        self._push(self.now + (0 if self._quiet else down_s), _HEAL, host, host.turn)

    def _heal_network_after(self, what: str, seconds: Seconds) -> None:
        self._network_turns[what] += 1
        self._push(self.now + seconds, _HEAL, what, self._network_turns[what])

    def _heal(self, event: _Event) -> None:
        what, turn = event[3:]
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
        if was is _DOWN:
            self._boot(host)
            return
        if was is _SUSPENDED:
            if self.plan.lease_clock_sleeps:
                host.clock.set(self.now, host.clock.rate, back_s=slept_s * host.clock.rate)
            for name, (due, _) in host.timers.items():
                self._start_timer(host, name, due + slept_s)
        self._enter(host, _UP)
        held, host.held = host.held, []
        for _, serial, *details in held:
            # Soon, and in no particular order: timers and messages race after a pause.
            heapq.heappush(self._heap, (self.now + self.rng.random() * 0.001, serial, *details))

    def _stop(self, _event: _Event) -> None:
        """End all faults: lose what is in flight, mend the network, wake everybody."""
        self._quiet = True
        self._heap[:] = [event for event in self._heap if event[2] != _MESSAGE]
        heapq.heapify(self._heap)
        self._blocked, self._loss, self._slow = frozenset(), 0.0, 0.0
        for host in self.hosts:
            host.torn = 0.0
            host.held = [event for event in host.held if event[2] != _MESSAGE]
            if host.state is not _UP:
                self._wake(host)
        self._relink()

    def _relink(self) -> None:
        """Look at every pair of hosts; a link needs both running and both directions."""
        for a, b in self._pairs:
            pair = (a.index, b.index)
            running = a.state is not _DOWN and b.state is not _DOWN
            self._turn_link((a, b), up=running and pair not in self._blocked and pair[::-1] not in self._blocked)

    def _turn_link(self, hosts: tuple[Host, Host], *, up: bool) -> None:
        a, b = hosts
        pair = (a.index, b.index)
        turn = self._links.get(pair, 0)
        if up != bool(turn % 2):
            # Odd turns are up, even ones down; a fact of an earlier turn is not told any more.
            self._links[pair] = turn + 1
            for host, peer in ((a, b), (b, a)):
                delay_s = self.rng.uniform(*(LINK_UP_S if up else LINK_DOWN_S))
                self._push(self.now + delay_s, _LINK, pair, turn + 1, host, peer.node)

    def _link(self, event: _Event) -> None:
        pair, turn, host, peer = event[3:]
        if self._links[pair] != turn or self._reachability is None:
            return
        if host.state in (_PAUSED, _SUSPENDED):
            self._push(self.now + LINK_UP_S[1], _LINK, pair, turn, host, peer)
        elif host.state is _UP:
            self.events += 1
            self._trace.note(self.now, _FAULT, host.index, peer)
            self._handle(host, Told(self._reachability(peer, turn % 2 == 1)))
