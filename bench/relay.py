"""`atoll bench relay`: what a relay costs, beside raw TCP and the barest splice in the same run.

Sender, receiver and relay are processes of their own. What goes through is sealed by the ends, so a ratio to direct TCP
is the price of the relay alone. On two cores the three share them: CPU seconds of the relay per GB are the figure to
trust, a rate is only as good as its ratio.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias

import anyio
import psutil
import zmq

from atoll.actors.tunnel_relay.relay import Relay
from atoll.actors.tunnel_relay.sep_client import FreshKey
from atoll.actors.tunnel_relay.tickets import Role, issue
from atoll.bench.relay_ends import RECORD_BYTES
from atoll.bench.report import BenchReport, Row, row
from atoll.transport.bearer import encode_preamble, make_bearer_ready
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey

HOST = "127.0.0.1"
ISSUER, RELAY = NodeKey(b"bench issuer".ljust(32)), NodeKey(b"bench relay".ljust(32))
ROUNDS = 5
DURATION_S = 1.5
SIZES = (65_000, 1024, 64)
"""One message that fills a record (64 KiB in all), and two sizes that share one."""
TUNNELS = 8
IDLE_TUNNELS = 300
REGISTERED_S = 0.1
ANSWER_TIMEOUT_S = 60.0

Pair: TypeAlias = tuple[socket.socket, socket.socket]


class End:
    """One process of `relay_ends`: takes commands and sockets, gives answers."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(ANSWER_TIMEOUT_S)
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "atoll.bench.relay_ends", str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )

    def begin(self, operation: str, *socks: socket.socket, **arguments: Any) -> None:
        """Start an operation on sockets, which belong to the process from then on."""
        command = json.dumps({"do": operation, **arguments}).encode()
        socket.send_fds(self._control, [command], [sock.fileno() for sock in socks])
        for sock in socks:
            sock.close()

    def answer(self) -> dict[str, Any]:
        """Wait for what the operation gives."""
        data = self._control.recv(1 << 20)
        if not data:
            raise Unreachable("a process of the benchmark ended early; its own message stands above")
        answer: dict[str, Any] = json.loads(data)
        return answer

    def close(self) -> None:
        """End the process."""
        self._control.close()
        self.process.wait(ANSWER_TIMEOUT_S)


