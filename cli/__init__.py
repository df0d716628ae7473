"""The `atoll` command: subcommands are imported when they are used, so that `atoll --help` is quick.

Data goes to stdout, everything else to stderr. Exit 0: done; 1: failed; 2: wrong usage.
"""

import importlib
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

_COMMANDS = {
    "actor": ("atoll.cli.actor", "Show, move and remove actors of this node's site."),
    "bench": ("atoll.cli.bench", "Measure relays and actors beside a raw baseline."),
    "call": ("atoll.cli.call", "Call a service, here or on another node."),
    "cloud": ("atoll.cli.cloud", "Run a cloud: directory, signaling and enrolment."),
    "config": ("atoll.cli.config", "Show settings, and where each came from."),
    "container": ("atoll.cli.container", "Run, list, stop and remove containers."),
    "demo": ("atoll.cli.demo", "Show Atoll at work on this host: two sites behind NAT, and a call across."),
    "forward": ("atoll.cli.forward", "Reach a TCP port of another node at a port of this host."),
    "image": ("atoll.cli.image", "Push, list and remove images of services."),
    "node": ("atoll.cli.node", "Run a node, and show nodes."),
    "pub": ("atoll.cli.pub", "Publish to a topic, here or in another site."),
    "receive": ("atoll.cli.receive", "Receive files that other nodes send."),
    "relay": ("atoll.cli.relay", "Run a relay, and see how it is doing."),
    "send": ("atoll.cli.send", "Send a file to another node."),
    "service": ("atoll.cli.service", "Show services that can be called."),
    "site": ("atoll.cli.site", "Show this node's site, reform it, or leave it."),
    "sim": ("atoll.cli.sim", "Simulate a site's election under faults, deterministically."),
    "status": ("atoll.cli.status", "Show a node's health, and why things are as they are."),
    "sub": ("atoll.cli.sub", "Print what is published to topics."),
    "up": ("atoll.cli.up", "Run a whole cluster out of a spec, on this host."),
}


class LazyGroup(click.Group):
    """A group that knows the names and first lines of its subcommands without importing them."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Name them, in alphabetical order."""
        del context
        return sorted(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import the subcommand's module, or nothing if there is no such subcommand."""
        del context
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[name][0]).command
        return command

    def invoke(self, context: click.Context) -> Any:
        """Run the subcommand, and say in words what the system refuses, a full disk behind the output first of all.

        A pipe that was closed is nobody's fault; click ends the command for it.
        """
        try:
            result = super().invoke(context)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            _refused(error)
        return result

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of subcommands without importing any."""
        del context
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(_COMMANDS.items())])


def _refused(error: OSError) -> NoReturn:
    from atoll.cli.output import fail

    why = error.strerror or str(error)
    if error.filename is not None:
        fail(f"{error.filename}: {why}", "see its rights, and the space on its disk")
    fail(f"the output cannot be written: {why}", "give it another place, or make room")


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="atoll", prog_name="atoll")
@click.option(
    "--at",
    envvar="ATOLL_AT",
    metavar="NODE",
    help="The node to talk to: home/tv of a running spec, a socket's path or a URL. Default: this host's node.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The API key for a URL; or set ATOLL_API_KEY.",
)
def main(at: str | None, api_key_file: Path | None) -> None:
    """Turn any computer into a cloud server, and any handful of them into one cloud."""
    # Commands that talk to a node read both from the context.
    del at, api_key_file
