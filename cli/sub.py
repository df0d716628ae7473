"""`atoll sub`: prints what is published, until interrupted.

The node sends a line of JSON for each event; see `topic_views.py`. What is lost is said on stderr, whoever lost it.
"""

import base64
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from atoll.cli.connection import AWAY_LOOK_S, AWAY_S, NoAnswer, NotRunning, connection, segment
from atoll.cli.options import node_name
from atoll.cli.output import JSON_VERSION, Failed
from atoll.cli.tables import shown

if TYPE_CHECKING:
    from atoll.actors.gateway.topic_views import MessageEvent


class _Enough(Exception):
    """As many messages came as were wanted."""


@click.command("sub")
@click.argument("filters", metavar="FILTER...", nargs=-1, required=True)
@click.option(
    "--from", "source", metavar="NODE", type=node_name, help="Subscribe at this node: its site's messages come over."
)
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after so many messages.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each message.")
def command(filters: tuple[str, ...], source: str | None, count: int | None, *, as_json: bool) -> None:
    """Print what is published to topics that match a FILTER: `+` is any one level, `#` at the end all that follow.

    Runs until Ctrl-C, or with `--count` until so many messages came.
    """
    reader = _Reader(filters, source, count, as_json=as_json)
    try:
        reader.run()
    except _Enough:
        return
    except KeyboardInterrupt:
        if count is not None:
            raise


class _Reader:
    """One run of the command."""

    def __init__(self, filters: tuple[str, ...], source: str | None, count: int | None, *, as_json: bool) -> None:
        wanted = [f"filter={segment(each)}" for each in filters] + ([f"from={segment(source)}"] if source else [])
        self._where = "/atoll/v1/topics?" + "&".join(wanted)
        self._source = source
        self._left = count
        self._as_json = as_json
        self._node = connection()
        self._begun = self._ready = False
        self._rest = b""

    def run(self) -> None:
        """Read until it is enough; a node that was there is waited for."""
        deadline = 0.0
        while True:
            self._rest = b""
            try:
                self._read()
            except (NotRunning, NoAnswer) as error:
                if not self._begun:
                    raise
                if self._ready:
                    self._ready, deadline = False, time.monotonic() + AWAY_S
                    click.echo(f"{shown(error.message)}; waiting for the node", err=True)
                if time.monotonic() >= deadline:
                    raise
            time.sleep(AWAY_LOOK_S)

    def _read(self) -> None:
        self._node.ask("GET", self._where, take=self._take, live=True)
        raise NoAnswer("the node has ended the stream", "subscribe again")

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line:
                self._hear(line)

    def _hear(self, line: bytes) -> None:
        import msgspec

        from atoll.actors.gateway.topic_views import (
            EndEvent,
            MessageEvent,
            MissedEvent,
            ReadyEvent,
            TopicEvent,
            WayFoundEvent,
            WayLostEvent,
        )

        try:
            event: TopicEvent = msgspec.json.decode(line, type=TopicEvent)
        except msgspec.MsgspecError as error:
            raise Failed(f"the node says what this version does not know: {error}", "use the same version") from error
        match event:
            case MessageEvent():
                self._print(event)
            case ReadyEvent():
                self._on_ready()
            case MissedEvent(count=count):
                self._say_missed(count)
            case WayLostEvent(why=why):
                click.echo(f"the way to {shown(self._source)} is lost: {shown(why)}; trying again", err=True)
            case WayFoundEvent():
                click.echo(f"there is a way to {shown(self._source)} again", err=True)
            case EndEvent(why=why, again=True):
                raise NoAnswer(why, "subscribe again when the node is there")
            case EndEvent(why=why):
                raise Failed(why, "subscribe again, or see `atoll status`")

    def _on_ready(self) -> None:
        if self._begun:
            self._say_missed(None)
        elif not self._as_json:
            there = f"at {self._source}" if self._source else "in this site"
            click.echo(f"subscribed {shown(there)}; end it with Ctrl-C", err=True)
        self._begun = self._ready = True

    def _say_missed(self, count: int | None) -> None:
        if self._as_json:
            click.echo(json.dumps({"version": JSON_VERSION, "missed": count}), err=True)
        elif count is None:
            click.echo("messages may be missing here, nobody knows how many", err=True)
        else:
            click.echo(f"{count} message{'' if count == 1 else 's'} missing here", err=True)

    def _print(self, event: "MessageEvent") -> None:
        if self._as_json:
            print(json.dumps({"version": JSON_VERSION} | _plain(event)))
        else:
            payload = event.payload
            if event.encoding == "base64":
                payload = f"({len(base64.b64decode(payload))} bytes, base64) {payload}"
            print(f"{shown(event.topic)}  {shown(payload)}")
        sys.stdout.flush()
        if self._left is not None:
            self._left -= 1
            if not self._left:
                raise _Enough


def _plain(event: "MessageEvent") -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(event)
    del plain["event"]
    return plain
