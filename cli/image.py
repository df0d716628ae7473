"""`atoll image`: images of services on a node."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from atoll.cli.connection import Answer, connection, for_each, segment
from atoll.cli.options import json_option, node_name, node_option
from atoll.cli.output import Failed, fail, print_json
from atoll.cli.places import atoll
from atoll.cli.progress import is_watched, progress_bar, steps, wait_ms
from atoll.cli.tables import moment, print_table, shown, size, suggest
from atoll.cli.uploads import ImageForm

if TYPE_CHECKING:
    from atoll.actors.gateway.container_views import PullReply

PUSH_S = 120.0
"""For the node to take a piece, and to unpack the image at the end."""
PULL_S = 900.0
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
    from atoll.actors.gateway.container_views import ImageReply

    with _opened(tar) as (file, length), progress_bar(tar, length) as bar:
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


@command.command("pull")
@click.argument("image", metavar="NAME[:VERSION]")
@click.option(
    "--from",
    "source",
    metavar="NODE",
    type=node_name,
    help="The node whose image it shall be. Default: whoever has it.",
)
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
    from atoll.actors.gateway.container_views import PullReply

    headers = {"content-type": "application/json"} | client_header(client)
    watched = is_watched(as_json=as_json)
    body = json.dumps({"image": image, "from": source, "wait_ms": wait_ms(as_json=as_json)}).encode()
    deadline = time.monotonic() + PULL_S
    with contextlib.ExitStack() as stack:
        told = stack.enter_context(steps(image, as_json=as_json, watched=watched))
        while time.monotonic() < deadline:
            answer = connection(node).ask("POST", "/atoll/v1/images/pull", body=body, headers=headers)
            reply = answer.view(PullReply)
            if reply.image is not None:
                return answer, reply
            if reply.size_bytes:
                place = "cache" if _at_cache(reply) else "here"
                told.show(_whose(reply), _got(reply), reply.size_bytes, at=place, source_name=reply.source_name)
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


@command.command("list")
@node_option
@json_option
def show_images(node: str | None, *, as_json: bool) -> None:
    """List images."""
    from atoll.actors.gateway.container_views import ImagesReply

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
    from atoll.actors.gateway.container_views import ImageReply

    def remove_one(image: str) -> None:
        answer = connection(node).ask("DELETE", f"/atoll/v1/images/{segment(image)}")
        click.echo(shown(answer.view(ImageReply).image.id))

    for_each(images, remove_one)
