"""`atoll status`: health first, then who is what and why, then the ways to others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import click

from atoll.cli.connection import connection
from atoll.cli.options import json_option, node_option
from atoll.cli.output import print_json
from atoll.cli.tables import millis, print_table, shown, size, span

if TYPE_CHECKING:
    from atoll.actors.gateway.node_views import PathView, RouteView, StatusView

Table: TypeAlias = tuple[str, Sequence[str], Sequence[Sequence[object]]]


@click.command("status")
@node_option
@json_option
def command(node: str | None, *, as_json: bool) -> None:
    """Show a node's health: supernode and why, duties, links, the way to every peer, paths, SEPs and BEPs.

    A path names its relay, or is `direct` or `punched`; THROUGH says by which other door of the relay it goes, and why.
    """
    from atoll.actors.gateway.node_views import StatusView

    answer = connection(node).ask("GET", "/atoll/v1/status")
    status = answer.view(StatusView)
    if as_json:
        print_json(answer.plain())
        return
    for line in _summary(status):
        click.echo(line)
    tables: list[Table] = [
        ("Duties", ("DUTY", "NODE", "WHY"), [(x.duty, x.name, x.why) for x in status.duties]),
        (
            "Links",
            ("PEER", "ID", "STANDING", "HOST", "FOR"),
            [(x.name, x.peer[:10], x.standing, x.host, span(x.since_s)) for x in status.links],
        ),
        (
            "Ways",
            ("PEER", "ID", "BY", "LATENCY", "WHY"),
            [(x.name, x.peer[:10], x.kind, millis(x.latency_ms), _why(x)) for x in status.routes],
        ),
        (
            "Paths",
            ("PEER", "RELAY", "KIND", "STATE", "LATENCY", "STREAMS", "THROUGH"),
            [
                (x.name, y.relay, y.kind, _state(y), millis(y.latency_ms), _of(x, y), y.through)
                for x in status.routes
                for y in x.paths
            ],
        ),
        (
            "SEPs",
            ("RELAY", "STATE", "FOR", "WHY"),
            [(x.relay, x.state, span(x.since_s), x.why) for x in status.seps],
        ),
        (
            "BEPs",
            ("PEER", "RELAY", "FOR", "SENT", "RECEIVED"),
            [(x.name, x.relay, span(x.since_s), size(x.sent_bytes), size(x.received_bytes)) for x in status.beps],
        ),
    ]
    for title, heads, rows in tables:
        if rows:
            click.echo(f"\n{title}")
            print_table(heads, rows, none="")


def _state(path: "PathView") -> str:
    return "in use" if path.in_use else path.condition


def _why(route: "RouteView") -> str:
    """Say why a way is used, and why not a better one."""
    return "; ".join(filter(None, (route.why, route.punching if route.kind != "punched" else "")))


def _of(route: "RouteView", path: "PathView") -> str:
    """Give how many streams go over a path."""
    return str(route.streams) if path.in_use and route.streams else ""


def _summary(status: "StatusView") -> list[str]:
    problems = [f"! {shown(each)}" for each in status.problems]
    count = len(problems)
    lines = [f"{count} problem{'s' if count > 1 else ''}" if problems else "healthy", *problems]
    node, site = status.node, status.site
    lines.append(f"node       {shown(node.name)} {node.short} (atoll {shown(status.software)})")
    lines.append(f"site       {shown(site.name or '-')} {shown(site.id)}, {shown(site.mode)}, {site.members} members")
    if supernode := status.supernode:
        who = "this node" if supernode.node == node.id else shown(supernode.name)
        confirmed = "confirmed" if supernode.confirmed else "not confirmed by a majority yet"
        lines.append(f"supernode  {who}, epoch {supernode.epoch}, {confirmed}: {shown(supernode.why)}")
    else:
        lines.append("supernode  none yet")
    if roster := status.roster:
        lines.append(f"voters     {', '.join(shown(each.name) for each in roster.voters)} (roster {roster.version})")
        lines += [f"           {shown(each)}" for each in (roster.reason, roster.change) if each]
    return lines