class RelayProcess:
    """A relay of our own, alone in its process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "atoll.bench.relay", "serve"], stdout=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise Unreachable("the relay did not start; its own message stands above")
        self.sep_port, self.port = map(int, line.split())
        self._inside = psutil.Process(self.process.pid)

    def cpu_s(self) -> float:
        """CPU seconds since its start, all threads."""
        times = self._inside.cpu_times()
        return float(times.user + times.system)

    def rss_bytes(self) -> int:
        """Memory that is resident now."""
        return int(self._inside.memory_info().rss)

    def pair(self) -> Pair:
        """Make a tunnel, from fresh tickets to OK at both ends."""
        tunnel = os.urandom(16)
        expires_at = int(time.time()) + 600
        socks = []
        for role in (Role.OFFER, Role.CALL):
            ticket = issue(ISSUER, role=role, subject=tunnel, relay=RELAY.node_id, expires_at=expires_at)
            sock = socket.create_connection((HOST, self.port), ANSWER_TIMEOUT_S)
            make_bearer_ready(sock)
            sock.sendall(encode_preamble(ticket))
            socks.append(sock)
        for sock in socks:
            if (answer := sock.recv(2)) != b"OK":
                raise Unreachable(f"the relay refused a tunnel of the benchmark: {answer + sock.recv(300)!r}")
        return socks[0], socks[1]

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def direct_pair() -> Pair:
    """Connect two sockets over loopback TCP with nothing between."""
    with socket.create_server((HOST, 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for sock in (one, other):
        make_bearer_ready(sock)
    return one, other


def _free_ports(count: int) -> list[int]:
    socks = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


def _dialled(port: int, server: NodeKey, key: FreshKey) -> dict[str, Any]:
    """Give what an end needs to dial a CURVE port, as plain data."""
    return {
        "port": port,
        "server": server.node_id.curve_key.hex(),
        "public": key.public.hex(),
        "secret": key.secret.hex(),
    }


class Bench:
    """The processes of one run, and what is measured with them.

    Whatever is compared is measured turn and turn about in `ROUNDS` rounds, so that a busy moment of the host hits all
    of it alike.
    """

    def __init__(self, stack: ExitStack, duration_s: float) -> None:
        self.sender, self.receiver, self.splicer = End(), End(), End()
        for end in (self.sender, self.receiver, self.splicer):
            stack.callback(end.close)
        self.relay = RelayProcess()
        stack.callback(self.relay.close)
        self.round_s = duration_s / ROUNDS
        self.rows: list[Row] = []

    def add(self, name: str, unit: str, slices: Sequence[float], against: Row | None = None) -> Row:
        """Keep a figure."""
        self.rows.append(row(name, unit, slices, against=against))
        return self.rows[-1]

    def bare_pair(self) -> Pair:
        """Put the barest splice between two sockets; `splicer` answers when both have ended."""
        left, right = direct_pair(), direct_pair()
        self.splicer.begin("bare", left[1], right[0])
        return left[0], right[1]

    def transfer(self, pair: Pair, message_bytes: int) -> dict[str, Any]:
        """Pump one way for a round."""
        self.receiver.begin("drain", pair[1], message_bytes=message_bytes)
        self.sender.begin("pump", pair[0], message_bytes=message_bytes, duration_s=self.round_s)
        self.sender.answer()
        return self.receiver.answer()

    def throughput(self, message_bytes: int) -> None:
        """Compare direct, bare splice and BEP: rate, and CPU of what lies between per GB."""
        whole = message_bytes > RECORD_BYTES // 2
        unit = "GB/s" if whole else "thousand/s"
        size = f"{message_bytes} B {'records' if whole else 'messages'}"

        def rate(got: dict[str, Any]) -> float:
            return float(got["bytes"] / 1e9 if whole else got["messages"] / 1e3) / float(got["took_s"])

        direct: list[float] = []
        bare: list[float] = []
        bep: list[float] = []
        bare_cpu: list[float] = []
        bep_cpu: list[float] = []
        for _ in range(ROUNDS):
            direct.append(rate(self.transfer(direct_pair(), message_bytes)))
            got = self.transfer(self.bare_pair(), message_bytes)
            bare.append(rate(got))
            bare_cpu.append(self.splicer.answer()["cpu_s"] / got["bytes"] * 1e9)
            before_s = self.relay.cpu_s()
            got = self.transfer(self.relay.pair(), message_bytes)
            bep.append(rate(got))
            bep_cpu.append((self.relay.cpu_s() - before_s) / got["bytes"] * 1e9)
        baseline = self.add(f"direct TCP, {size}", unit, direct)
        self.add(f"bare splice, {size}", unit, bare, baseline)
        self.add(f"BEP, {size}", unit, bep, baseline)
        baseline = self.add(f"bare splice, {size}, CPU", "s/GB", bare_cpu)
        self.add(f"BEP, {size}, CPU", "s/GB", bep_cpu, baseline)

    def round_trips(self, message_bytes: int) -> None:
        """Compare round trips of sealed messages: direct, bare splice, BEP."""
        ways: dict[str, Callable[[], Pair]] = {
            "direct TCP": direct_pair,
            "bare splice": self.bare_pair,
            "BEP": self.relay.pair,
        }
        answers: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, make_pair in ways.items():
                pair = make_pair()
                self.receiver.begin("echo", pair[1])
                self.sender.begin("ping", pair[0], message_bytes=message_bytes, duration_s=self.round_s)
                answers[way].append(self.sender.answer())
                self.receiver.answer()
                if way == "bare splice":
                    self.splicer.answer()
        for quantile in ("p50", "p99"):
            baseline = None
            for way in ("bare splice", "direct TCP", "BEP"):
                name = f"{way}, round trip {message_bytes} B {quantile}"
                figure = self.add(name, "us", [got[f"{quantile}_s"] * 1e6 for got in answers[way]], baseline)
                baseline = baseline or figure

    def set_up(self) -> None:
        """Measure tunnels made one after the other: two tickets, two connections, two OK."""
        rates: list[float] = []
        times: list[list[float]] = []
        for _ in range(ROUNDS):
            times.append([])
            began = time.monotonic()
            while time.monotonic() < began + self.round_s:
                started = time.perf_counter()
                pair = self.relay.pair()
                times[-1].append(time.perf_counter() - started)
                for sock in pair:
                    sock.close()
            rates.append(len(times[-1]) / (time.monotonic() - began))
        self.add("BEP, tunnels set up", "1/s", rates)
        self.add("BEP, set-up p99", "ms", [sorted(each)[len(each) * 99 // 100] * 1e3 for each in times])

    def fairness(self, tunnels: int) -> None:
        """Load many tunnels alike and compare what each gets: Jain's index, 1 is fair, 1/n is one takes all."""
        index: dict[str, list[float]] = {"direct TCP": [], "BEP": []}
        for _ in range(ROUNDS):
            for way, make_pair in (("direct TCP", direct_pair), ("BEP", self.relay.pair)):
                pairs = [make_pair() for _ in range(tunnels)]
                self.receiver.begin("drain_many", *(pair[1] for pair in pairs))
                self.sender.begin("pump_many", *(pair[0] for pair in pairs), duration_s=self.round_s)
                self.sender.answer()
                got = self.receiver.answer()["bytes"]
                index[way].append(sum(got) ** 2 / (len(got) * sum(each**2 for each in got)))
        baseline = self.add(f"direct TCP, fairness of {tunnels}", "Jain", index["direct TCP"])
        self.add(f"BEP, fairness of {tunnels}", "Jain", index["BEP"], baseline)

    def switching(self, message_bytes: int) -> None:
        """Compare the SEP with libzmq's own proxy in C: sealed records from a caller to a callee, CURVE on both."""
        rates: dict[str, list[float]] = {"C switch": [], "SEP": []}
        costs: dict[str, list[float]] = {"C switch": [], "SEP": []}
        lost = 0
        for _ in range(ROUNDS):
            got, spent_s = self._through_c(message_bytes)
            rates["C switch"].append(got["records"] / got["took_s"] / 1e3)
            costs["C switch"].append(spent_s / max(1, got["records"]) * 1e6)
            before_s = self.relay.cpu_s()
            got = self._through_sep(message_bytes)
            rates["SEP"].append(got["records"] / got["took_s"] / 1e3)
            costs["SEP"].append((self.relay.cpu_s() - before_s) / max(1, got["records"]) * 1e6)
            lost += got["lost"]
        for unit, figures in (("thousand/s", rates), ("us CPU", costs)):
            what = f"{message_bytes} B records{', CPU each' if unit == 'us CPU' else ''}"
            baseline = self.add(f"C switch, {what}", unit, figures["C switch"])
            self.add(f"SEP, {what}", unit, figures["SEP"], baseline)
        self.add("SEP, records lost", "records", [lost])

    def _through_sep(self, message_bytes: int) -> dict[str, Any]:
        ends = []
        for role in (Role.REGISTER, Role.REACH):
            key = FreshKey.generate()
            ticket = issue(
                ISSUER,
                role=role,
                subject=os.urandom(16),
                relay=RELAY.node_id,
                expires_at=int(time.time()) + 600,
                holder=key.public,
            )
            ends.append((ticket.hex(), _dialled(self.relay.sep_port, RELAY, key)))
        (register, served), (reach, called) = ends
        self.receiver.begin("sep_serve", tickets=register, **served)
        # The callee must be there first; the caller's own handshake takes about as long, so give it a head start.
        time.sleep(REGISTERED_S)
        self.sender.begin("sep_call", message_bytes=message_bytes, duration_s=self.round_s, ticket=reach, **called)
        got = self.sender.answer()
        self.receiver.answer()
        return got

    def _through_c(self, message_bytes: int) -> tuple[dict[str, Any], float]:
        calling, serving, steering = _free_ports(3)
        self.splicer.begin(
            "c_switch",
            calling_port=calling,
            serving_port=serving,
            control_port=steering,
            secret=RELAY.curve_secret.hex(),
        )
        self.receiver.begin("sep_serve", tickets="", **_dialled(serving, RELAY, FreshKey.generate()))
        called = _dialled(calling, RELAY, FreshKey.generate())
        self.sender.begin("sep_call", message_bytes=message_bytes, duration_s=self.round_s, ticket="", **called)
        got = self.sender.answer()
        self.receiver.answer()
        with zmq.Context() as context, context.socket(zmq.PAIR) as control:
            control.connect(f"tcp://{HOST}:{steering}")
            control.send(b"TERMINATE")
            spent_s = self.splicer.answer()["cpu_s"]
        return got, spent_s

    def idle(self, tunnels: int) -> None:
        """Measure the relay's memory per idle tunnel, and its CPU while nothing happens."""
        before_bytes = self.relay.rss_bytes()
        pairs = [self.relay.pair() for _ in range(tunnels)]
        after_bytes = self.relay.rss_bytes()
        before_s = self.relay.cpu_s()
        time.sleep(self.round_s)
        spent = (self.relay.cpu_s() - before_s) / self.round_s
        for sock in (sock for pair in pairs for sock in pair):
            sock.close()
        self.add("relay, memory at rest", "MB", [before_bytes / 1e6])
        self.add(f"BEP, memory per tunnel ({tunnels} idle)", "KB", [(after_bytes - before_bytes) / tunnels / 1e3])
        self.add(f"BEP, CPU with {tunnels} idle", "% of a core", [spent * 100])


