"""`python -m atoll.testing.punch_end`: one end of attempts to punch through NAT, as a program in a place of a lab.

    --reflect PORT             a relay's bearer port, which says what it sees; nothing else
    RELAY:PORT RELAY:PORT      an end that asks those relays; it is told on stdin, and tells on stdout, in JSON lines:

    {"try": 5}                     initiates -> {"request": …} <- {"agreed": …}
    {"request": …}                 responds  -> {"agreed": …}
    -> {"punched": {"took_s": …}}  the connection carries bytes both ways;  {"failed": …}  why not

What is tried is what a node does, word by word; only the session that carries the words is missing.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.abc
import click
import msgspec

from atoll.actors.tunnel_relay.bearer_server import BearerServer
from atoll.actors.tunnel_relay.messages import MESSAGES, PunchAgreed, PunchRequest
from atoll.actors.tunnel_relay.puncher import Puncher, PunchSettings
from atoll.transport.codec import Codec
from atoll.transport.errors import PeerError, TransportError, Unreachable, WorldError
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey
from atoll.transport.simultaneous_open import receive, send_all

CODEC = Codec(MESSAGES)
ANSWER_S = 10.0
WORD = b"carried"


class Told(msgspec.Struct, forbid_unknown_fields=True):
    """One line of stdin."""

    attempt: int = msgspec.field(default=0, name="try")
    request: str = ""
    agreed: str = ""


class End:
    """One end; attempts come one after the other."""

    def __init__(self, relays: tuple[str, ...]) -> None:
        self._puncher = Puncher(PunchSettings(), time.monotonic, Counter())
        for relay in relays:
            host, _, port = relay.rpartition(":")
            self._puncher.note_relay(host, int(port))
        self._agreed = anyio.Event()
        self._answer = ""

    async def run(self) -> None:
        """Do what stdin says, to its end."""
        async with anyio.create_task_group() as tasks:
            async for told in _lines():
                if told.agreed:
                    self._answer = told.agreed
                    self._agreed.set()
                elif told.request:
                    tasks.start_soon(self._respond, told.request)
                else:
                    tasks.start_soon(self._initiate)

    async def _initiate(self) -> None:
        began = time.monotonic()
        try:
            sock = await self._puncher.initiate(_anybody(), self._ask)
            took_s = time.monotonic() - began
            with sock:
                await send_all(sock, WORD)
                if await _read(sock) != WORD:
                    raise Unreachable("something else came back")
        except (TransportError, WorldError, PeerError, OSError) as error:
            _tell(failed=str(error))
        else:
            _tell(punched={"took_s": took_s})

    async def _ask(self, request: PunchRequest) -> PunchAgreed:
        self._agreed = anyio.Event()
        _tell(request=CODEC.encode(request).hex())
        with anyio.fail_after(ANSWER_S):
            await self._agreed.wait()
        agreed = CODEC.decode(bytes.fromhex(self._answer))
        if not isinstance(agreed, PunchAgreed):
            raise Unreachable("the other end did not agree")
        return agreed

    async def _respond(self, request: str) -> None:
        message = CODEC.decode(bytes.fromhex(request))
        if not isinstance(message, PunchRequest):
            raise Unreachable("that is no request")
        try:
            sock = await self._puncher.respond(
                _anybody(), message, lambda agreed: _tell(agreed=CODEC.encode(agreed).hex())
            )
            with sock:
                await send_all(sock, await _read(sock))
        except (TransportError, OSError) as error:
            _tell(failed=str(error))
        else:
            _tell(punched={})


async def _read(sock: Any) -> bytes:
    data = b""
    while len(data) < len(WORD):
        data += await receive(sock, len(WORD) - len(data))
    return data


def _anybody() -> NodeId:
    """Make a peer anew for each attempt: who was tried a moment ago is not tried again."""
    return NodeId(os.urandom(32))


def _tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - a program's output


async def _lines() -> AsyncIterator[Told]:
    async for line in anyio.wrap_file(sys.stdin):
        yield msgspec.json.decode(line, type=Told)


def _reflect(port: int) -> None:
    key = NodeKey.generate()
    server = BearerServer(relay=key.node_id, issuer=key.node_id, host="0.0.0.0", port=port)
    _tell(listening=server.port)
    server.run()


@click.command()
@click.argument("relays", nargs=-1)
@click.option("--reflect", type=int)
def command(relays: tuple[str, ...], reflect: int | None) -> None:
    """Be one end, or a relay that says what it sees."""
    if reflect is not None:
        _reflect(reflect)
    else:
        anyio.run(End(relays).run)


if __name__ == "__main__":
    command()
