"""What every measurement of a relay needs: the processes of a run, what lies between two ends, figures kept."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from atoll.bench.bars import RELAY
from atoll.bench.peers.peer import Peer
from atoll.bench.processes import End
from atoll.bench.relay_process import RelayProcess, direct_pair
from atoll.bench.report import Row, row
from atoll.bench.way import Clocks, Pair, Way, spent_s
from atoll.transport.errors import Unreachable


class Direct(Way):
    """Loopback TCP with nothing between."""

    name = "direct TCP"

    def pair(self) -> Pair:
        return direct_pair()


class BareSplice(Way):
    """The barest splice, in a process of its own; one pair at a time."""

    name = "bare splice"

    def __init__(self, splicer: End) -> None:
        self._splicer = splicer

    def pair(self) -> Pair:
        left, right = direct_pair(), direct_pair()
        self._splicer.begin("bare", left[1], right[0])
        return left[0], right[1]

    def clocks(self) -> Clocks:
        return {self._splicer.pid: self._splicer.cpu_s()}

    def finish(self) -> None:
        self._splicer.answer()


class Bearer(Way):
    """A tunnel through our relay, from fresh tickets to OK at both ends."""

    name = "BEP"

    def __init__(self, relay: RelayProcess) -> None:
        self._relay = relay

    def pair(self) -> Pair:
        return self._relay.pair()

    def clocks(self) -> Clocks:
        return {self._relay.pid: self._relay.cpu_s()}


class Stage:
    """The processes of one run, and the rows so far."""

    def __init__(
        self,
        stack: ExitStack,
        peers: Sequence[type[Peer]] = (),
        absent: dict[str, str] | None = None,
    ) -> None:
        """Start everything; peers that do not start are written into `absent`, or are an error without it.

        Raises:
            Unreachable: A process did not start.
        """
        self.processes = [End(), End(), End()]
        self.sender, self.receiver, self.third = self.processes
        for end in self.processes:
            stack.callback(end.close)
        self.relay = RelayProcess()
        stack.callback(self.relay.close)
        self.direct, self.bare, self.bearer = Direct(), BareSplice(self.third), Bearer(self.relay)
        self.peers: list[Peer] = []
        for make in peers:
            peer = make()
            stack.callback(peer.close)
            try:
                peer.start()
            except Unreachable as error:
                if absent is None:
                    raise
                absent[peer.name] = str(error)
            else:
                self.peers.append(peer)
        self.round_s = 0.0
        """Of each thing that is compared; whoever measures sets it, knowing how many there are."""
        self.rows: list[Row] = []

    def add(self, name: str, unit: str, slices: Sequence[float], against: Row | None = None, *, group: str = "") -> Row:
        """Keep a figure."""
        self.rows.append(row(name, unit, slices, against=against, group=group, bar=RELAY.get(name)))
        return self.rows[-1]

    def cpu_s(self) -> float:
        """CPU seconds of all processes of the benchmark."""
        ours = self.relay.cpu_s() + sum(end.cpu_s() for end in self.processes)
        return time.process_time() + ours + sum(peer.cpu_s() for peer in self.peers)

    def transfer(self, way: Way, message_bytes: int, *, ends: str = "", **how: Any) -> Callable[[float], Any]:
        """Give what pumps one way for a round; the answer has the CPU of what lies between, too."""
        ends = ends or way.ends
        pumped = how if way.half_closes else how | {"half_close": False}

        def measure(round_s: float) -> dict[str, Any]:
            pair = way.pair()
            # As long as we hold this end, a tool that forks for each connection keeps the child and its clock.
            with pair[1].dup():
                before, agents_before = way.clocks(), way.agent_clocks() if isinstance(way, Peer) else {}
                self.receiver.begin(f"{ends}drain", pair[1], message_bytes=message_bytes, **how)
                self.sender.begin(f"{ends}pump", pair[0], message_bytes=message_bytes, duration_s=round_s, **pumped)
                got = self.receiver.answer()
                got["cpu_s"] = spent_s(before, way.clocks())
                if isinstance(way, Peer):
                    got["agents_cpu_s"] = spent_s(agents_before, way.agent_clocks())
            self.sender.answer()
            way.finish()
            return got

        return measure
