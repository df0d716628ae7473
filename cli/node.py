"""`atoll node`: run one, and the nodes that one sees."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atoll.cli.options import json_option, node_name, within_option
from atoll.cli.output import Failed, print_json
from atoll.cli.process import config_of, flags_given, loading, process_options
from atoll.cli.tables import print_facts, print_table, size, span

if TYPE_CHECKING:
    from atoll.actors.gateway.node_views import HostView
    from atoll.node import Node

SCOPES = ("link-local", "account", "proximity")


@click.group("node")
def command() -> None:
    """Run a node, and show nodes."""


@command.command("run")
@process_options
def run(file: Path | None, flags: tuple[str, ...], *, log_json: bool) -> None:
    """Run a node until told to end; with no config at all it finds the others on this network."""
    with loading():
        config: Any = config_of("node", file, flags_given(flags))

        from atoll.cli.foreground import run_in_foreground, set_up_log
        from atoll.node import Node

    set_up_log(config.log_level, as_json=log_json)

    def said(node: "Node") -> str:
        return (
            f"node {config.name} ({node.id.short}) of site {config.site.name}: {', '.join(node.gateway.addresses)}\n"
            f"look at it: atoll --at {config.api_socket} status"
        )

    run_in_foreground(
        lambda: Node.open(config),
        said,
        remedy="`atoll config show --origin` lists the settings; a taken port: --set links.port=0 --set gateway.port=0",
    )


@command.command("list")
@click.option("--scope", type=click.Choice(SCOPES), default=SCOPES[0], show_default=True, help="Which nodes.")
@json_option
def show_nodes(scope: str, *, as_json: bool) -> None:
    """List nodes: of the local network, of the account, or near by."""
    from atoll.actors.gateway.node_views import NodesReply
    from atoll.cli.connection import connection

    answer = connection().ask("GET", f"/atoll/v1/nodes?scope={scope}")
    nodes = answer.view(NodesReply).nodes
    if as_json:
        print_json(answer.plain())
        return
    print_table(
        ("NAME", "SITE", "ID", "STANDING", "STATE", "BY", "SEEN", "ROLE"),
        [
            (
                each.name,
                each.site,
                each.short,
                each.standing,
                each.state,
                each.route,
                f"{span(each.seen_s_ago)} ago" if each.seen_s_ago is not None else "",
                ", ".join(role for role, is_it in (("this node", each.self), ("supernode", each.supernode)) if is_it),
            )
            for each in nodes
        ],
        none=f"no nodes in the scope {scope}",
    )


@command.command("show")
@click.argument("node", metavar="NODE", type=node_name)
@json_option
def show_node(node: str, *, as_json: bool) -> None:
    """Show one node, by its name, site/name or id."""
    from atoll.actors.gateway.node_views import NodeReply
    from atoll.cli.connection import connection, segment

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
            ("state", f"{view.state}: {view.state_why}" if view.state_why else view.state),
            ("this node", "yes" if view.self else "no"),
            ("supernode", "yes" if view.supernode else "no"),
            ("addresses", ", ".join(view.addresses)),
            ("by", view.route),
            ("why", view.why),
            ("services", ", ".join(f"{each.name} at {each.path}" for each in view.services)),
            ("seen", f"{span(view.seen_s_ago)} ago" if view.seen_s_ago is not None else ""),
            *(_host(view.host) if view.host else ()),
        ]
    )


def _host(host: "HostView") -> "list[tuple[str, object]]":
    battery = "" if host.battery_percent is None else f", battery at {host.battery_percent:g} %"
    interfaces = "; ".join(
        f"{each.name} ({'wired' if each.wired else 'radio'}{f', {each.speed_mbps} Mb/s' if each.speed_mbps else ''})"
        + (f" {' '.join(each.addresses)}" if each.addresses else "")
        for each in host.interfaces
    )
    return [
        ("system", f"{host.system} on {host.machine}, up {span(host.up_s)}"),
        ("processor", f"{host.processor or 'unknown'}, {host.cores} cores, {host.processors_idle:g} idle"),
        ("memory", f"{size(host.memory_free_bytes)} of {size(host.memory_bytes)} free"),
        ("storage", f"{size(host.storage_free_bytes)} of {size(host.storage_bytes)} free"),
        ("power", f"{'mains' if host.on_mains else 'battery'}{battery}"),
        ("network", interfaces),
        ("accelerators", ", ".join(host.accelerators) or "none"),
    ]


@command.command("drain")
@within_option("How long others may take to take everything over.")
@click.option("--undo", is_flag=True, help="Let it hold duties and preside again.")
@json_option
def drain(within_s: float, *, undo: bool, as_json: bool) -> None:
    """Give the node's duties and the supernode's place to others; it takes none until `--undo` or a restart."""
    import json

    from atoll.actors.gateway.node_views import DrainReply
    from atoll.cli.connection import connection

    body = json.dumps({"draining": not undo, "within_s": within_s}).encode()
    headers = {"content-type": "application/json"}
    answer = connection().ask("POST", "/atoll/v1/drain", body=body, headers=headers)
    view = answer.view(DrainReply)
    if as_json:
        print_json(answer.plain())
    elif undo:
        click.echo("it may hold duties and preside again")
    else:
        print_table(
            ("WHAT", "NOW AT", "TOOK", "PAUSE"),
            [(each.what, each.name, f"{each.took_ms:.0f} ms", f"{each.pause_ms:.0f} ms") for each in view.moved],
            none="it held nothing that others do" if not view.stayed else "nothing was moved",
        )
    if view.stayed:
        left = "; ".join(f"{each.what}: {each.why}" for each in view.stayed)
        raise Failed(
            f"not everything was moved: {left}", "start another node of this site, or try again with --within 60"
        )
