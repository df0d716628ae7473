"""`/atoll/v1/blobs`: files to other nodes, and what comes from them.

A file is named by its path only at the node's own unix socket: whoever holds a copied API key must not read its disk.
"""

from collections.abc import Awaitable, Callable
from pathlib import PurePath

import msgspec
from msgspec import structs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from atoll.actors.blobs.manifest import chunk_count
from atoll.actors.gateway.blob_views import BlobReply, BlobsReply, DecideBlob, ReceiveBlobs, SendFile, SendingReply
from atoll.actors.gateway.bodies import json_body
from atoll.actors.gateway.client_presence import while_there
from atoll.actors.gateway.door import Door, principal_in
from atoll.actors.gateway.http_line import ClientGone
from atoll.actors.gateway.ports import NodePort, UnknownName
from atoll.actors.gateway.problems import Problem
from atoll.actors.gateway.replies import json_reply

NO_CONTENT = 204


class BlobRoutes(msgspec.Struct, frozen=True):
    """The endpoints; each asks the node and says its answer as JSON."""

    node: NodePort

    def routes(self, door: Door) -> list[Route]:
        """Give the routes behind `door`."""
        base = "/atoll/v1/blobs"
        return [
            door.route("GET", base, self.blobs),
            door.route("POST", f"{base}/send", self.send),
            door.route("POST", f"{base}/receive", self.receive),
            door.route("DELETE", base + "/receivers/{receiver}", self.stop_receiving),
            door.route("DELETE", base + "/outgoing/{order}", self.withdraw),
            door.route("POST", base + "/{digest}/decide", self.decide),
            door.route("GET", base + "/{digest}", self.content),
            door.route("DELETE", base + "/{digest}", self.remove),
        ]

    async def blobs(self, request: Request) -> Response:
        """Everything that comes, lies here, and goes."""
        return json_reply(_told(request, await self.node.blobs.list()))

    async def send(self, request: Request) -> Response:
        """Send a file of this host, or say how far that is."""
        wanted = await json_body(request, SendFile)
        path = PurePath(wanted.path)
        if not path.is_absolute() or "\0" in wanted.path:
            raise Problem("bad-input", "the path is not absolute", "write it from the root on: the node runs elsewhere")
        name, wait_s = wanted.name or path.name, wanted.wait_ms / 1000
        sending = await self.node.blobs.send(wanted.path, wanted.node, name, wait_s, order_id=wanted.order)
        reply = json_reply(SendingReply(sending=sending))
        return _End(reply, lambda: self.node.blobs.end_heard(sending.order)) if sending.ended else reply

    async def receive(self, request: Request) -> Response:
        """Wait for offers, and accept them if that is wanted."""
        wanted = await json_body(request, ReceiveBlobs)
        wait_s = wanted.wait_ms / 1000
        blobs = self.node.blobs
        try:
            reply = await while_there(
                request.receive,
                lambda: blobs.receive(wanted.receiver, wanted.source, wait_s, accept=wanted.accept),
            )
        except ClientGone:
            # Killed, or cut off: nothing is accepted for somebody who is not there.
            await blobs.stop_receiving(wanted.receiver, for_good=False)
            raise
        return json_reply(_told(request, reply))

    async def stop_receiving(self, request: Request) -> Response:
        """Accept nothing more for a receiver that ends."""
        await self.node.blobs.stop_receiving(request.path_params["receiver"], for_good=True)
        return Response(status_code=NO_CONTENT)

    async def withdraw(self, request: Request) -> Response:
        """Call back what is being sent."""
        return json_reply(SendingReply(sending=await self.node.blobs.withdraw(request.path_params["order"])))

    async def decide(self, request: Request) -> Response:
        """Accept or refuse an offer."""
        wanted = await json_body(request, DecideBlob)
        digest = request.path_params["digest"]
        return json_reply(BlobReply(blob=await self.node.blobs.decide(digest, wanted.source, accept=wanted.accept)))

    async def content(self, request: Request) -> Response:
        """The bytes of a whole blob."""
        digest, source = request.path_params["digest"], request.query_params.get("from", "")
        # What is wrong is said before the header is out.
        first = await self.node.blobs.chunk(digest, source, 0)
        for each in (await self.node.blobs.list()).incoming:
            if each.digest == digest and each.state == "whole" and source in {"", each.node, each.node_name}:
                return _Content(each.size_bytes, first, lambda index: self.node.blobs.chunk(digest, source, index))
        raise UnknownName("that blob is not here any more")

    async def remove(self, request: Request) -> Response:
        """Let go of a blob, whole or not."""
        source = request.query_params.get("from", "")
        return json_reply(BlobReply(blob=await self.node.blobs.remove(request.path_params["digest"], source)))


def _told(request: Request, reply: BlobsReply) -> BlobsReply:
    """Keep to those on this host where on its disk things lie."""
    if principal_in(request).at_socket:
        return reply
    incoming = [structs.replace(each, path="") for each in reply.incoming]
    return structs.replace(reply, incoming=incoming)


class _End(Response):
    """How an order ended; noted as heard by a client that is still there.

    A command that was killed asks anew, and must get this end: to the node it would be a second order, and the file
    would be sent once more.
    """

    def __init__(self, reply: Response, heard: Callable[[], Awaitable[None]]) -> None:
        super().__init__(reply.body, reply.status_code, media_type=reply.media_type)
        self._heard = heard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; noted behind the header, which fails where nobody is, and before the client can ask anew."""
        del scope, receive
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await self._heard()
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


class _Content(Response):
    """A blob, read chunk by chunk as the client takes it.

    No async generator on purpose: one that is left half-way is finished by the garbage collector, if at all.
    """

    def __init__(self, size_bytes: int, first: bytes, read: Callable[[int], Awaitable[bytes]]) -> None:
        super().__init__(media_type="application/octet-stream")
        self.headers["content-length"] = str(size_bytes)
        self._count = chunk_count(size_bytes)
        self._first = first
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; what goes wrong in the middle cuts it short, so that it cannot look whole."""
        del scope, receive
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": self._count > 1})
        for index in range(1, self._count):
            data = await self._read(index)
            await send({"type": "http.response.body", "body": data, "more_body": index < self._count - 1})
