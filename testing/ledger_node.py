"""`python -m atoll.testing.ledger_node --config FILE`: a node of the lab, which hosts the `Ledger`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click

from atoll.cli.foreground import run_in_foreground, set_up_log
from atoll.cluster_specs.config import NodeConfig, read_config
from atoll.node import Node
from atoll.testing.ledger import LEDGER, Ledger


@asynccontextmanager
async def hosting(config: NodeConfig) -> AsyncIterator[Node]:
    """Run the node."""
    async with Node.open(config) as node:
        node.host(Ledger, LEDGER)
        yield node


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True)
def command(config: Path) -> None:
    """Run one until told to end."""
    told = read_config(NodeConfig, config).config
    set_up_log(told.log_level, as_json=False)
    run_in_foreground(lambda: hosting(told), lambda node: f"{node.id.short} hosts {LEDGER}", remedy="see above")


if __name__ == "__main__":
    command()
