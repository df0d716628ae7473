"""`atoll node`: the nodes that a node sees."""

import click

from atoll.cli.connection import connection, json_option, segment
from atoll.cli.output import print_json
from atoll.cli.tables import print_facts, print_table, span

SCOPES = ("link-local", "account", "proximity")


@click.group("node")
def command() -> None:
    """Show nodes."""


@command.command("list")
@click.option("--scope", type=click.Choice(SCOPES), default=SCOPES[0], show_default=True, help="Which nodes.")
@json_option
def show_nodes(scope: str, *, as_json: bool) -> None:
    """List nodes: of the local network, of the account, or near by."""
    from atoll.actors.gateway.views import NodesReply

    answer = connection().ask("GET", f"/atoll/v1/nodes?scope={scope}")
    nodes = answer.view(NodesReply).nodes
    if as_json:
        print_json(answer.plain())
        return
    print_table(
        ("NAME", "SITE", "ID", "STANDING", "BY", "SEEN", "ROLE"),
        [
            (
                each.name,
                each.site,
                each.short,
                each.standing,
                each.route,
                f"{span(each.seen_s_ago)} ago" if each.seen_s_ago is not None else "",
                ", ".join(role for role, is_it in (("this node", each.self), ("supernode", each.supernode)) if is_it),
            )
            for each in nodes
        ],
        none=f"no nodes in the scope {scope}",
    )


@command.command("show")
@click.argument("node", metavar="NODE")
@json_option
def show_node(node: str, *, as_json: bool) -> None:
    """Show one node, by its name, site/name or id."""
    from atoll.actors.gateway.views import NodeReply

    answer = connection().ask("GET", f"/atoll/v1/nodes/{segment(node)}")
    view = answer.view(NodeReply).node
    if as_json:
        print_json(answer.plain())
        return
    print_facts(
        [
            ("name", view.name),
            ("site", view.site),
            ("id", view.id),
            ("standing", view.standing),
            ("this node", "yes" if view.self else "no"),
            ("supernode", "yes" if view.supernode else "no"),
            ("addresses", ", ".join(view.addresses)),
            ("by", view.route),
            ("why", view.why),
            ("seen", f"{span(view.seen_s_ago)} ago" if view.seen_s_ago is not None else ""),
        ]
    )
