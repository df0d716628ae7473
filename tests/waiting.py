"""Waiting for what has no event of its own: counters, files, the state of other actors and of other processes."""

import time

import anyio
import psutil

from atoll.testing import host_pauses
from atoll.testing.warden_main import born

PATIENCE_S = 60
"""Far beyond what anything here takes: a busy machine is slow, a wrong one never ends."""
LOOK_S = 0.002


async def until(condition, patience_s=PATIENCE_S):
    """Wait until `condition()` is true, and give what it gave."""
    with anyio.fail_after(patience_s):
        while not (found := condition()):  # noqa: ASYNC110 - the module says why
            await anyio.sleep(LOOK_S)
    return found


def block_until(condition, why=lambda: "the condition did not come true", patience_s=PATIENCE_S):
    """Do the same without a loop; where it is in vain, `why()` says so."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, why()
        time.sleep(LOOK_S)
    return found


def block_until_gone(pids):
    """Wait until none of these processes is there."""

    def alive():
        return [pid for pid in pids if born(pid)]

    block_until(lambda: not alive(), lambda: f"still there: {alive()}")


def children():
    """Give all processes below this one, but for who watches the host beside every test."""

    def watches(process):
        try:
            return host_pauses.__file__ in process.cmdline()
        except psutil.Error:
            return False

    return [each for each in psutil.Process().children(recursive=True) if not watches(each)]
