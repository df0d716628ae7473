"""The SEP port of a relay: a ROUTER around `circuits.py`, and nothing decided here."""

import random
import time
from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel

from atoll.actors.tunnel_relay.circuit_events import Cut, Draining, Effect, Elapsed, Stuck
from atoll.actors.tunnel_relay.circuits import Circuits
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.sep_socket import EVENTS_PER_TURN_MAX, SepSocket
from atoll.actors.tunnel_relay.tickets import NO_RATE, SEP_ROLES, Ticket, judge
from atoll.transport.errors import Congested, Unreachable
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey

SWEEP_S = 0.25
"""How often silent, cut and expired connections are looked for."""
SWEEP_S_MIN = 0.03
CONNECTIONS_PER_SWEEP_S = 32.0
"""From 128 connections on sweeps are more frequent."""
FLUSH_S = 0.005
"""How often what a receiver had no room for is tried again. libzmq tells of new room by the very edge that reading and
sending use up, so while something is held back no edge may be relied on."""
FRAMES_PER_TURN_MAX = 256
"""About 5 ms of switching before the event loop gets its turn."""


class SepServer:
    """Opens the port at once; `run` serves until cancelled, then `close`."""

    def __init__(
        self,
        *,
        key: NodeKey,
        issuer: NodeId,
        host: str,
        port: int,
        rate_bytes_s_max: int = NO_RATE,
        wall: Callable[[], float] = time.time,
    ) -> None:
        relay = key.node_id

        def genuine(data: bytes, holder: bytes, now: float) -> Ticket | Reason:
            return judge(data, issuer=issuer, relay=relay, roles=SEP_ROLES, holder=holder, now=now)

        first_circuit = random.SystemRandom().getrandbits(63)
        self.circuits = Circuits(judge=genuine, first_circuit=first_circuit, rate_bytes_s_max=rate_bytes_s_max)
        self._wall = wall
        self._socket = SepSocket(key, host, port)
        self.port = self._socket.port

    async def run(self) -> None:
        """Serve until cancelled."""
        frames, handshakes = self._socket.descriptors
        sweep_at = time.monotonic()
        async with anyio.create_task_group() as group:
            group.start_soon(self._admit, handshakes)
            while True:
                now = time.monotonic()
                if now >= sweep_at:
                    self._sweep()
                    # Many are looked after more often, a few at a time, so that no sweep stops the switch for long.
                    sweep_at = now + max(
                        SWEEP_S_MIN, min(SWEEP_S, CONNECTIONS_PER_SWEEP_S / (self._socket.connections + 1))
                    )
                crowded = self._socket.keep_house(EVENTS_PER_TURN_MAX)
                if self._switch() or crowded:
                    await anyio.lowlevel.checkpoint()
                    continue
                hurry = self._socket.holds_back or self._socket.scarce
                with anyio.move_on_after(min(FLUSH_S if hurry else SWEEP_S, sweep_at - now)):
                    await anyio.wait_readable(frames)

    def drain(self, seconds: int) -> None:
        """Tell the registrations that the relay goes in `seconds`, and admit nobody new."""
        self._carry_out(self.circuits.handle(Draining(seconds), self._wall()))
        # Sending may have used up the edge that `run` waits for.
        while self._switch():
            pass

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and how many there are now."""
        return {
            **self.circuits.statistics(),
            "refused_silent": self._socket.silent_cut,
            "cut_flooding": self._socket.flooding_cut,
            "cut_stuck": self._socket.stuck_cut,
            "refused_handshake": self._socket.handshakes_malformed,
            "times_scarce": self._socket.times_scarce,
        }

    def close(self) -> None:
        """Close the port and every connection."""
        self._socket.close()

    def _switch(self) -> bool:
        """Take what has come; True when there may be more.

        The descriptor tells of changes only, so this must find nothing left before it may be waited on; and reading may
        have used up the change that told of room, so what is held back is tried after it, too.
        """
        now = self._wall()
        self._socket.flush()
        for _ in range(FRAMES_PER_TURN_MAX):
            event = self._socket.receive_nowait()
            if event is None:
                return self._socket.flush()
            self._carry_out(self.circuits.handle(event, now))
        return True

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            # No `match` here: once a record, it costs a fifth of a microsecond more than this.
            if isinstance(effect, Cut):
                self._socket.cut(effect.connection)
                continue
            try:
                self._socket.send_nowait(effect.connection, effect.frame)
            except (Congested, Unreachable) as error:
                stuck = Stuck(effect, gone=isinstance(error, Unreachable))
                self._carry_out(self.circuits.handle(stuck, self._wall()))

    async def _admit(self, descriptor: int) -> None:
        while True:
            self._socket.admit()
            await anyio.wait_readable(descriptor)

    def _sweep(self) -> None:
        """Look after the connections; who has gone is told by the `receive_nowait` that follows."""
        self._socket.sweep()
        self._carry_out(self.circuits.handle(Elapsed(), self._wall()))
