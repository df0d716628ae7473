"""Handlers: which messages they take, and which mistakes in them are said where they are written."""

import msgspec
import pytest
from counter_actor import NODE, Add, Counter, Total, system

from atoll.actors.runtime import (
    MESSAGES,
    Actor,
    ActorSystem,
    StartFailed,
    handles,
)
from atoll.transport.codec import Codec
from atoll.transport.errors import UsageError

pytestmark = pytest.mark.anyio


async def test_a_base_class_message_type_handles_its_subclasses_and_an_override_keeps_the_mark():
    class More(Add):
        pass

    class Doubler(Counter):
        async def add(self, message: Add) -> int:
            return 2 * message.number

    async with system() as running:
        ref = await running.spawn(Doubler, "doubler")
        assert await ref.ask(More(4)) == 8


def test_handlers_that_cannot_work_are_refused_where_they_are_written():
    with pytest.raises(UsageError, match="async def"):

        @handles
        def plain(self, message: Add):
            pass

    with pytest.raises(UsageError, match="annotate `message`"):

        class Bare(Actor):
            @handles
            async def bare(self, message):
                pass

    with pytest.raises(UsageError, match="two handlers for messages named Add"):

        class Twice(Actor):
            @handles
            async def one(self, message: Add):
                pass

            @handles
            async def two(self, message: Add):
                pass


class Early(Actor):
    @handles
    async def go(self, message: "Below") -> int:
        return message.number


class Below(msgspec.Struct):
    number: int


async def test_a_message_type_may_stand_below_the_actor():
    async with system() as running:
        ref = await running.spawn(Early, "early")
        assert await ref.ask(Below(3)) == 3


async def test_a_message_type_that_does_not_exist_fails_the_spawn():
    class Lost(Actor):
        @handles
        async def go(self, message: "Nowhere") -> int:  # noqa: F821
            return 1

    async with system() as running:
        with pytest.raises(StartFailed, match="Nowhere"):
            await running.spawn(Lost, "lost")
        assert running.find("lost") is None


@pytest.mark.parametrize("name", ["", "a b", "a//b", "/a", "é", "x" * 201])
async def test_what_is_not_a_name_is_refused(name):
    async with system() as running:
        with pytest.raises(UsageError, match="not a name"):
            await running.spawn(Counter, name)


async def test_misuse_is_said():
    with pytest.raises(UsageError, match="MESSAGES"):
        ActorSystem(NODE, Codec(MESSAGES[:1]))
    closed = system()
    with pytest.raises(UsageError, match="async with"):
        await closed.spawn(Counter, "counter")
    async with system() as running:
        ref = await running.spawn(Counter, "counter")
        with pytest.raises(UsageError, match="lives here already"):
            await running.spawn(Counter, "counter")
        with pytest.raises(StartFailed, match="not an Actor"):
            await running.spawn(lambda: 5, "five")
        with pytest.raises(UsageError, match="no supervisor is named x"):
            await running.spawn(Counter, "other", under="x")
        with pytest.raises(UsageError, match="attempts"):
            await running.ask(ref, Total(), attempts=0)
        assert await ref.ask(Total()) == 0
    with pytest.raises(UsageError, match="runs once"):
        async with running:
            pass