def run(
    duration_s: float = DURATION_S,
    sizes: Sequence[int] = SIZES,
    tunnels: int = TUNNELS,
    idle_tunnels: int = IDLE_TUNNELS,
) -> BenchReport:
    """Measure everything; each figure takes about `duration_s` per thing compared.

    Raises:
        Unreachable: A process of the benchmark did not start or ended early.
    """
    began = time.monotonic()
    before = psutil.cpu_times()
    with ExitStack() as stack:
        bench = Bench(stack, duration_s)
        # First, while the relay is as fresh as it will be.
        bench.idle(idle_tunnels)
        for message_bytes in sizes:
            bench.throughput(message_bytes)
        bench.round_trips(64)
        bench.switching(1024)
        bench.set_up()
        bench.fairness(tunnels)
        own = psutil.Process()
        ours_s = sum(sum(each.cpu_times()[:2]) for each in (own, *own.children(recursive=True)))
        after = psutil.cpu_times()
    all_s = sum(after) - after.idle - after.iowait - (sum(before) - before.idle - before.iowait)
    notes = {
        "rounds": f"{ROUNDS}, turn and turn about; ratio of medians",
        "sealed": "AES-256-GCM at both ends; small messages share records",
        "took": f"{time.monotonic() - began:.1f} s on {os.cpu_count()} cores",
        "CPU used by others meanwhile": f"{max(0.0, all_s - ours_s):.1f} s",
    }
    return BenchReport("relay", bench.rows, notes)


async def serve() -> None:
    """Be the relay under measurement: print the ports, serve until killed."""
    async with Relay(RELAY, ISSUER.node_id, sep_port=0, bearer_port=0, host=HOST) as relay:
        print(relay.sep_port, relay.bearer_port, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        anyio.run(serve, backend_options={"use_uvloop": True})
    else:
        print(run().table())
