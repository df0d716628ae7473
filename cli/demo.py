"""`atoll demo`: the main job on one host, from the shipped spec `two-sites`, told step by step."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from atoll.cluster_specs import ClusterSpec

SPEC = "two-sites"
TRY_NEXT = (
    "atoll --at home/tv status",
    "atoll --at office/desk node list",
    "atoll --at home/phone call echo@office/server /hello",
)


@click.command("demo")
@click.option("--once", is_flag=True, help="End when all was shown, with exit code 0 or 1; without it all stays up.")
@click.option("--loopback", is_flag=True, help="Use no network namespaces, even where they can be had.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON at the end.")
def command(*, once: bool, loopback: bool, as_json: bool) -> None:
    """Show two sites behind NAT that elect a supernode each, and call a service across by way of relays.

    It needs nothing but this host, and leaves nothing behind. As root, or with user namespaces, on Linux the sites are
    network namespaces with real NAT; elsewhere they are ports on loopback.
    """
    from atoll.cli.playing import Wish, play_and_exit
    from atoll.cluster_specs import read_spec

    spec = read_spec(SPEC)
    if not as_json:
        sys.stdout.write(picture(spec))
    wish = Wish(check=True, stay=not once, loopback=loopback, keep=None, as_json=as_json, try_next=TRY_NEXT)
    play_and_exit(spec, wish)


def picture(spec: ClusterSpec) -> str:
    """Draw who is where, a line a network; in brackets the services of a node."""
    networks = {"the internet": [*(each.name for each in spec.cloud), *(each.name for each in spec.relay)]}
    for site in spec.site:
        networks[site.name] = [
            f"{node.name} ({', '.join(node.services)})" if node.services else node.name for node in site.node
        ]
    return "".join(f"  {place:<14}{'   '.join(names)}\n" for place, names in networks.items()) + "\n"
