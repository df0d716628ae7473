"""One JavaScript service inside its worker: the calls in hand, step by step.

    begin --turn--> waits (for `context.http`, an immediate, a timer) --turn--> … --nothing more is going on--> done
                --threw, overran, the engine broke--> Faulted, done

The response may end long before the call is done; what comes after it can only be logged. It does no I/O but its
storage: frames go out through `send`.
"""

import base64
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from atoll.actors.container_manager.messages import BODY_BYTES_MAX
from atoll.actors.container_manager.runtimes import frames
from atoll.actors.container_manager.runtimes.isolate import (
    Broken,
    Interrupted,
    Isolate,
    Outbox,
    Photograph,
    Reply,
    random_seed,
)
from atoll.actors.container_manager.storage import QuotaExceeded, Storage

try:
    import resource
except ImportError:  # Windows: the node's clock alone ends what cannot be interrupted.
    resource = None  # type: ignore[assignment]

CPU_SLACK_S = 3


def allow_cpu(seconds: float) -> None:
    """Let the kernel end this process when it computes for much longer than that, whatever else fails."""
    if resource is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime + seconds) + CPU_SLACK_S
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (limit if hard < 0 else min(limit, hard), hard))


@dataclass(slots=True)
class Running:
    """One call in hand."""

    isolate: Isolate
    deadline: float
    ended: bool = False
    wake_ms: float = -1.0
    immediates: int = 0
    waiting: int = 0
    asked: set[int] = field(default_factory=set)


