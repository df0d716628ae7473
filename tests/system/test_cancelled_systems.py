"""A system ends that is cancelled while it starts: its root is shielded, and waits for an order to end."""

import anyio
import anyio.lowlevel
import pytest
from counter_actor import system

pytestmark = pytest.mark.anyio


async def test_a_system_that_is_cancelled_before_it_starts_ends():
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with system():
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught


@pytest.mark.parametrize("steps", range(8))
async def test_a_system_that_is_cancelled_in_its_first_steps_ends(steps):
    async with anyio.create_task_group() as tasks:

        async def cancel_after_steps():
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

        tasks.start_soon(cancel_after_steps)
        async with system():
            await anyio.sleep_forever()
    assert tasks.cancel_scope.cancelled_caught
