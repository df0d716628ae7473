"""`atoll relay`: a relay in the foreground, and how it is doing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atoll.cli.options import json_option
from atoll.cli.output import fail, print_json
from atoll.cli.process import config_of, flags_given, process_options

if TYPE_CHECKING:
    from atoll.actors.tunnel_relay.relay import Relay

PORT = click.IntRange(0, 65535)


@click.group("relay")
def command() -> None:
    """Run a relay, and see how it is doing."""


@command.command("status")
@click.option(
    "--config",
    "file",
    envvar="ATOLL_CONFIG",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The relay's config file.",
)
@click.option("--url", metavar="URL", help="Where its metrics are, when no config says so.")
@json_option
def status(file: Path | None, url: str | None, *, as_json: bool) -> None:
    """Show how busy the relay on this host is, and whom it refused why; its `metrics.port` must be open."""
    from atoll.cli.relay_status import read_status, show_status

    if url is None:
        config: Any = config_of("relay", file, {}, remedy="name its config file, or its metrics with --url")
        if config.metrics.port <= 0:
            fail(
                "this relay tells nobody how it is doing",
                "set metrics.port in its config and start it again, or name the URL of its metrics with --url",
            )
        host = f"[{config.metrics.host}]" if ":" in config.metrics.host else config.metrics.host
        url = f"http://{host}:{config.metrics.port}"
    found = read_status(url)
    if as_json:
        print_json(found)
    else:
        show_status(found)


@command.command("unit")
@click.option(
    "--config",
    "file",
    default="/etc/atoll/relay.toml",
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the relay's config will be.",
)
def unit(file: Path) -> None:
    """Print a systemd unit that runs this relay: as a user of its own, with little else than its ports."""
    from atoll.cli.relay_unit import DRAIN_S, in_a_home, program, relay_unit
    from atoll.transport.errors import UsageError

    config: Any = config_of("relay", file, {}) if file.exists() else None
    try:
        click.echo(relay_unit(file, DRAIN_S if config is None else config.drain_s), nl=False)
    except UsageError as error:
        fail(str(error), "see `atoll relay unit --help`", code=2)
    if in_a_home(program()):
        click.echo(f"atoll: {program()} is in a home, which the unit cannot reach: install it below /opt", err=True)


@command.command("run")
@process_options
@click.option("--issuer", metavar="NODE_ID", help="The id of the cloud whose tickets this relay takes.")
@click.option("--host", metavar="ADDRESS", help="Where to listen.")
@click.option("--sep-port", type=PORT, help="0 means any free one.")
@click.option("--bearer-port", type=PORT, help="0 means any free one.")
def run(  # noqa: PLR0917 - click's options
    file: Path | None,
    flags: tuple[str, ...],
    issuer: str | None,
    host: str | None,
    sep_port: int | None,
    bearer_port: int | None,
    *,
    log_json: bool,
) -> None:
    """Serve both ports until told to end; tickets are checked off line, and no disk is needed but for the key.

    Interrupt (SIGINT) ends it at once; SIGTERM lets those who are here move to another relay first, for at most
    `drain_s`, and a second one ends it at once.
    """
    named: dict[str, Any] = {"cloud.id": issuer, "listen": host, "sep_port": sep_port, "bearer_port": bearer_port}
    given = {setting: value for setting, value in named.items() if value is not None}
    nothing_known = issuer is None and file is None and not flags
    config: Any = config_of(
        "relay",
        file,
        {**flags_given(flags), **given},
        remedy="say whose tickets it takes, with --issuer NODE_ID (`atoll cloud run` prints it), or name a config file"
        if nothing_known
        else "",
    )

    from atoll.actors.tunnel_relay.open_relay import open_relay
    from atoll.cli.foreground import Drain, run_in_foreground, set_up_log

    set_up_log(config.log_level, as_json=log_json)

    def said(relay: "Relay") -> str:
        websockets = f", WebSockets on {config.listen}:{relay.websocket_port}" if relay.websocket_port else ""
        return (
            f"relay {relay.node_id}: SEP on {config.listen}:{relay.sep_port}, bearers on"
            f" {config.listen}:{relay.bearer_port}{websockets}, taking tickets of {config.cloud.id.short}"
        )

    run_in_foreground(
        lambda: open_relay(config),
        said,
        remedy="`atoll config show --kind relay` lists the settings; port 0 takes any free port",
        drain=Drain(lambda relay: relay.drain(config.drain_s), lambda relay: relay.idle, config.drain_s),
    )
