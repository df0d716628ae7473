"""`atoll cloud run`: the cloud's actors in the foreground."""

from pathlib import Path
from typing import Any

import click

from atoll.cli.process import config_of, flags_given, loading, process_options


@click.group("cloud")
def command() -> None:
    """Run a cloud: directory, signaling and enrolment."""


@command.command("run")
@process_options
def run(file: Path | None, flags: tuple[str, ...], *, log_json: bool) -> None:
    """Serve sites and relays until told to end; its records are one SQLite file."""
    with loading():
        config: Any = config_of("cloud", file, flags_given(flags))

        from atoll.cli.foreground import run_in_foreground, set_up_log
        from atoll.node import open_cloud

    set_up_log(config.log_level, as_json=log_json)
    run_in_foreground(
        lambda: open_cloud(config),
        lambda cloud: (
            f"cloud {cloud.id} on {config.listen}:{cloud.port}, store {config.store_file}\n"
            f'nodes and relays pin it: [cloud] id = "{cloud.id}"'
        ),
        remedy="`atoll config show --kind cloud` lists the settings; another port: --set port=0",
    )
