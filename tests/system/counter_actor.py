"""An actor that counts, and what it can be told."""

from dataclasses import dataclass

import anyio
import msgspec

from atoll.actors.runtime import (
    MESSAGES,
    Actor,
    ActorSystem,
    Declined,
    handles,
)
from atoll.transport.codec import Codec
from atoll.transport.identity import NodeId

NODE = NodeId(b"n" * 32)


def system(**more):
    return ActorSystem(NODE, Codec(MESSAGES), **more)


class Add(msgspec.Struct):
    number: int


@dataclass
class Total:
    pass


class Odd(msgspec.Struct):
    pass


class Break(msgspec.Struct):
    pass


class Wait(msgspec.Struct):
    pass


class Counter(Actor):
    """Adds; breaks and waits when told to."""

    def __init__(self, gate=None):
        self.total = 0
        self.gate = gate

    @handles
    async def add(self, message: Add) -> int:
        if message.number < 0:
            raise Declined("only up")
        self.total += message.number
        return self.total

    @handles
    async def tell_total(self, message: Total) -> int:
        return self.total

    @handles
    async def crash(self, message: Break) -> None:
        raise ValueError("broken on purpose")

    @handles
    async def wait(self, message: Wait) -> None:
        if self.gate is None:
            await anyio.sleep_forever()
        await self.gate.wait()
