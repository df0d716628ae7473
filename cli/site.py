"""`atoll site`: who belongs to this node's site and who votes; and what only a person may decide for it."""

import json
from typing import TYPE_CHECKING

import click

from atoll.cli.connection import Answer, connection, remedied
from atoll.cli.options import json_option
from atoll.cli.output import Failed, print_json
from atoll.cli.tables import print_facts, print_table, shown

if TYPE_CHECKING:
    from atoll.actors.gateway.site_views import SiteView

_REASON = click.option("--reason", metavar="TEXT", default="", help="Kept and shown. Default: a person says so.")


@click.group("site")
def command() -> None:
    """Show this node's site, reform it, or leave it."""


@command.command("show")
@json_option
def show(*, as_json: bool) -> None:
    """Show members and voters, the roster, and whether a majority stands behind the supernode, and why."""
    _print(connection().ask("GET", "/atoll/v1/site"), as_json=as_json)


@command.command("reform")
@_REASON
@click.option("--yes", is_flag=True, help="Do it; without this it is only told what would be done.")
@click.option("--force", is_flag=True, help="Do it although a majority of the voters lives.")
@json_option
def reform(reason: str, *, yes: bool, force: bool, as_json: bool) -> None:
    """Begin the site anew with this node as its only voter: when a majority of the voters is gone for good."""
    from atoll.actors.gateway.site_views import SiteView

    if not yes:
        before = connection().ask("GET", "/atoll/v1/site").view(SiteView)
        voters = ", ".join(shown(each.name) for each in before.roster.voters) or "nobody"
        click.echo(
            f"The voters of {shown(before.name)} are {voters}; {before.voters_in_reach} of them in reach from here.\n"
            "A reform makes this node the only voter; others are added again as they stay in reach.\n"
            "Whoever still follows the old voters and cannot be reached now may have a second supernode until they "
            "meet: be sure that they are gone."
        )
        raise Failed("nothing was changed", "say it again with --yes")
    with remedied("conflict", "if you are sure that it must be, say it again with --force"):
        answer = _post("reform", {"force": force}, reason)
    _print(answer, as_json=as_json)


@command.command("leave")
@_REASON
@json_option
def leave(reason: str, *, as_json: bool) -> None:
    """Have this node taken out of the voters, before it is switched off for good or for long."""
    _print(_post("leave", {}, reason), as_json=as_json)


def _post(what: str, order: dict[str, object], reason: str) -> Answer:
    body = json.dumps(order | ({"reason": reason} if reason else {})).encode()
    headers = {"content-type": "application/json"}
    return connection().ask("POST", f"/atoll/v1/site/{what}", body=body, headers=headers)


def _print(answer: Answer, *, as_json: bool) -> None:
    from atoll.actors.gateway.site_views import SiteView

    view = answer.view(SiteView)
    if as_json:
        print_json(answer.plain())
        return
    _facts(view)
    click.echo("")
    print_table(
        ("MEMBER", "ID", "BY", "ROLE"),
        [
            (
                each.name,
                each.short,
                each.route,
                ", ".join(
                    role
                    for role, is_it in (
                        ("this node", each.self),
                        ("voter", each.voter),
                        ("supernode", each.supernode),
                    )
                    if is_it
                ),
            )
            for each in view.members
        ],
        none="no members",
    )


def _facts(view: "SiteView") -> None:
    roster = view.roster
    supernode = view.supernode
    print_facts(
        [
            ("site", f"{view.name} {view.id}"),
            ("mode", view.mode),
            ("why", view.why),
            ("supernode", f"{supernode.name}, epoch {supernode.epoch}" if supernode else "none"),
            ("voters", f"{view.voters_in_reach} of {len(roster.voters)} in reach"),
            ("roster", f"version {roster.version}, incarnation {roster.incarnation}" if roster.version else "none"),
            ("because", roster.reason),
            ("change", roster.change),
        ]
    )
