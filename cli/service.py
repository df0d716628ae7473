"""`atoll service`: what can be called."""

import click

from atoll.cli.connection import connection
from atoll.cli.options import json_option, node_option
from atoll.cli.output import print_json
from atoll.cli.tables import print_table


@click.group("service")
def command() -> None:
    """Show services that can be called."""


@command.command("list")
@node_option
@json_option
def show_services(node: str | None, *, as_json: bool) -> None:
    """List services with their paths."""
    from atoll.actors.gateway.container_views import ServicesReply

    answer = connection(node).ask("GET", "/atoll/v1/services")
    services = answer.view(ServicesReply).services
    if as_json:
        print_json(answer.plain())
        return
    print_table(
        ("NAME", "NODE", "PATH", "STATE", "CONTAINER"),
        [(each.name, each.node_name, each.path, each.state, each.container) for each in services],
        none="no services; start one with: atoll container run IMAGE --name NAME",
    )
