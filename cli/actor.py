"""`atoll actor`: the actors of the site that move: where they are, how they are; to move and to end one."""

import json
from typing import TYPE_CHECKING

import click

from atoll.cli.connection import ANSWER_S, connection, remedied, segment
from atoll.cli.options import json_option, node_name, within_option
from atoll.cli.output import Failed, print_json
from atoll.cli.tables import millis, print_facts, print_table, shown

if TYPE_CHECKING:
    from atoll.actors.gateway.actor_views import ActorRemovedReply, ActorView

_BASE = "/atoll/v1/actors"
_HEADERS = {"content-type": "application/json"}


@click.group("actor")
def command() -> None:
    """Show, move and remove actors of this node's site."""


@command.command("list")
@json_option
def show_actors(*, as_json: bool) -> None:
    """List the actors that move: where each is, and how it is."""
    from atoll.actors.gateway.actor_views import ActorsReply

    answer = connection().ask("GET", _BASE)
    reply = answer.view(ActorsReply)
    if as_json:
        print_json(answer.plain())
        return
    print_table(
        ("NAME", "CLASS", "KIND", "HOST", "STATE", "PAUSE", "WHY"),
        [
            (each.name, each.class_name, each.kind, each.host.name, each.state, millis(each.paused_ms), each.why)
            for each in reply.actors
        ],
        none="no actors that move; host one with: node.host(Class, 'name')",
    )
    _unsure(reply.why)


@command.command("show")
@click.argument("name", metavar="NAME")
@json_option
def show_actor(name: str, *, as_json: bool) -> None:
    """Show one actor, with its generation and who keeps its log. A keeper that lacks something of it is behind."""
    from atoll.actors.gateway.actor_views import ActorReply

    answer = connection().ask("GET", f"{_BASE}/{segment(name)}")
    reply = answer.view(ActorReply)
    if as_json:
        print_json(answer.plain())
        return
    print_facts(_facts(reply.actor))
    _unsure(reply.why)


def _facts(view: "ActorView") -> list[tuple[str, object]]:
    return [
        ("name", view.name),
        ("class", view.class_name or "not known"),
        ("kind", view.kind),
        ("host", f"{view.host.name} {view.host.short}"),
        ("state", f"{view.state}: {view.why}" if view.why else view.state),
        ("founded", f"in generation {view.founded}" if view.founded else "not known"),
        ("generation", view.generation),
        ("stores", _stores(view) or "none: its state is with its host"),
        ("last pause", millis(view.paused_ms)),
    ]


def _stores(view: "ActorView") -> str:
    return ", ".join(f"{each.name} (behind)" if each in view.behind else each.name for each in view.stores)


def _unsure(why: str) -> None:
    if why:
        click.echo(f"this is what the node heard last: {shown(why)}", err=True)


@command.command("move")
@click.argument("name", metavar="NAME")
@click.option("--to", metavar="NODE", type=node_name, required=True, help="A member of the site, by its name or id.")
@within_option("How long it may take.")
@json_option
def move(name: str, to: str, within_s: float, *, as_json: bool) -> None:
    """Move an actor with its state to another member that knows its class, and say how long it paused."""
    from atoll.actors.gateway.actor_views import ActorMovedReply

    body = json.dumps({"to": to, "within_s": within_s}).encode()
    node = connection(answer_s=within_s + ANSWER_S)
    answer = node.ask("POST", f"{_BASE}/{segment(name)}/move", body=body, headers=_HEADERS)
    view = answer.view(ActorMovedReply)
    if as_json:
        print_json(answer.plain())
    else:
        click.echo(f"{shown(view.name)} is on {shown(view.host.name)}; it paused for {view.paused_ms:.1f} ms")


@command.command("remove")
@click.argument("name", metavar="NAME")
@click.option("--yes", is_flag=True, help="Do it; without this it is only told what would be lost.")
@click.option(
    "--force",
    is_flag=True,
    help="Do it although its host gives no answer. One that is only cut off may answer calls until it hears of it, and "
    "these are lost.",
)
@click.option(
    "--founded",
    metavar="GENERATION",
    type=click.IntRange(min=1),
    help="Only the one that was founded in that generation, as `show` says: one of that name begun later stays.",
)
@json_option
def remove(name: str, *, yes: bool, force: bool, founded: int | None, as_json: bool) -> None:
    """End an actor for good: its state is lost, and its log on all nodes that keep it."""
    from atoll.actors.gateway.actor_views import ActorRemovedReply, ActorReply

    node = connection()
    path = f"{_BASE}/{segment(name)}"
    if founded is None or not yes:
        actor = node.ask("GET", path).view(ActorReply).actor
        founded = founded or actor.founded
        if not yes:
            click.echo(_loss(actor))
            raise Failed("nothing was changed", "say it again with --yes")
    say_it_again = f"say it again with --founded {founded}" if founded else "say it again"
    again = f"{say_it_again} when a majority of the voters is in reach: see `atoll site show`"
    with remedied("conflict", again if force else f"{say_it_again}; if its host is gone for good, with --force, too"):
        answer = node.ask("DELETE", f"{path}?force={str(force).lower()}&founded={founded}")
    removed = answer.view(ActorRemovedReply)
    if as_json:
        print_json(answer.plain())
    else:
        click.echo(f"{shown(removed.name)} was removed{_since(removed)}")


def _since(removed: "ActorRemovedReply") -> str:
    if removed.founded_since is None:
        return ""
    return f" before; another one of that name was founded since, in generation {removed.founded_since}, and stays"


def _loss(view: "ActorView") -> str:
    """Say what is lost when the actor is removed."""
    logs = ", ".join(shown(each.name) for each in view.stores)
    return (
        f"{shown(view.name)} is a {view.kind} {shown(view.class_name) or 'actor'} on {shown(view.host.name)}.\n"
        f"Its state is lost{f', and its log on {logs}' if logs else ''}. Programs that host it from then on begin "
        "a new one, which is empty."
    )
