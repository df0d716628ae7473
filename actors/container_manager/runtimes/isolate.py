"""One JavaScript memory: loaded once, photographed, and put back before every call.

    new --load(program)--> photographed --begin(call)--> in a call --its end--> photographed (the memory is put back)
                                                                   --it grew, trapped or was interrupted--> thrown away

The engine is quickjs-rs: QuickJS-ng compiled to WebAssembly, run by wasmtime. A photograph is its whole linear memory
(1.3 MB), so putting it back leaves nothing of the call before. This module is the only one that touches the engine,
and it uses the layer below quickjs-rs's public `Context`: that layer can end a call at one deadline however many
steps it took, needs no event loop, and answers a call three times as fast.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import struct
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import msgspec
import quickjs_rs._engine as engine
import wasmtime
from quickjs_rs import _wasmtime

from atoll.actors.container_manager.messages import BODY_BYTES_MAX, HEADER_CHARACTERS_MAX, HEADERS_MAX, Headers
from atoll.actors.container_manager.runtimes.frames import (
    ASKS_PER_CALL_MAX,
    LOG_LINE_CHARACTERS_MAX,
    LOG_LINES_MAX,
    METHOD_CHARACTERS_MAX,
    URL_CHARACTERS_MAX,
    Stream,
)

PRELUDE = Path(__file__).with_name("javascript_prelude.js")
STACK_BYTES_MAX = 256 * 1024
"""Deeper recursion is an error in JavaScript, or a trap of the sandbox; either ends the call."""
TIMERS_MAX = 1000
_LIMITS = {
    "log_lines": LOG_LINES_MAX - 2,
    "log_characters": LOG_LINE_CHARACTERS_MAX - 8,
    "timers": TIMERS_MAX,
    "asks": ASKS_PER_CALL_MAX,
    "headers": HEADERS_MAX,
    "header_characters": HEADER_CHARACTERS_MAX,
    "method_characters": METHOD_CHARACTERS_MAX,
    "url_characters": URL_CHARACTERS_MAX,
    "reply_characters": BODY_BYTES_MAX,
}
# JSON in JSON is a string literal of JavaScript.
_LIMITS_SCRIPT = f"globalThis.__atoll_limits = {json.dumps(json.dumps(_LIMITS))}; 0"


class Interrupted(Exception):
    """The deadline passed while JavaScript ran."""


class Broken(Exception):
    """The engine gave up: out of memory, a stack that ran over, or bookkeeping that the service bent."""


class ProgramFailed(Exception):
    """The program cannot be loaded; the text says where and why."""


class Ask(msgspec.Struct):
    """A `context.http.request`."""

    token: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    method: Annotated[str, msgspec.Meta(max_length=METHOD_CHARACTERS_MAX)]
    url: Annotated[str, msgspec.Meta(max_length=URL_CHARACTERS_MAX)]
    headers: Headers
    body: str


class Reply(msgspec.Struct):
    """What the service answered."""

    status: int
    headers: Headers
    body: list[str]
    base64: bool


class Outbox(msgspec.Struct):
    """What one turn brought."""

    logs: list[tuple[Stream, str]]
    dropped: int
    asks: list[Ask]
    reply: Reply | None
    thrown: str | None
    immediates: int
    waiting: int
    wake_ms: float
    """When the next timer is due, or less than 0."""


_outbox_decoder = msgspec.json.Decoder(Outbox)


class Photograph:
    """A program, loaded; makes isolates that are ready for a call."""

    def __init__(self, program: str, *, memory_bytes_max: int, deadline: float) -> None:
        """Evaluate the prelude and the program.

        Raises:
            ProgramFailed: It throws, takes too long or too much memory (its author's fault).
        """
        self.memory_bytes_max = memory_bytes_max
        self._deadline: float | None = None
        self._runtime = engine.QjsRuntime(memory_limit=memory_bytes_max, stack_limit=STACK_BYTES_MAX)
        self._runtime.set_interrupt_handler(self._overdue)
        self._spares: list[Isolate] = []
        first = self.blank()
        try:
            context = first.context
            # It also makes the engine's own runtime inside the new memory.
            context.register_host_function("__atoll_host", 1)
            context.eval_handle(_LIMITS_SCRIPT).dispose()
            self.turn = context.eval_handle(PRELUDE.read_text("utf-8"))
            self.until(deadline)
            context.eval_handle(program).dispose()
            context.run_pending_jobs()
            self.logs = first.turn("none").logs
        except (engine.QuickJSError, wasmtime.Trap, wasmtime.WasmtimeError, Broken, Interrupted) as error:
            raise ProgramFailed(self.explain(error)) from error
        finally:
            self._deadline = None
        self.snapshot = context.create_snapshot()
        self.size = first.size()
        self.image, self.stack = first.memory(), first.stack()
        first.used = False
        self._spares.append(first)

    def explain(self, error: BaseException) -> str:
        """Say an engine's error to the author of the program."""
        if self.overdue:
            return "the program did not finish loading in time; is there an endless loop outside its function?"
        if isinstance(error, engine.JSError):
            name, message, stack = (*error.args, None, None, None)[:3]
            return f"{name}: {message}\n{stack or ''}".strip()[:4000]
        if isinstance(error, wasmtime.Trap):
            return "the engine gave up: recursion too deep, or memory used up"
        return str(error)[:1000]

    def until(self, deadline: float | None) -> None:
        """Interrupt JavaScript that runs at that time (`time.monotonic`) or later."""
        self._deadline = deadline

    @property
    def overdue(self) -> bool:
        """Whether the deadline has passed."""
        return self._overdue()

    def _overdue(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def blank(self) -> "Isolate":
        """Make an isolate with an empty memory."""
        return Isolate(self, engine.QjsContext(self._runtime))

    def take(self) -> "Isolate":
        """Give an isolate whose memory is the photograph."""
        isolate = self._spares.pop() if self._spares else self.blank()
        if isolate.used:
            isolate.put_back()
        isolate.used = True
        return isolate

    def give_back(self, isolate: "Isolate", *, sound: bool) -> None:
        """Take an isolate after its call; it serves again if its memory kept its size."""
        isolate.storage = None
        if sound and isolate.size() == self.size:
            self._spares.append(isolate)
        else:
            isolate.context.close()


class Isolate:
    """One memory; in one call at a time."""

    def __init__(self, photograph: Photograph, context: Any) -> None:
        self._photograph = photograph
        self.context = context
        self.used = True
        """It needs the photograph before its next call."""
        self.storage: Callable[..., str] | None = None
        """Answers `context.storage` of this call."""
        instance = context._inst  # noqa: SLF001 - see the module's docstring
        # QuickJS's own limit overlooks typed arrays: without this one, a loop that fills them took 2.5 GB.
        instance.store.set_limits(memory_size=photograph.memory_bytes_max + 2 * 1024 * 1024)
        instance.name_to_fn_id["__atoll_host"] = 1
        context.set_host_call_dispatcher(self._host)

    def _host(self, _: int, arguments: tuple[Any, ...]) -> str:
        if self.storage is None:
            return "!context is there during a call only"
        try:
            return self.storage(*msgspec.json.decode(arguments[0], type=tuple[str, str, str, str]))
        except (msgspec.MsgspecError, IndexError, ValueError):
            return "!the service bent its own bookkeeping"

    def size(self) -> int:
        """Give the memory's size in bytes."""
        instance = self.context._inst  # noqa: SLF001 - see the module's docstring
        return int(instance.mem.data_len(instance.store))

    def memory(self) -> bytes:
        """Give a copy of the memory."""
        instance = self.context._inst  # noqa: SLF001 - see the module's docstring
        return bytes(instance.mem.read(instance.store, 0, self.size()))

    def stack(self) -> int:
        """Give the stack pointer, which is the only state outside the memory."""
        instance = self.context._inst  # noqa: SLF001 - see the module's docstring
        return int(instance.sp.value(instance.store))

    def put_back(self) -> None:
        """Make the memory what it was when the photograph was taken."""
        photograph, instance = self._photograph, self.context._inst  # noqa: SLF001 - see the module's docstring
        if self.size() != photograph.size:
            self.context.restore_snapshot(photograph.snapshot)
            return
        # `restore_snapshot` copies the photograph twice more; this is three to twelve times as fast.
        ctypes.memmove(instance.mem.data_ptr(instance.store), photograph.image, photograph.size)
        instance.sp.set_value(instance.store, photograph.stack)

    def turn(self, kind: str, **fields: Any) -> Outbox:
        """Let JavaScript run until it has nothing more to do just now.

        Raises:
            Interrupted: The deadline passed.
            Broken: The engine gave up, or the outbox is not one.
        """
        now_ms = time.monotonic() * 1000
        try:
            found = self._turn({"kind": kind, "now": now_ms, **fields})
            # Jobs of promises may have put more into the outbox: look again while there were some.
            while self.context.run_pending_jobs():
                found = merge(found, self._turn({"kind": "none", "now": now_ms}))
        except (engine.QuickJSError, wasmtime.Trap, wasmtime.WasmtimeError) as error:
            if self._photograph.overdue:
                raise Interrupted from error
            raise Broken(self._photograph.explain(error)) from error
        except (msgspec.MsgspecError, ValueError, TypeError, struct.error) as error:
            raise Broken(f"the service bent its own bookkeeping: {error}"[:1000]) from error
        if self._photograph.overdue:
            raise Interrupted
        return found

    def _turn(self, event: dict[str, Any]) -> Outbox:
        result = self._handle().call(msgspec.json.encode(event).decode())
        try:
            return _outbox_decoder.decode(result.to_python())
        finally:
            result.dispose()

    def _handle(self) -> Any:
        # A handle is a number in the photographed memory, so it is good in every isolate that holds the photograph.
        turn = self._photograph.turn
        return engine.QjsHandle._adopt(self.context._inst, turn._require_live(), context=self.context)  # noqa: SLF001 - see above


def merge(first: Outbox, then: Outbox) -> Outbox:
    """Join the outboxes of two steps of one turn."""
    then.logs = first.logs + then.logs
    then.dropped += first.dropped
    then.asks = first.asks + then.asks
    then.reply = first.reply or then.reply
    then.thrown = first.thrown or then.thrown
    return then


def random_seed() -> list[int]:
    """Give the seed of one call's `Math.random`."""
    return [each or 1 for each in struct.unpack("<4i", os.urandom(16))]


def warm_up(cache: Path) -> None:
    """Compile the engine, or take it from the folder where an earlier worker of this node left it compiled.

    Compiling takes a third of a second; the file is mapped, so workers share its memory. wasmtime refuses a file of
    another version or processor; whoever can write to the folder can make workers run anything, so it must be the
    node's own.
    """
    wasm = engine._read_guest_wasm()  # noqa: SLF001 - see the module's docstring
    digest = hashlib.sha256(wasm)
    name = f"{digest.hexdigest()[:32]}-{metadata.version('wasmtime')}.cwasm"
    shared = _wasmtime.shared_wasmtime_engine()
    module: wasmtime.Module | None = None
    with contextlib.suppress(OSError, wasmtime.WasmtimeError):  # Not there, or not for this host: compile.
        module = wasmtime.Module.deserialize_file(shared, str(cache / name))
    if module is None:
        module = wasmtime.Module(shared, wasm)
        with contextlib.suppress(OSError):  # A full disk costs time, not the service.
            _leave(cache, name, bytes(module.serialize()))
    _wasmtime._SHARED_ARTIFACTS["quickjs"] = _wasmtime.SharedWasmArtifact(  # noqa: SLF001 - see above
        module=module,
        linker=engine._build_shared_linker(shared),  # noqa: SLF001 - see above
        build_id=digest.digest(),
    )
    engine.QjsContext(engine.QjsRuntime()).close()


def _leave(cache: Path, name: str, data: bytes) -> None:
    fd, path = tempfile.mkstemp(dir=cache)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        Path(path).replace(cache / name)
    except OSError:
        Path(path).unlink()
        raise
