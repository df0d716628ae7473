"""`atoll image`: images of services on a node."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from atoll.cli.connection import Answer, connection, for_each, json_option, node_option, segment
from atoll.cli.output import JSON_VERSION, Failed, fail, print_json
from atoll.cli.places import atoll
from atoll.cli.tables import moment, print_table, shown, size, suggest
from atoll.cli.uploads import ImageForm

if TYPE_CHECKING:
    from atoll.actors.gateway.views import PullReply

PUSH_S = 120.0
"""For the node to take a piece, and to unpack the image at the end."""
PULL_S = 900.0
PULL_WAIT_MS = 5_000
"""For the node to say how far it is, when that goes into a log;"""
PULL_TELL_MS = 1_000
"""when a program reads it;"""
PULL_LOOK_MS = 300
"""and when somebody watches."""
client_option = click.option("--client", metavar="NAME", help="The client it belongs to; default: api.")


def client_header(client: str | None) -> dict[str, str]:
    """Name the client that images and containers belong to."""
    return {"x-client-id": client} if client else {}


@click.group("image")
def command() -> None:
    """Push, pull, list and remove images of services."""


@command.command("push")
@click.argument("tar", metavar="TAR")
@node_option
@client_option
@json_option
def push(tar: str, node: str | None, client: str | None, *, as_json: bool) -> None:
    """Push TAR, an image as `docker save` writes it; `-` reads it from a pipe."""
    from atoll.actors.gateway.views import ImageReply

    with _opened(tar) as (file, length), _progress(tar, length) as bar:
        form = ImageForm(file, length, bar)
        headers = form.headers() | client_header(client)
        answer = connection(node, answer_s=PUSH_S).ask("POST", "/atoll/v1/images", body=form, headers=headers)
    image = answer.view(ImageReply).image
    if as_json:
        print_json(answer.plain())
    else:
        tags = ", ".join(tag for tag in image.repo_tags if not tag.startswith("runtime:"))
        click.echo(f"{shown(image.id)}  {shown(tags)}  {shown(image.digest)}  {size(image.size_bytes)}")
    suggest("run it with", atoll(), "container", "run", image.name, "--name", image.name, node=node)


@contextlib.contextmanager
def _opened(tar: str) -> Iterator[tuple[IO[bytes], int | None]]:
    if tar == "-":
        yield sys.stdin.buffer, None
        return
    path = Path(tar)
    try:
        if path.is_dir():
            fail(f"{tar} is a folder", "name the tar that `docker save -o FILE IMAGE` writes", code=2)
        length = path.stat().st_size if path.is_file() else None
        file = path.open("rb")
    except OSError as error:
        fail(f"{tar}: {error.strerror}", "name the tar that `docker save -o FILE IMAGE` writes", code=2)
    with file:
        yield file, length


@contextlib.contextmanager
def _progress(name: str, length: int | None) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty() or length is None:
        yield _nothing
        return
    with click.progressbar(length=length, label=shown(name), file=sys.stderr) as bar:
        yield bar.update


def _nothing(_count: int) -> None:
    """Show no progress: nobody watches."""


@command.command("pull")
@click.argument("image", metavar="NAME[:VERSION]")
@click.option("--from", "source", metavar="NODE", help="The node whose image it shall be. Default: whoever has it.")
@node_option
@client_option
@json_option
def pull(image: str, source: str | None, node: str | None, client: str | None, *, as_json: bool) -> None:
    """Pull an image from another node of the site, by way of its cache."""
    answer, reply = _pulled(image, source or "", node, client, as_json=as_json)
    if as_json:
        print_json(answer.plain())
    elif (held := reply.image) is not None:
        origin = "the cache at " if reply.cached else ""
        click.echo(f"{shown(held.id)}  {shown(held.repo_tags[0])}  {shown(held.digest)}  {size(held.size_bytes)}")
        click.echo(f"pulled from {origin}{shown(reply.source_name)}", err=True)
    suggest("run it with", atoll(), "container", "run", image, "--name", image.partition(":")[0], node=node)


def _pulled(
    image: str, source: str, node: str | None, client: str | None, *, as_json: bool
) -> "tuple[Answer, PullReply]":
    from atoll.actors.gateway.views import PullReply

    headers = {"content-type": "application/json"} | client_header(client)
    watched = sys.stderr.isatty() and not as_json
    wait_ms = PULL_LOOK_MS if watched else PULL_TELL_MS if as_json else PULL_WAIT_MS
    body = json.dumps({"image": image, "from": source, "wait_ms": wait_ms}).encode()
    deadline = time.monotonic() + PULL_S
    with contextlib.ExitStack() as stack:
        told = stack.enter_context(_Bars(image)) if watched else _Lines(image, as_json=as_json)
        while time.monotonic() < deadline:
            answer = connection(node).ask("POST", "/atoll/v1/images/pull", body=body, headers=headers)
            reply = answer.view(PullReply)
            if reply.image is not None:
                return answer, reply
            if reply.size_bytes:
                told.show(reply, _got(reply))
    raise Failed(f"{image} is still on its way after {PULL_S:g} s", "run the same command again to wait on")


def _got(reply: "PullReply") -> int:
    """Say how many bytes are where they are wanted next: at the cache first, and then here."""
    return min(reply.size_bytes, reply.cache_bytes if _at_cache(reply) else reply.got_bytes)


def _at_cache(reply: "PullReply") -> bool:
    return reply.cached and not reply.got_bytes


def _whose(reply: "PullReply") -> str:
    if _at_cache(reply):
        return f"the cache at {shown(reply.source_name)} gets it"
    return f"from {'the cache at ' if reply.cached else ''}{shown(reply.source_name)}"


class _Lines:
    """How far a pull is, as lines on stderr: JSON for programs, words for logs; one for each step."""

    def __init__(self, image: str, *, as_json: bool) -> None:
        self.image = image
        self.as_json = as_json
        self.last: object = None

    def show(self, reply: "PullReply", got: int) -> None:
        step = _at_cache(reply), got
        if step == self.last:
            return
        self.last = step
        share = got / reply.size_bytes
        if self.as_json:
            done = {"got_bytes": got, "size_bytes": reply.size_bytes, "share": round(share, 3)}
            where = {"at": "cache" if _at_cache(reply) else "here", "source_name": reply.source_name}
            click.echo(json.dumps({"version": JSON_VERSION, "progress": done | where}), err=True)
        else:
            part = f"{size(got)} of {size(reply.size_bytes)} ({share:.0%})"
            click.echo(f"{shown(self.image)}: {part}, {_whose(reply)}", err=True)


class _Bars(contextlib.ExitStack):
    """The same as a bar on a terminal: one while the cache gets it, one while it comes here."""

    def __init__(self, image: str) -> None:
        super().__init__()
        self.image = image
        self.whose = ""
        self.seen = 0
        self.bar: Callable[[int], None] = _nothing

    def show(self, reply: "PullReply", got: int) -> None:
        if (whose := _whose(reply)) != self.whose or got < self.seen:
            self.close()
            self.whose, self.seen = whose, 0
            self.bar = self.enter_context(_progress(f"{self.image}, {whose}", reply.size_bytes))
        self.bar(got - self.seen)
        self.seen = got


@command.command("list")
@node_option
@json_option
def show_images(node: str | None, *, as_json: bool) -> None:
    """List images."""
    from atoll.actors.gateway.views import ImagesReply

    answer = connection(node).ask("GET", "/atoll/v1/images")
    images = answer.view(ImagesReply).images
    if as_json:
        print_json(answer.plain())
        return
    print_table(
        ("NAME", "TAGS", "CLIENT", "SIZE", "CREATED", "DIGEST"),
        [
            (x.name, ", ".join(x.repo_tags), x.client, size(x.size_bytes), moment(x.created_ms), x.digest[:19])
            for x in images
        ],
        none="no images; push one with: atoll image push TAR",
    )


@command.command("rm")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@node_option
def remove(images: tuple[str, ...], node: str | None) -> None:
    """Remove images that no container uses."""
    from atoll.actors.gateway.views import ImageReply

    def remove_one(image: str) -> None:
        answer = connection(node).ask("DELETE", f"/atoll/v1/images/{segment(image)}")
        click.echo(shown(answer.view(ImageReply).image.id))

    for_each(images, remove_one)
