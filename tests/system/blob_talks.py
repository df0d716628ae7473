"""How tests speak to hosts with Blobs: as a command does, and as a peer that says what it likes."""

import contextlib

import anyio

from atoll.actors.blobs.blob_talk import BlobTalk
from atoll.actors.blobs.errors import UnknownBlob
from atoll.actors.blobs.orders import ReadBlob
from atoll.transport.talk import StreamLost


async def fetched(host, digest):
    """Read a whole blob as a command does."""
    data, index = b"", 0
    while True:
        try:
            data += await host.ask(ReadBlob(digest, index))
        except UnknownBlob:
            return data
        index += 1


def states(described):
    return {each.name: each.step for each in described.incoming}


async def until_state(host, path, peer, step):
    with anyio.fail_after(20):
        while (await host.send(path, peer, wait_s=0.02)).step != step:
            pass


async def until_gone(host):
    with anyio.fail_after(20):
        while (await host.described()).incoming:
            await host.wait(accept=False)


async def heard_to_the_end(talk):
    """Read on until the other end closes the stream."""
    heard = []
    with contextlib.suppress(StreamLost):
        while True:
            heard.append(await talk.hear(5))
    return heard


async def opened(world, source, target):
    """Open a stream as a peer that says what the test says."""
    return BlobTalk(await world.open(source, target.id), source.counts)
