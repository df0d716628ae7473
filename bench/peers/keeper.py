"""Keeps one foreign program, and ends it with all its children when whoever started the keeper is gone.

    python -m atoll.bench.peers.keeper PROGRAM [ARGUMENT...]

prints the program's process id. Foreign programs do not watch their parents, and some leave their process group (sshd
does for each connection); a keeper is the subreaper of all of them, so none can slip away.
"""

import contextlib
import ctypes
import os
import subprocess
import sys
import threading

import psutil

_PR_SET_CHILD_SUBREAPER = 36
ROUNDS_MAX = 100
"""A program that forks faster than it is killed gives up before this."""


def adopt_orphans() -> None:
    """Become the parent of whatever below this process loses its own."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_all() -> None:
    """Kill everything below this process."""
    for _ in range(ROUNDS_MAX):
        children = psutil.Process().children(recursive=True)
        if not children:
            return
        for each in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(children, timeout=0.1)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def main() -> None:
    """Start the program; end it when standard input ends, and end when it has ended."""
    adopt_orphans()
    # Its output goes where the keeper's errors go: into the log of whoever started it.
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr)  # noqa: S603 - the peers' own
    print(program.pid, flush=True)

    def until_alone() -> None:
        while os.read(0, 64):
            pass
        end_all()
        os._exit(0)

    threading.Thread(target=until_alone, name="until alone", daemon=True).start()
    program.wait()
    end_all()


if __name__ == "__main__":
    main()
