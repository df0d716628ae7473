"""The bearer port of a relay: who dials shows a ticket, waits for the other half, and is spliced to it.

    accepted --preamble with a good ticket--> waiting --the other half is there--> spliced
    accepted --garbage, a bad ticket, too slow--> refused      (NO and the reason)
    waiting  --nobody comes, replaced-->          refused      (NO and the reason)
    accepted --a question of STUN--> told the address that it comes from, and kept until it leaves, or for a moment

One epoll serves all of it, so a waiting connection costs a table entry and no task. It runs in a thread of its own
because a busy event loop would hold the data path up: beside a SEP at full load the same code moved 0.35 GB/s inside
the loop and 0.88 GB/s in a thread (every splice lets go of the interpreter lock while the kernel works). A thread is
allowed here because a relay is a program of ours. Only `stop`, `drain`, `adopt` and `statistics` may be called from
others.

It never forwards a byte before both tickets are good, and never reads a byte behind a preamble.
"""

import contextlib
import errno
import os
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from atoll.actors.tunnel_relay.pairing import TUNNELS_MAX, WAITING_MAX, WAITING_S, Effect, End, Pair, Pairing, Refuse
from atoll.actors.tunnel_relay.pipes import PIPE_BYTES, PIPES_MAX, PipePool
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.splice import Splices, bucket_for
from atoll.actors.tunnel_relay.tickets import BEP_ROLES, NO_RATE, UNLIMITED, Ticket, judge
from atoll.transport import stun
from atoll.transport.bearer import OK, decode_preamble, encode_refusal, make_bearer_ready, preamble_bytes_missing
from atoll.transport.descriptors import SPARE_FILES, SpareDescriptor, files_max
from atoll.transport.errors import MalformedFrame, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.tcp_address import TcpAddress

PREAMBLE_S = 5.0
"""Long enough for a lossy mobile link to bring 156 bytes."""
PREAMBLES_MAX = 512
"""Connections that have not shown a ticket yet. When full the oldest goes: an honest one takes one round trip."""
ACCEPTS_PER_TURN_MAX = 8
EVENTS_PER_TURN_MAX = 64
"""How much of a flood is looked at before tunnels get their turn: 3 ms when all of it are bad preambles."""
ACCEPT_PAUSE_S = 0.1
"""When not even the spare descriptor is to be had: trying at once would be trying in vain."""
BACKLOG = 1024
QUESTIONS_MAX = 4
"""Of STUN, on one connection."""
QUESTIONS_PER_S_MAX = 1000
"""Of STUN, on all together: each node that tries to punch asks twice in a minute at most."""
DESCRIPTORS_RESERVED = 128
"""For everything else in the process: libraries, logs, the SEP's own sockets."""
TURN_S_MAX = 60.0
"""How long a turn may sleep: wall time, which tickets end by, may jump."""


class BearerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one bearer port offers at most, whatever tickets say."""

    tunnels_max: int = TUNNELS_MAX
    quota_bytes_max: int = UNLIMITED
    """For one tunnel, both directions, however often it is dialled."""
    rate_bytes_s_max: int = NO_RATE
    """For one tunnel, both directions."""
    waiting_max: int = WAITING_MAX
    preambles_max: int = PREAMBLES_MAX
    pipes_max: int = PIPES_MAX
    pipe_bytes: int = PIPE_BYTES
    others_descriptors: int = 0
    """What else of the relay needs descriptors, beside what every relay does."""
    preamble_s: float = PREAMBLE_S
    waiting_s: float = WAITING_S

    def divided_by(self, count: int) -> "BearerLimits":
        """Give the share of one of so many workers; each has a limit of open files of its own."""
        return replace(self, tunnels_max=max(1, self.tunnels_max // count), pipes_max=max(1, self.pipes_max // count))

    def tunnels_allowed(self) -> int:
        """Give the tunnels that the limit of open files leaves room for.

        Raises:
            UsageError: Not even one.
        """
        allowed = files_max()
        others = (
            DESCRIPTORS_RESERVED + self.others_descriptors + self.waiting_max + self.preambles_max + 2 * self.pipes_max
        )
        if allowed < others + 2:
            raise UsageError(f"a relay needs more than {others} open files, {allowed} are allowed: `ulimit -n 20000`")
        return min(self.tunnels_max, (allowed - others) // 2)


@dataclass(slots=True)
class _Preamble:
    sock: socket.socket
    deadline: float
    data: bytes = b""
    questions: int = 0
    """Of STUN that it has asked: then it needs no ticket."""


Dispatch: TypeAlias = Callable[[bytes, socket.socket], Reason | None]
"""Hands a connection with its ticket, not judged yet, to whom it belongs; or says why not."""


class BearerServer:
    """Listens at once; `run` serves until `stop`. `port` is the real one when 0 was asked for.

    With `dispatch` it is a door: it takes connections and reads what they show, and others do the rest. With port None
    it is what is behind such a door: it takes connections from `adopt` only.
    """

    def __init__(
        self,
        *,
        relay: NodeId,
        issuer: NodeId,
        host: str,
        port: int | None,
        limits: BearerLimits | None = None,
        dispatch: Dispatch | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if not hasattr(os, "splice"):
            raise UsageError("this system cannot splice; serve bearers on Linux")
        self.limits = limits or BearerLimits()
        self._relay, self._issuer, self._wall = relay, issuer, wall
        self.pairing = Pairing(
            tunnels_max=self.limits.tunnels_allowed(),
            waiting_max=self.limits.waiting_max,
            waiting_s=self.limits.waiting_s,
            quota_bytes_max=self.limits.quota_bytes_max,
            rate_bytes_s_max=self.limits.rate_bytes_s_max,
        )
        self._dispatch = dispatch
        self._listener = None if port is None else _listening(host, port)
        self.port: int = 0 if self._listener is None else self._listener.getsockname()[1]
        self.counters: Counter[str] = Counter()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        if self._listener is not None:
            self._epoll.register(self._listener, select.EPOLLIN)
        self._spare = SpareDescriptor()
        self._listens_at: float | None = None
        """When newcomers are looked for again; None: they are."""
        pool = PipePool(pipes_max=self.limits.pipes_max, pipe_bytes=self.limits.pipe_bytes)
        self.splices = Splices(self._epoll, pool, self._tunnel_ended)
        self._preambles: dict[int, _Preamble] = {}
        self._adopted: deque[tuple[socket.socket, bytes | None]] = deque()
        self._waiting: dict[int, socket.socket] = {}
        self._stopping = self._draining = False
        self._questions = 0
        self._questions_until = 0.0
        """When the second ends in which those were asked."""

    def run(self) -> None:
        """Serve until `stop`; for a thread of its own. Whoever started it calls `close` when it has ended."""
        while not self._stopping:
            self.turn(self._patience_s())

    def stop(self) -> None:
        """Let `run` end soon. From any thread, until `close`."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def drain(self) -> None:
        """Take no new tunnels, and let go of who waits for one; those that are there go on. From any thread."""
        self._draining = True
        os.eventfd_write(self._wake, 1)

    def adopt(self, sock: socket.socket, ticket: bytes | None = None) -> None:
        """Take a connection that was accepted elsewhere: before its first byte was read, or behind its preamble.

        From any thread.
        """
        self._adopted.append((sock, ticket))
        os.eventfd_write(self._wake, 1)

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and how many there are now. From any thread."""
        return {
            **self.counters,
            **self.splices.counters,
            "forwarded_bytes": self.splices.forwarded_bytes,
            "spilled_bytes": self.splices.spilled_bytes,
            "tunnels": len(self.splices),
            "tunnels_max": self.pairing.tunnels_max,
            "waiting": self.pairing.waiting,
            "preambles": len(self._preambles),
            "pipes": self.splices.pool.made,
            "pipes_max": self.splices.pool.pipes_max,
        }

    def turn(self, patience_s: float | None) -> None:
        """Wait at most `patience_s` for something to happen, and do it."""
        event = self.splices.event
        for descriptor, mask in self._epoll.poll(patience_s, EVENTS_PER_TURN_MAX):
            if not event(descriptor, mask):
                self._other_event(descriptor, mask)
        self.splices.work()
        self._listen_again()
        self._expire()

    def _patience_s(self) -> float:
        if self.splices.busy:
            return 0.0
        patience_s = TURN_S_MAX
        for preamble in self._preambles.values():
            patience_s = min(patience_s, preamble.deadline - time.monotonic())
            break
        if self._listens_at is not None:
            patience_s = min(patience_s, self._listens_at - time.monotonic())
        if (resumes_at := self.splices.resumes_at) is not None:
            patience_s = min(patience_s, resumes_at - time.monotonic())
        if (deadline := self.pairing.deadline()) is not None:
            patience_s = min(patience_s, deadline - self._wall())
        return max(patience_s, 0.0)

    def _other_event(self, descriptor: int, mask: int) -> None:
        if descriptor in self._preambles:
            self._read_preamble(descriptor)
        elif descriptor in self._waiting:
            # Only its end is asked for; an end that leaves while it waits needs no answer.
            self.pairing.leave(descriptor)
            self._waiting.pop(descriptor).close()
            self.counters["waiting_left"] += 1
        elif self._listener is not None and descriptor == self._listener.fileno():
            self._accept(self._listener)
        elif descriptor == self._wake and mask & select.EPOLLIN:
            os.eventfd_read(self._wake)
            while self._adopted:
                sock, ticket = self._adopted.popleft()
                if ticket is None:
                    self._welcome(sock)
                else:
                    sock.setblocking(False)
                    self._epoll.register(sock, select.EPOLLRDHUP)
                    self._shown(sock, ticket)
            if self._draining and not self.pairing.draining:
                self._carry_out(self.pairing.drain())

    def _accept(self, listener: socket.socket) -> None:
        last = files_max() - SPARE_FILES
        for _ in range(ACCEPTS_PER_TURN_MAX):
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self.counters["accept_failed"] += 1
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._shed(listener)
                return
            if sock.fileno() >= last:
                sock.close()
                self.counters["shed"] += 1
                continue
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        """Wait for a ticket from a new connection."""
        sock.setblocking(False)
        make_bearer_ready(sock)
        while len(self._preambles) >= self.limits.preambles_max:
            self._refuse_preamble(next(iter(self._preambles)), Reason.TOO_SLOW)
        self._preambles[sock.fileno()] = _Preamble(sock, time.monotonic() + self.limits.preamble_s)
        self._epoll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)
        self.counters["accepted"] += 1
        # The ticket usually comes with the connection.
        self._read_preamble(sock.fileno())

    def _shed(self, listener: socket.socket) -> None:
        """Out of descriptors: with the spare one, take the first in the queue and let it go, or we would spin.

        Who has waited longest with nothing to show makes room, too. Where another thread was quicker and took the
        spare one, newcomers wait a moment.
        """
        if self._preambles:
            self._refuse_preamble(next(iter(self._preambles)), Reason.TOO_SLOW)
        self._spare.give_up()
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            sock.close()
        if not self._spare.take():
            self._listens_at = time.monotonic() + ACCEPT_PAUSE_S
            self._epoll.modify(listener, 0)

    def _listen_again(self) -> None:
        if self._listener is not None and self._listens_at is not None and self._listens_at <= time.monotonic():
            self._listens_at = None
            self._epoll.modify(self._listener, select.EPOLLIN)

    def _read_preamble(self, descriptor: int) -> None:
        preamble = self._preambles[descriptor]
        try:
            while True:
                missing = _missing(preamble.data)
                if not missing and preamble.data.startswith(stun.FIRST_BYTE):
                    if (refusal := self._tell_address(preamble)) is not None:
                        self._refuse_preamble(descriptor, refusal)
                        return
                elif not missing:
                    break
                else:
                    piece = preamble.sock.recv(missing)
                    if not piece:
                        raise ConnectionResetError
                    preamble.data += piece
        except BlockingIOError:
            return
        except MalformedFrame:
            self._refuse_preamble(descriptor, Reason.MALFORMED)
            return
        except OSError:
            del self._preambles[descriptor]
            preamble.sock.close()
            self.counters["preamble_left"] += not preamble.questions
            return
        del self._preambles[descriptor]
        self._shown(preamble.sock, decode_preamble(preamble.data))

    def _tell_address(self, preamble: _Preamble) -> Reason | None:
        """Answer a whole question of STUN; a reason where it is one too many.

        Raises:
            OSError: It has gone.
        """
        now = time.monotonic()
        if now >= self._questions_until:
            self._questions, self._questions_until = 0, now + 1.0
        if self._questions >= QUESTIONS_PER_S_MAX or preamble.questions >= QUESTIONS_MAX:
            return Reason.FULL
        seen = TcpAddress.of(preamble.sock.getpeername())
        # An answer is smaller than any send buffer, and nothing else waits in it.
        preamble.sock.send(stun.encode_response(preamble.data, seen))
        preamble.data = b""
        preamble.questions += 1
        self._questions += 1
        self.counters["addresses_told"] += 1
        return None

    def _shown(self, sock: socket.socket, ticket: bytes) -> None:
        """Take a connection with the ticket that it has shown: it is known to the epoll, and to nobody else here."""
        if self._dispatch is not None:
            refusal = self._dispatch(ticket, sock)
            if refusal is None:
                # Whoever has it now has a descriptor of its own.
                self._epoll.unregister(sock)
                sock.close()
            else:
                self._refuse(sock, refusal)
            return
        verdict = judge(
            ticket,
            issuer=self._issuer,
            relay=self._relay,
            roles=BEP_ROLES,
            holder=None,
            now=self._wall(),
        )
        if isinstance(verdict, Ticket):
            self._waiting[sock.fileno()] = sock
            self._epoll.modify(sock, select.EPOLLRDHUP)
            self._carry_out(self.pairing.arrive(sock.fileno(), verdict, self._wall()))
        else:
            self._refuse(sock, verdict)

    def _expire(self) -> None:
        now = time.monotonic()
        while self._preambles:
            descriptor, preamble = next(iter(self._preambles.items()))
            if preamble.deadline > now:
                break
            if preamble.questions and not preamble.data:
                # Its NAT has kept its place in the meantime, which is what it stayed for.
                self._preambles.pop(descriptor).sock.close()
                continue
            self._refuse_preamble(descriptor, Reason.TOO_SLOW if preamble.data else Reason.NO_TICKET)
        self._carry_out(self.pairing.expire(self._wall()))

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Refuse(connection, reason):
                    self._refuse(self._waiting.pop(connection), reason)
                case Pair():
                    self._pair(effect, self._waiting.pop(effect.offer), self._waiting.pop(effect.call))
                case End(tunnel, reason):
                    forwarded_bytes = self.splices.end(tunnel, reason)
                    if forwarded_bytes is not None:
                        self.pairing.ended(tunnel, forwarded_bytes, by_itself=False)

    def _pair(self, pair: Pair, offer: socket.socket, call: socket.socket) -> None:
        tunnel, bucket = pair.tunnel, bucket_for(pair.rate_bytes_s, full=not pair.again)
        self.splices.join(tunnel, offer, call, pair.quota_bytes, bucket)
        try:
            for sock in (offer, call):
                sock.send(OK)
        except OSError:
            # It left in this very moment; the other one sees a reset and dials again.
            self.splices.end(tunnel, Reason.CLOSED)
            self.pairing.ended(tunnel, 0, by_itself=True)

    def _tunnel_ended(self, tunnel: bytes, forwarded_bytes: int, _reason: Reason | None) -> None:
        self.pairing.ended(tunnel, forwarded_bytes, by_itself=True)

    def _refuse_preamble(self, descriptor: int, reason: Reason) -> None:
        self._refuse(self._preambles.pop(descriptor).sock, reason)

    def _refuse(self, sock: socket.socket, reason: Reason) -> None:
        self.counters[f"refused_{reason.name.lower()}"] += 1
        with contextlib.suppress(OSError):
            sock.send(encode_refusal(reason, reason.sentence))
            sock.shutdown(socket.SHUT_WR)
            # Closing with unread bytes would reset the connection, and the reason might be lost with it.
            sock.recv(65_536)
        sock.close()

    def close(self) -> None:
        """Let everybody go and close the port."""
        while self._adopted:
            self._adopted.popleft()[0].close()
        self._carry_out(self.pairing.close(Reason.CLOSED))
        for descriptor in list(self._preambles):
            self._refuse_preamble(descriptor, Reason.CLOSED)
        self.splices.close()
        if self._listener is not None:
            self._listener.close()
        self._epoll.close()
        self._spare.give_up()
        os.close(self._wake)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::")
    except OSError as error:
        raise UsageError(f"the bearer port {port} on {host} cannot be opened: {error}; choose another") from error
    listener.setblocking(False)
    return listener


def _missing(data: bytes) -> int:
    """Tell how many more bytes are to be read: of a preamble, or of a question of STUN.

    Raises:
        MalformedFrame: It is neither.
    """
    return stun.bytes_missing(data, stun.REQUEST) if data.startswith(stun.FIRST_BYTE) else preamble_bytes_missing(data)
