"""`atoll receive`: waits for files that other nodes send, and puts them into a folder."""

import contextlib
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from atoll.cli.connection import AWAY_S, ProblemAnswer, connection, segment
from atoll.cli.inbox import Inbox
from atoll.cli.options import json_option, node_name
from atoll.cli.output import Failed, fail, print_json
from atoll.cli.progress import Steps, is_watched, steps, wait_ms
from atoll.cli.tables import shown, size

if TYPE_CHECKING:
    from atoll.actors.gateway.blob_views import BlobView

LEAVE_S = 2.0
"""For a node to note that nobody receives any more."""
FETCH_S = 60.0
"""For the node to give the next piece."""
_Key: TypeAlias = tuple[str, str]
"""The address, and whose it is."""


@click.command("receive")
@click.option(
    "--to",
    "folder",
    metavar="DIR",
    default=".",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder that gets them. Default: this one.",
)
@click.option("--from", "source", metavar="NODE", type=node_name, help="Only from this node, and without a question.")
@click.option("--once", is_flag=True, help="End after the first file.")
@click.option("--yes", is_flag=True, help="Take everything without a question.")
@json_option
def command(folder: Path, source: str | None, *, once: bool, yes: bool, as_json: bool) -> None:
    """Wait for files that other nodes send, and put them into a folder; nothing there is overwritten.

    Runs until Ctrl-C, or with `--once` until the first file is there. What was interrupted goes on from where it was.
    """
    accept = yes or source is not None
    if not accept and (as_json or not _somebody_is_here()):
        fail("nobody is here to be asked what to take", "say --yes, or from whom: --from NODE", code=2)
    waiting = _Waiting(folder, source or "", accept=accept, once=once, as_json=as_json)
    try:
        while not (waiting.look() and once):
            pass
    except KeyboardInterrupt:
        if once:
            raise
    finally:
        waiting.leave()


def _somebody_is_here() -> bool:
    return sys.stdin.isatty()


class _Waiting:
    """One run of the command."""

    def __init__(self, folder: Path, source: str, *, accept: bool, once: bool, as_json: bool) -> None:
        self._folder = folder
        self._source = source
        self._accept = accept
        self._once = once
        self._as_json = as_json
        self._node = connection(answer_s=FETCH_S)
        self._word = secrets.token_hex(8)
        self._seen = False
        """The node was there."""
        self._steps: dict[_Key, Steps] = {}

    def look(self) -> int:
        """Look once what there is, and give how many files came."""
        from atoll.actors.gateway.blob_views import BlobsReply

        asked = {
            "receiver": self._word,
            "accept": self._accept,
            "from": self._source,
            "wait_ms": wait_ms(as_json=self._as_json),
        }
        answer = self._node.ask_again("POST", "/atoll/v1/blobs/receive", asked, away_s=AWAY_S if self._seen else 0.0)
        if not self._seen and not self._as_json:
            click.echo("waiting for files; the other side says: atoll send FILE NODE", err=True)
        self._seen = True
        blobs = answer.view(BlobsReply).incoming
        self._show(blobs)
        for blob in blobs:
            if blob.state == "waiting" and not self._accept:
                self._ask_about(blob)
        whole = [blob for blob in blobs if blob.state == "whole"]
        return sum(self._fetch(blob) for blob in whole[: 1 if self._once else None])

    def leave(self) -> None:
        """Have the node accept nothing more; one that cannot be told sees to it by itself, within seconds."""
        with contextlib.suppress(Failed):
            connection(answer_s=LEAVE_S).ask("DELETE", f"/atoll/v1/blobs/receivers/{self._word}")

    def _show(self, blobs: "list[BlobView]") -> None:
        """Show how far they are; on a terminal one after the other, as there is one line."""
        coming = [each for each in blobs if each.state in {"checking", "receiving", "whole"}]
        watched = is_watched(as_json=self._as_json)
        for blob in coming[: 1 if watched else None]:
            told = self._steps.get(_key(blob))
            if told is None:
                told = self._steps[_key(blob)] = steps(blob.name, as_json=self._as_json, watched=watched)
            doing = "verifying what is there" if blob.state == "checking" else f"from {shown(blob.node_name)}"
            told.show(doing, blob.got_bytes, blob.size_bytes, state=blob.state, node_name=blob.node_name)

    def _ask_about(self, blob: "BlobView") -> None:
        question = (
            f"{shown(blob.node_name)} ({blob.node[:10]}) offers {shown(blob.name)}, {size(blob.size_bytes)}; take it?"
        )
        accept = click.confirm(question, err=True)
        with contextlib.suppress(ProblemAnswer):  # It may have been called back meanwhile.
            asked = {"accept": accept, "from": blob.node}
            self._node.ask_again("POST", f"/atoll/v1/blobs/{segment(blob.digest)}/decide", asked, away_s=0.0)

    def _fetch(self, blob: "BlobView") -> bool:
        """Get a whole blob from the node into the folder, and have the node let go of it."""
        from atoll.actors.blobs.manifest import read_address

        if (told := self._steps.pop(_key(blob), None)) is not None:
            told.close()
        where = f"/atoll/v1/blobs/{segment(blob.digest)}?from={segment(blob.node)}"
        with Inbox(self._folder, blob.name, read_address(blob.digest), blob.size_bytes) as inbox:
            # A node elsewhere has no say about files of this host.
            here = self._node.place.socket is not None and blob.path
            if not (here and inbox.adopt(Path(blob.path))):
                self._node.ask("GET", where, take=inbox.append)
            path = inbox.place()
        with contextlib.suppress(ProblemAnswer):  # Another command may have got it, too.
            self._node.ask("DELETE", where)
        if self._as_json:
            facts = {"path": str(path), "digest": blob.digest, "size_bytes": blob.size_bytes}
            print_json(facts | {"node": blob.node, "node_name": blob.node_name})
        else:
            click.echo(f"{shown(path)}  {size(blob.size_bytes)}  {shown(blob.digest)}")
        sys.stdout.flush()
        return True


def _key(blob: "BlobView") -> _Key:
    return blob.digest, blob.node
