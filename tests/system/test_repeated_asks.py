"""Asks of another node that are sent more than once: handled once, and never given up too soon."""

import anyio
import pytest
from two_systems import THERE, Hang, Hello, SetTarget, Target, Two
from waiting import until

from atoll.actors.runtime import AskCongested, AskUnreachable
from atoll.transport.base import Standing
from atoll.transport.envelope import Kind
from atoll.transport.errors import Congested, Unreachable

pytestmark = pytest.mark.anyio


def taking_one_then(error):
    """An outlet that takes one envelope, refuses all that follow, and keeps what it was given."""
    given = []

    def outlet(envelope):
        given.append(envelope)
        if len(given) > 1:
            raise error

    return outlet, given


async def test_an_ask_repeated_because_the_answer_was_lost_is_handled_once():
    async with Two() as two:
        lost = []

        def lose_first_reply(envelope):
            if envelope.header.kind is Kind.REPLY and not lost:
                lost.append(envelope)
                return True
            return False

        two.lose = lose_first_reply
        answer = await two.here.ask(two.boiler, SetTarget(20), timeout_s=2, attempts=10)
        assert answer == Target(20)
        assert two.actor.set == [20.0]
        assert two.there.statistics()["repeated"] == 1
        assert len({each.header.correlation for each in two.sent}) == 1


async def test_an_ask_whose_repetition_finds_no_way_may_have_been_handled_and_says_so():
    async with Two() as two:
        two.here.outlet, _ = taking_one_then(Unreachable("no relay"))
        with pytest.raises(AskUnreachable, match=r"^whether it was handled is not known\. no relay$"):
            await two.here.ask(two.boiler, Hello("you"), timeout_s=0.2, attempts=10)


async def test_a_repetition_that_finds_the_way_full_is_left_out():
    async with Two() as two, anyio.create_task_group() as tasks:
        two.here.outlet, given = taking_one_then(Congested("queue full"))

        async def ask():
            assert await two.here.ask(two.boiler, SetTarget(20), timeout_s=3, attempts=10) == Target(20)

        tasks.start_soon(ask)
        await until(lambda: len(given) >= 3)
        two.there.deliver(given[0], Standing.MEMBER)


async def test_an_ask_that_a_full_way_cannot_take_anew_may_have_been_handled_and_says_so():
    async with Two() as two, anyio.create_task_group() as tasks:
        two.here.outlet, given = taking_one_then(Congested("queue full"))

        async def ask():
            reason = r"^the link broke; whether it was handled is not known\. queue full$"
            with pytest.raises(AskCongested, match=reason):
                await two.here.ask(two.boiler, Hello("you"), timeout_s=5)

        tasks.start_soon(ask)
        await until(lambda: given)
        two.here.way_lost(THERE, "the link broke")


async def test_an_ask_repeated_while_it_is_handled_waits_for_the_one_answer():
    async with Two() as two:
        async with anyio.create_task_group() as tasks:

            async def ask():
                await two.here.ask(two.boiler, Hang(), timeout_s=5, attempts=10)

            tasks.start_soon(ask)
            with anyio.fail_after(4):
                await until(lambda: two.there.statistics().get("repeated"))
            two.actor.gate.set()
        assert sum(each.header.kind is Kind.REPLY for each in two.sent) == 1
