"""A test that takes longer than its limit fails, says where it waited, and does not hold up the others.

    async test    cancelled by its own event loop  --not over within `ENDS_S`--> its process ends
    any other     ended by pytest-timeout's signal --not over within `ENDS_S`--> its process ends

A signal does not end an async test: trio and uvloop go on waiting when its handler raises, and what the test leaves
behind may refuse to end on any loop. A process that ends tells on stderr where its threads were; pytest-xdist fails the
test that it ran, and gives the others to a new one.

With `--cancel-within` each async test is cancelled at a moment of its own, and all that is asked is that it ends
(`make cancelled`).
"""

import faulthandler
import inspect
import os
import traceback
from random import Random

import anyio
import pytest

ENDS_S = 30.0
"""After the limit: for what the test began to end."""
FRAMES_MAX = 8
LIMIT_S = pytest.StashKey[float]()


class HungTests:
    """The plugin; one for each process that runs tests."""

    def __init__(self):
        # As it is before pytest catches what tests write.
        self.stderr = os.dup(2)

    def pytest_unconfigure(self):
        os.close(self.stderr)

    @pytest.hookimpl(tryfirst=True)
    def pytest_timeout_set_timer(self, item, settings):
        """Begin a test's time. True: pytest-timeout has nothing to do."""
        item.stash[LIMIT_S] = settings.timeout
        self.end_process_later(item)
        return True if is_async(item) else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_timeout_cancel_timer(self):
        faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(trylast=True)
    def pytest_exception_interact(self, node):
        """Begin anew what pytest ends here: a test that has failed still has to take down what it set up."""
        if isinstance(node, pytest.Item) and LIMIT_S in node.stash:
            self.end_process_later(node)

    def end_process_later(self, item):
        faulthandler.dump_traceback_later(item.stash[LIMIT_S] + ENDS_S, exit=True, file=self.stderr)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem):
        if not is_async(pyfuncitem) or LIMIT_S not in pyfuncitem.stash:
            return (yield)
        test, limit_s = pyfuncitem.obj, pyfuncitem.stash[LIMIT_S]
        cancel_within_s = pyfuncitem.config.getoption("--cancel-within", None)

        async def limited(**fixtures):
            if cancel_within_s is None:
                await run_within(limit_s, test, fixtures)
            else:
                await run_and_cancel(
                    Random(f"{pyfuncitem.nodeid} {cancel_within_s}").uniform(0, cancel_within_s), test, fixtures
                )

        pyfuncitem.obj = limited
        try:
            return (yield)
        finally:
            pyfuncitem.obj = test


def is_async(item):
    """Tell whether an event loop runs the test whole; each example of a property has a loop of its own."""
    return inspect.iscoroutinefunction(getattr(item, "obj", None)) and not hasattr(item.obj, "hypothesis")


async def run_within(limit_s, test, fixtures):
    frames = []
    with anyio.CancelScope(deadline=anyio.current_time() + limit_s) as scope:
        try:
            await test(**fixtures)
        except anyio.get_cancelled_exc_class() as error:
            frames = traceback.format_tb(error.__traceback__)
            raise
    if scope.cancelled_caught:
        pytest.fail(f"took longer than {limit_s} s, and waited here:\n{''.join(frames[-FRAMES_MAX:])}", pytrace=False)


async def run_and_cancel(after_s, test, fixtures):
    with anyio.move_on_after(after_s) as scope:
        try:
            await test(**fixtures)
        except* Exception:
            # What a test has begun in threads and other processes may say that its peer is gone.
            if not scope.cancel_called:
                raise
