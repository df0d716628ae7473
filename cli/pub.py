"""`atoll pub`: publishes a message, or each line of what comes from a pipe."""

import sys
from collections.abc import Iterator

import click

from atoll.cli.connection import Connection, connection
from atoll.cli.options import json_option, node_name
from atoll.cli.output import fail, print_json
from atoll.cli.tables import shown

PAYLOAD_BYTES_MAX = 256 * 1024
"""What a node takes; more than one byte beyond it is not worth reading."""


@click.command("pub")
@click.argument("topic", metavar="TOPIC")
@click.argument("payload", metavar="[PAYLOAD]", required=False, default="")
@click.option("--to", metavar="NODE", type=node_name, help="Publish it in the site of this node. Default: in this one.")
@click.option("--lines", is_flag=True, help="Publish each line that comes from a pipe.")
@json_option
def command(topic: str, payload: str, to: str | None, *, lines: bool, as_json: bool) -> None:
    """Publish PAYLOAD to TOPIC; `-` reads it from a pipe.

    It goes straight to the nodes of the site that subscribe to TOPIC, and to nobody else.
    """
    if lines and payload:
        fail("--lines takes what is published from a pipe, and there is a PAYLOAD, too", "leave one out", code=2)
    node = connection()
    for each in _payloads(payload, lines=lines):
        _publish(node, topic, each, to, as_json=as_json)


def _payloads(payload: str, *, lines: bool) -> Iterator[bytes]:
    if lines:
        for line in sys.stdin.buffer:
            yield line.rstrip(b"\r\n")
    elif payload == "-":
        yield sys.stdin.buffer.read(PAYLOAD_BYTES_MAX + 1)
    else:
        yield payload.encode(errors="surrogateescape")


def _publish(node: Connection, topic: str, payload: bytes, to: str | None, *, as_json: bool) -> None:
    from urllib.parse import quote

    from atoll.actors.gateway.topic_views import PublishedReply

    where = f"/atoll/v1/topics/{quote(topic)}" + (f"?to={quote(to, safe='')}" if to else "")
    answer = node.ask("POST", where, body=payload, headers={"content-type": "application/octet-stream"})
    reply = answer.view(PublishedReply)
    if as_json:
        print_json(answer.plain())
    elif to:
        click.echo(f"published in the site of {shown(to)}", err=True)
    else:
        click.echo(
            f"published; subscribers here: {reply.subscribers}, other nodes that want it: {reply.nodes}", err=True
        )
