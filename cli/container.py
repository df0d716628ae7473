"""`atoll container`: services that run on a node."""

import json
import os

import click

from atoll.cli.connection import connection, for_each, segment
from atoll.cli.image import client_header, client_option
from atoll.cli.options import json_option, node_option
from atoll.cli.output import fail, print_json
from atoll.cli.places import atoll
from atoll.cli.tables import moment, print_table, shown, suggest

LINES_MAX = 1000


@click.group("container")
def command() -> None:
    """Run, list, stop and remove containers."""


@command.command("run")
@click.argument("image", metavar="IMAGE")
@click.option("--name", metavar="NAME", help="What to call it; default: the image's name.")
@click.option(
    "-e",
    "--env",
    "settings",
    multiple=True,
    metavar="K=V",
    help="A setting, as often as needed; K alone takes it from the environment.",
)
@node_option
@client_option
@json_option
def run(
    image: str, name: str | None, settings: tuple[str, ...], node: str | None, client: str | None, *, as_json: bool
) -> None:
    """Make a container of IMAGE and start it; an image that is not there is pulled from the site first."""
    from atoll.actors.gateway.container_views import ContainerReply

    if not image or name == "":
        fail("the name is empty", "write: atoll container run IMAGE --name NAME; see `atoll image list`", code=2)
    wanted = {"name": image.partition(":")[0] if name is None else name, "image": image, "env": _environment(settings)}
    headers = {"content-type": "application/json"} | client_header(client)
    body = json.dumps(wanted).encode()
    answer = connection(node).ask("POST", "/atoll/v1/containers", body=body, headers=headers)
    view = answer.view(ContainerReply).container
    if as_json:
        print_json(answer.plain())
    else:
        click.echo(f"{shown(view.id)}  {shown(view.state)}  {shown(view.path)}")
    if view.pulled_from:
        click.echo(f"pulled {shown(image)} from {shown(view.pulled_from)}", err=True)
    suggest("call it with", atoll(), "call", f"{view.name}@{node}" if node else view.name, "/")
    suggest("stop it with", atoll(), "container", "stop", view.name, node=node)


def _environment(settings: tuple[str, ...]) -> dict[str, str]:
    env = {}
    for each in settings:
        key, equals, value = each.partition("=")
        if not key:
            fail(f"-e {each}: the name is missing", "write it as -e NAME=VALUE", code=2)
        if not equals and key not in os.environ:
            fail(f"-e {key}: there is no such variable here", f"set it, or write -e {key}=VALUE", code=2)
        env[key] = value if equals else os.environ[key]
    return env


@command.command("list")
@node_option
@json_option
def show_containers(node: str | None, *, as_json: bool) -> None:
    """List containers."""
    from atoll.actors.gateway.container_views import ContainersReply

    answer = connection(node).ask("GET", "/atoll/v1/containers")
    containers = answer.view(ContainersReply).containers
    if as_json:
        print_json(answer.plain())
        return
    print_table(
        ("NAME", "IMAGE", "CLIENT", "STATE", "STATUS", "PATH", "CREATED"),
        [(x.name, x.image, x.client, x.state, x.status, x.path, moment(x.created_ms)) for x in containers],
        none="no containers; run one with: atoll container run IMAGE --name NAME",
    )


@command.command("logs")
@click.argument("container", metavar="CONTAINER")
@click.option("--tail", default=100, show_default=True, type=click.IntRange(1, LINES_MAX), help="The newest N lines.")
@click.option("-t", "--timestamps", is_flag=True, help="Put time and stream before each line.")
@node_option
@json_option
def logs(container: str, tail: int, node: str | None, *, timestamps: bool, as_json: bool) -> None:
    """Show what a container wrote."""
    from atoll.actors.gateway.container_views import LogsReply

    answer = connection(node).ask("GET", f"/atoll/v1/containers/{segment(container)}/logs?tail={tail}")
    lines = answer.view(LogsReply).lines
    if as_json:
        print_json(answer.plain())
        return
    for line in lines:
        before = f"{moment(line.at_ms)} {shown(line.stream)}  " if timestamps else ""
        # A tab is harmless, and columns of logs are made of it.
        click.echo(before + "\t".join(map(shown, line.text.split("\t"))))


@command.command("start")
@click.argument("container", metavar="CONTAINER")
@node_option
def start(container: str, node: str | None) -> None:
    """Start a container that was stopped."""
    _turn(container, node, "start", "stop")


@command.command("stop")
@click.argument("container", metavar="CONTAINER")
@node_option
def stop(container: str, node: str | None) -> None:
    """Stop a container; what it stored stays."""
    _turn(container, node, "stop", "start")


def _turn(container: str, node: str | None, verb: str, partner: str) -> None:
    from atoll.actors.gateway.container_views import ContainerReply

    answer = connection(node).ask("POST", f"/atoll/v1/containers/{segment(container)}/{verb}")
    view = answer.view(ContainerReply).container
    click.echo(f"{shown(view.id)}  {shown(view.state)}")
    suggest(f"{partner} it with", atoll(), "container", partner, view.name, node=node)


@command.command("rm")
@click.argument("containers", metavar="CONTAINER...", nargs=-1, required=True)
@node_option
def remove(containers: tuple[str, ...], node: str | None) -> None:
    """Remove containers and what they stored."""
    from atoll.actors.gateway.container_views import ContainerReply

    def remove_one(container: str) -> None:
        answer = connection(node).ask("DELETE", f"/atoll/v1/containers/{segment(container)}")
        click.echo(shown(answer.view(ContainerReply).container.id))

    for_each(containers, remove_one)
