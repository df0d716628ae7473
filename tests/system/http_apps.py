"""Applications for tests of the HTTP server."""

from atoll.actors.gateway.http_server import ClientGone


async def body_of(receive):
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("in the middle of the body")
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


async def reply(send, body=b"", status=200, headers=()):
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope, receive, send):
    """Answer with what was asked: method, target, body."""
    body = await body_of(receive)
    await reply(send, b"%s %s?%s " % (scope["method"].encode(), scope["raw_path"], scope["query_string"]) + body)