class Service:
    """The service that this worker runs."""

    def __init__(self, send: Callable[[frames.Frame], None], load: frames.Load) -> None:
        """Load the program.

        Raises:
            ProgramFailed: It cannot be loaded.
        """
        self._send = send
        self._env = dict(load.env)
        self._info = dict(load.info)
        self._storage_path = Path(load.storage)
        self._storage: Storage | None = None
        self._calls: dict[int, Running] = {}
        deadline = time.monotonic() + load.load_s
        allow_cpu(load.load_s)
        self._photograph = Photograph(load.code, memory_bytes_max=load.memory_bytes_max, deadline=deadline)
        self._log(self._photograph.logs, 0)

    def begin(self, frame: frames.Call) -> None:
        """Begin a call."""
        headers = dict(frame.headers)
        deadline = time.monotonic() + frame.budget_s
        running = Running(self._photograph.take(), deadline)
        running.isolate.storage = self._answer_storage
        self._calls[frame.call] = running
        request = {
            "url": frame.url,
            "method": frame.method,
            "headers": headers,
            "body": frame.body.decode("utf-8", "replace"),
            "authorization": headers.get("authorization", ""),
        }
        self._step(frame.call, "begin", seed=random_seed(), env=self._env, info=self._info, request=request)

    def answer(self, frame: frames.HttpAnswer) -> None:
        """Hand the service what its HTTP request brought."""
        running = self._calls.get(frame.call)
        if running is not None and frame.token in running.asked:
            running.asked.discard(frame.token)
            self._step(
                frame.call,
                "answer",
                token=frame.token,
                status=frame.status,
                headers=frame.headers,
                body=frame.body.decode("utf-8", "replace"),
                error=frame.error,
            )

    def cancel(self, call: int) -> None:
        """Drop a call that nobody waits for."""
        if (running := self._calls.pop(call, None)) is not None:
            self._photograph.give_back(running.isolate, sound=True)

    def run_due(self) -> None:
        """Run immediates and timers that are due, and end calls that are late."""
        now = time.monotonic()
        for call, running in list(self._calls.items()):
            if now >= running.deadline:
                self._fault(call, "overran", "the call ran out of time")
            elif running.immediates or 0 <= running.wake_ms <= now * 1000:
                self._step(call, "run")

    def pause_s(self) -> float | None:
        """Say how long there is nothing to do but wait for frames; None for ever."""
        if not self._calls:
            return None
        now = time.monotonic()
        pause = 3600.0
        for running in self._calls.values():
            pause = min(pause, running.deadline - now)
            if running.immediates:
                return 0.0
            if running.wake_ms >= 0:
                pause = min(pause, running.wake_ms / 1000 - now)
        return max(0.0, pause)

    def _step(self, call: int, kind: str, **fields: object) -> None:
        running = self._calls[call]
        allow_cpu(running.deadline - time.monotonic())
        self._photograph.until(running.deadline)
        try:
            out = running.isolate.turn(kind, **fields)
        except Interrupted:
            self._fault(call, "overran", "the call ran out of time", sound=False)
            return
        except Broken as error:
            self._fault(call, "crashed", str(error), sound=False)
            return
        finally:
            self._photograph.until(None)
        self._take(call, running, out)

    def _take(self, call: int, running: Running, out: Outbox) -> None:
        self._log(out.logs, out.dropped)
        if out.reply is not None and not running.ended:
            if not self._reply(call, out.reply):
                return
            running.ended = True
        if out.thrown is not None and not running.ended:
            self._fault(call, "threw", out.thrown)
            return
        for ask in out.asks[: frames.ASKS_PER_CALL_MAX]:
            body = ask.body.encode()
            if len(body) > BODY_BYTES_MAX:
                self._fault(call, "crashed", f"the service sends {len(body)} bytes; {BODY_BYTES_MAX} is the limit")
                return
            running.asked.add(ask.token)
            self._send(frames.HttpAsk(call, ask.token, ask.method, ask.url, ask.headers, body))
        running.immediates, running.wake_ms, running.waiting = out.immediates, out.wake_ms, out.waiting
        if out.immediates or out.wake_ms >= 0 or running.asked:
            return
        if not running.ended:
            self._fault(
                call, "crashed", "the service returned, nothing more is going on, and response.end was not called"
            )
            return
        del self._calls[call]
        self._photograph.give_back(running.isolate, sound=True)

    def _reply(self, call: int, reply: Reply) -> bool:
        try:
            body = b"".join(map(base64.b64decode, reply.body)) if reply.base64 else "".join(reply.body).encode()
        except ValueError as error:
            self._fault(call, "crashed", f"the service bent its own bookkeeping: {error}")
            return False
        if len(body) > BODY_BYTES_MAX:
            self._fault(call, "crashed", f"the reply has {len(body)} bytes; {BODY_BYTES_MAX} is the limit")
            return False
        if not 200 <= reply.status <= 599:
            self._fault(call, "crashed", f"the service set the status code {reply.status}; 200 to 599 are possible")
            return False
        self._send(frames.Replied(call, reply.status, reply.headers, body))
        return True

    def _fault(self, call: int, fault: str, reason: str, *, sound: bool = True) -> None:
        running = self._calls.pop(call)
        if not running.ended:
            self._send(frames.Faulted(call, fault, reason[: frames.REASON_CHARACTERS_MAX]))
        self._photograph.give_back(running.isolate, sound=sound)

    def _log(self, lines: list[tuple[frames.Stream, str]], dropped: int) -> None:
        kept = [(stream, text[: frames.LOG_LINE_CHARACTERS_MAX]) for stream, text in lines[: frames.LOG_LINES_MAX - 1]]
        if missing := len(lines) - len(kept) + dropped:
            kept.append(("system", f"{missing} more lines were dropped"))
        if kept:
            self._send(frames.Logged(tuple(kept)))

    def _answer_storage(self, operation: str, a: str, b: str, c: str) -> str:
        """Answer `context.storage`: `=value`, `-` for nothing, `!error`."""
        try:
            if self._storage is None:
                self._storage = Storage(self._storage_path)
            found = _store_answer(self._storage, operation, a, b, c)
        except QuotaExceeded as error:
            return f"!{error}"
        except sqlite3.Error as error:
            return f"!storage does not work: {error}"
        return "-" if found is None else f"={found}"


def _store_answer(storage: Storage, operation: str, a: str, b: str, c: str) -> str | None:
    """Carry out one operation; None where there is nothing to give."""
    match operation:
        case "get":
            return storage.get(a)
        case "put":
            storage.put(a, b)
        case "put_tagged":
            storage.put(a, b, c)
        case "remove":
            storage.remove(a)
        case "remove_tag":
            storage.remove_tag(a)
        case "batch":
            found = storage.batch(a[1:] if a[:1] == "=" else None, b[1:] if b[:1] == "=" else None)
            return msgspec.json.encode(found).decode()
    return None
