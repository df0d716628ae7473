"""`atoll send`: a file to another node; goes on where it was when it is called again."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from atoll.cli.connection import AWAY_S, Answer, connection
from atoll.cli.options import json_option, node_name
from atoll.cli.output import Failed, fail, print_json
from atoll.cli.piped import spooled
from atoll.cli.places import atoll
from atoll.cli.progress import Steps, is_watched, steps, wait_ms
from atoll.cli.tables import shown, size, suggest

if TYPE_CHECKING:
    from atoll.actors.gateway.blob_views import SendingView

_Given: TypeAlias = "tuple[Answer, SendingView]"

_REMEDIES = {
    "refused": "ask the owner of that node",
    "changed": "send it again when nobody writes to it",
    "expired": "run the same command again when the other node is there and somebody receives",
    "withdrawn": "run the same command again to go on",
    "failed": "look into the log of both nodes",
}


@click.command("send")
@click.argument("file", metavar="FILE")
@click.argument("node", metavar="NODE", type=node_name)
@click.option("--name", metavar="NAME", help="What it shall be called there. Default: as it is called here.")
@json_option
def command(file: str, node: str, name: str | None, *, as_json: bool) -> None:
    """Send FILE to NODE, where somebody has to receive it; `-` reads it from a pipe.

    What NODE has of it already is not sent again, whoever was interrupted before.
    """
    with _path_of(file, name) as path:
        words = () if file == "-" else (str(path), node, *(("--name", name) if name else ()))
        answer, sent = _sent(path, node, name or path.name, words, as_json=as_json)
    if sent.state != "taken":
        raise Failed(f"{sent.name} was not sent: {sent.why or sent.state}", _REMEDIES.get(sent.state, "try again"))
    if as_json:
        print_json(answer.plain())
    else:
        click.echo(f"{shown(sent.digest)}  {size(sent.size_bytes)}  {shown(sent.name)}")
        click.echo(f"taken by {shown(sent.node_name)}", err=True)


@contextlib.contextmanager
def _path_of(file: str, name: str | None) -> Iterator[Path]:
    if file != "-":
        path = Path(file).absolute()
        if not path.is_file():
            why = "is no file" if path.exists() else "is not there"
            fail(f"{file} {why}", "name a file; a folder can be packed with tar first", code=2)
        yield path
        return
    if name is None:
        fail("what comes from a pipe has no name", "give it one with --name", code=2)
    # The node reads it from the disk: it may have to begin anew, and a pipe cannot.
    with spooled() as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield Path(copy.name)


def _sent(path: Path, node: str, name: str, words: tuple[str, ...], *, as_json: bool) -> _Given:
    """Send it to the end; `words` would send it again, none what came from a pipe."""
    from atoll.actors.gateway.blob_views import SendingReply

    given: _Given | None = None
    told_to_receive = False
    # The first answer comes at once: who interrupts has to know what to call back.
    asked = {"path": str(path), "node": node, "name": name, "wait_ms": 0}
    try:
        with steps(name, as_json=as_json, watched=is_watched(as_json=as_json)) as told:
            while given is None or not given[1].ended:
                away_s = 0.0 if given is None else AWAY_S
                answer = connection().ask_again("POST", "/atoll/v1/blobs/send", asked, away_s=away_s)
                given = answer, answer.view(SendingReply).sending
                sending = given[1]
                asked |= {"order": sending.order, "wait_ms": wait_ms(as_json=as_json)}
                _tell(told, sending)
                if sending.state == "waiting" and not told_to_receive:
                    told_to_receive = True
                    suggest(f"{shown(sending.node_name)} has to take it; say there", "atoll", "receive")
    except KeyboardInterrupt:
        if given is not None:
            _withdraw(given[1].order)
            if words:
                suggest("called back; to go on", atoll(), "send", *words)
        raise
    return given


def _tell(told: Steps, sending: "SendingView") -> None:
    there, more = sending.node_name, {"state": sending.state, "node_name": sending.node_name}
    because = f": {sending.why}" if sending.why else ""
    match sending.state:
        case "reading":
            told.show("reading it", sending.read_bytes, sending.size_bytes, **more)
        case "sending" | "taken":
            told.show(f"to {there}", sending.there_bytes, sending.size_bytes, **more)
        case "reaching":
            told.say(f"looking for a way to {there}{because}", **more)
        case "offering":
            told.say(f"offering it to {there}{because}", **more)
        case "waiting":
            told.say(f"nobody at {there} has accepted it yet", **more)


def _withdraw(order: str) -> None:
    with contextlib.suppress(Failed):
        connection().ask("DELETE", f"/atoll/v1/blobs/outgoing/{order}")
