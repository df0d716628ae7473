"""The program in a worker process: runs one JavaScript service, as many calls at a time as its node sends.

    started --engine compiled--> Ready --Load--> Loaded --Call--> Replied or Faulted, in any order --stdin ends--> gone
                                             --> Failed

One thread, no event loop: JavaScript runs until it has nothing to do, then the next frame or timer is looked for.
A call that waits (for `context.http`, a timer) keeps its isolate; calls never see each other. A call that runs over its
time is interrupted; if even that fails, RLIMIT_CPU and the node end the process.

It must never write to stdout but through `Pipe`, and never open anything but its storage file.
"""

import contextlib
import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.actors.container_manager.runtimes import frames
from atoll.transport.errors import MalformedFrame

try:
    import resource
except ImportError:  # Windows: the engine's own limits and the node's clock hold there.
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from atoll.actors.container_manager.runtimes.javascript_service import Service

READ_BYTES = 256 * 1024
DATA_BYTES_MAX = 1024 * 1024 * 1024
"""All memory the process may write to: 32 calls of 16 MB, or fewer of more, and the engine."""
NICE = 10
"""What strangers wrote computes when the node itself, its election above all, has nothing to do. Not the engine before
it: callers wait for that, and the same two seconds of computing took 5 to 20 s on a host where others were at work."""
SESSION_NICENESS = Path("/proc/self/autogroup")
FILES_MAX = 64
FILE_BYTES_MAX = 64 * 1024 * 1024


class Pipe:
    """The node at the other end of stdin and stdout."""

    def __init__(self) -> None:
        # The sandbox inherits descriptor 1; what it prints must not land among the frames.
        self._in, self._out = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        os.close(nothing)
        self._splitter = frames.Splitter(frames.ToWorker)
        self._held: list[bytes] = []

    def send(self, frame: frames.Frame) -> None:
        """Keep a frame for the next `flush`; several in one write cost one wake-up of the node."""
        self._held.append(frames.pack(frame))

    def flush(self) -> None:
        """Write what was kept; waits for a slow node."""
        data = memoryview(b"".join(self._held))
        self._held.clear()
        while data:
            data = data[os.write(self._out, data) :]

    def receive(self, timeout_s: float | None) -> list[frames.Frame] | None:
        """Wait for frames; none after the time-out, None when the node is gone."""
        # Windows has no select for pipes; timers of services are late there until the next frame.
        if timeout_s is not None and os.name != "nt" and not select.select([self._in], [], [], timeout_s)[0]:
            return []
        data = os.read(self._in, READ_BYTES)
        return list(self._splitter.feed(data)) if data else None


def fence() -> None:
    """Take from this process what it will not need."""
    for name in list(os.environ):
        del os.environ[name]
    limits = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": FILES_MAX, "RLIMIT_FSIZE": FILE_BYTES_MAX}
    if sys.platform.startswith("linux"):
        # Unlike RLIMIT_AS it leaves alone what wasmtime reserves (gigabytes) and counts what is made writable.
        limits["RLIMIT_DATA"] = DATA_BYTES_MAX
    for name, limit in limits.items() if resource is not None else ():
        with contextlib.suppress(ValueError, OSError):  # A lower limit is in force already.
            resource.setrlimit(getattr(resource, name), (limit, limit))


def give_way() -> None:
    """Let everybody else on this host compute first.

    Where Linux shares processors among sessions, niceness counts within one only, and this process has a session of its
    own: then the session's is what counts (sched(7), "The autogroup feature").
    """
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):  # A sandbox around the node may forbid it.
            os.nice(NICE)
        with contextlib.suppress(OSError):  # Another kernel, or one without.
            SESSION_NICENESS.write_text(str(NICE))


def compiled(pipe: Pipe) -> bool:
    """Compile the engine now, so that `Load` is quick; tell the node when it is not installed."""
    try:
        from atoll.actors.container_manager.runtimes.isolate import warm_up  # noqa: PLC0415 - may be missing
    except ImportError as error:
        pipe.send(frames.Failed(f"JavaScript is not installed ({error})", missing=True))
        pipe.flush()
        return False
    warm_up(Path(sys.argv[1]))
    # Before a word of a stranger's is read.
    give_way()
    pipe.send(frames.Ready())
    pipe.flush()
    return True


def loaded(pipe: Pipe, frame: frames.Load) -> "Service | None":
    """Load the program, and tell the node how that went."""
    from atoll.actors.container_manager.runtimes.isolate import ProgramFailed  # noqa: PLC0415 - may be missing
    from atoll.actors.container_manager.runtimes.javascript_service import Service  # noqa: PLC0415 - so may this

    try:
        service = Service(pipe.send, frame)
    except ProgramFailed as error:
        pipe.send(frames.Failed(str(error)[: frames.REASON_CHARACTERS_MAX]))
        return None
    pipe.send(frames.Loaded())
    return service


def serve(pipe: Pipe) -> None:
    """Handle frames until the node is gone or the program cannot be loaded."""
    service: Service | None = None
    while (received := pipe.receive(service.pause_s() if service else None)) is not None:
        for frame in received:
            if isinstance(frame, frames.Load):
                if (service := loaded(pipe, frame)) is None:
                    pipe.flush()
                    return
            elif service is None:
                raise MalformedFrame("a call before there is a program")
            elif isinstance(frame, frames.Call):
                service.begin(frame)
            elif isinstance(frame, frames.HttpAnswer):
                service.answer(frame)
            elif isinstance(frame, frames.Cancel):
                service.cancel(frame.call)
            # Each answer goes out at once: the call behind it may take its whole time.
            pipe.flush()
        if service is not None:
            service.run_due()
            pipe.flush()


def main() -> None:
    """Be a worker."""
    pipe = Pipe()
    fence()
    with contextlib.suppress(BrokenPipeError):  # The node is gone; nobody is left to tell.
        if compiled(pipe):
            serve(pipe)


if __name__ == "__main__":
    main()
