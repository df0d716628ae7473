"""`atoll config`: every setting of a process, and where it came from."""

from pathlib import Path
from typing import Any

import click

from atoll.cli.options import json_option
from atoll.cli.output import fail, print_json
from atoll.cli.process import flags_given
from atoll.cli.tables import print_table

KINDS = ("node", "relay", "cloud")


@click.group("config")
def command() -> None:
    """Show settings."""


@command.command("show")
@click.option("--origin", is_flag=True, help="Say where each one came from: default, file, environment, flag.")
@click.option("--kind", type=click.Choice(KINDS), default="node", show_default=True, help="Of which process.")
@click.option(
    "--config", "file", envvar="ATOLL_CONFIG", type=click.Path(path_type=Path), metavar="FILE", help="A config file."
)
@click.option("--set", "flags", multiple=True, metavar="SETTING=VALUE", help="A flag that the process would get.")
@json_option
def show(kind: str, file: Path | None, flags: tuple[str, ...], *, origin: bool, as_json: bool) -> None:
    """Show the settings a process started here and now would have; secrets are not shown."""
    from atoll.cluster_specs import SpecInvalid, read_config
    from atoll.cluster_specs.config import KINDS as CONFIGS

    given = flags_given(flags)
    try:
        lines = list(read_config(CONFIGS[kind], file, flags=given).lines())
    except SpecInvalid as error:
        source = "mend it" if file or flags else "name a config file with --config, or a setting with --set"
        fail(str(error), f"{source}, and run this again", code=2)
    if as_json:
        settings = [{"setting": path, "value": value, "origin": source} for path, value, source in lines]
        print_json({"kind": kind, "settings": settings})
    elif origin:
        print_table(("SETTING", "VALUE", "ORIGIN"), [(x, _worded(y), z) for x, y, z in lines], none="")
    else:
        print_table(("SETTING", "VALUE"), [(path, _worded(value)) for path, value, _ in lines], none="")


def _worded(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
