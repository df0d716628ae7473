"""Options that many commands have; apart from `connection.py`, which commands that run a process do not want."""

from collections.abc import Callable
from typing import Any

import click


def node_name(text: str) -> str:
    """Take what names a node; empty is none, and not this one: it may come of a variable that is not set."""
    if not text.strip():
        raise click.BadParameter("it names no node; is a variable of yours empty?")
    return text


node_option = click.option(
    "--node", metavar="NODE", type=node_name, help="Another node: its name, site/name or id. Default: this one."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def within_option(help_: str) -> Callable[[Any], Any]:
    """Make the option that bounds how long something may take, in seconds."""
    return click.option(
        "--within",
        "within_s",
        metavar="SECONDS",
        type=click.FloatRange(0.1, 300),
        default=10.0,
        show_default=True,
        help=help_,
    )
