"""`atoll relay run`: a relay in the foreground."""

from pathlib import Path

import click

from atoll.cli.output import fail


@click.group("relay")
def command() -> None:
    """Run a relay."""


@command.command("run")
@click.option("--issuer", required=True, metavar="NODE_ID", help="The id whose tickets this relay takes.")
@click.option("--key", "key_file", type=click.Path(path_type=Path), help="Key file; made at first start.")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option(
    "--sep-port", default=8088, show_default=True, type=click.IntRange(0, 65535), help="0 means any free one."
)
@click.option(
    "--bearer-port", default=8089, show_default=True, type=click.IntRange(0, 65535), help="0 means any free one."
)
def run(issuer: str, key_file: Path | None, host: str, sep_port: int, bearer_port: int) -> None:
    """Serve both relay ports until interrupted; tickets are checked off line, no disk is needed but for the key."""
    import anyio
    import platformdirs

    from atoll.node import run_relay
    from atoll.transport.errors import TransportError
    from atoll.transport.identity import NodeId
    from atoll.transport.keys import NodeKey

    try:
        issuer_id = NodeId.parse(issuer)
        key = NodeKey.load_or_create(key_file or platformdirs.user_state_path("atoll") / "relay.key")
        anyio.run(run_relay, key, issuer_id, host, sep_port, bearer_port, backend_options={"use_uvloop": True})
    except TransportError as error:
        fail(str(error), "`atoll relay run --help` names the settings; port 0 takes any free port")
    except OSError as error:
        fail(f"{error.filename or 'the key'}: {error.strerror}", "name another file with --key")
