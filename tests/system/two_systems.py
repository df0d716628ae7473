"""Two actor systems in one process, joined by their bytes, and what their actors say."""

import contextlib
from dataclasses import dataclass

import anyio
import msgspec

from atoll.actors.runtime import MESSAGES, Actor, ActorSystem, Address, Declined, handles
from atoll.transport.base import Standing
from atoll.transport.codec import Codec, Message
from atoll.transport.envelope import VERSION, Header, decode_envelope, encode_envelope
from atoll.transport.identity import NodeId

HERE, THERE, ELSEWHERE = NodeId(b"h" * 32), NodeId(b"t" * 32), NodeId(b"e" * 32)


class Hello(Message, frozen=True, array_like=True, tag="test.hello"):
    name: str


class Welcome(Message, frozen=True, array_like=True, tag="test.welcome"):
    text: str


CODEC = Codec([Hello, Welcome, *MESSAGES])


@dataclass
class SetTarget:
    celsius: float


class Target(msgspec.Struct):
    celsius: float
    reached: bool = False


class Hang(msgspec.Struct):
    pass


class Boiler(Actor):
    def __init__(self):
        self.set = []
        self.gate = anyio.Event()

    @handles
    async def hello(self, message: Hello) -> Welcome:
        return Welcome(f"welcome {message.name}")

    @handles
    async def set_target(self, message: SetTarget) -> Target:
        if message.celsius > 90:
            raise Declined("too hot")
        if message.celsius < 0:
            raise ValueError("frozen pipes")
        self.set.append(message.celsius)
        return Target(message.celsius)

    @handles
    async def hang(self, message: Hang) -> None:
        await self.gate.wait()


class Callable(Boiler):
    open_to = frozenset({Standing.GRANTED})


class Private(Boiler):
    open_to = frozenset()


class Two:
    """Two systems, joined by their bytes; `lose` drops envelopes, `standing` is what each proved to the other."""

    def __init__(self):
        self.here = ActorSystem(HERE, CODEC, self.carry)
        self.there = ActorSystem(THERE, CODEC, self.carry)
        self.standing = Standing.MEMBER
        self.sent = []
        self.lose = lambda envelope: False

    def carry(self, envelope):
        self.sent.append(envelope)
        if not self.lose(envelope):
            envelope = decode_envelope(encode_envelope(envelope))
            target = self.here if envelope.header.target_node == HERE else self.there
            target.deliver(envelope, self.standing)

    async def __aenter__(self):
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.here)
            await stack.enter_async_context(self.there)
            self.actor = Boiler()
            await self.there.spawn(lambda: self.actor, "boiler")
            stack.callback(self.actor.gate.set)
            self.boiler = self.here.ref(Address(THERE, "boiler"))
            self.stack = stack.pop_all()
        return self

    async def __aexit__(self, *raised):
        return await self.stack.__aexit__(*raised)


def header(kind, *, correlation=b"c" * 16, target=THERE, path="boiler", source=HERE, deadline_ms=0):
    return Header(VERSION, kind, source, "", target, path, correlation, deadline_ms)
