"""What `atoll relay status` reads and shows."""

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import click

from atoll.cli.output import fail
from atoll.cli.tables import print_facts, print_table, size

ANSWER_S = 5.0
ANSWER_BYTES_MAX = 1 << 20
REMEDY = "is the relay running, and is this its `metrics` address?"


def read_status(url: str) -> dict[str, Any]:
    """Ask a relay; ends the command with what is wrong where there is no answer."""
    try:
        where = urlsplit(url)
        scheme, host, port = where.scheme, where.hostname, where.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme != "http" or not host:
        fail(f"{url} is no URL of a relay's metrics", "write it as http://127.0.0.1:PORT", code=2)
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        found = json.loads(answer.read(ANSWER_BYTES_MAX))
    except (OSError, ValueError, http.client.HTTPException, RecursionError) as error:
        fail(f"nothing answers at {url} as a relay does: {error}", REMEDY)
    finally:
        connection.close()
    if (
        answer.status != http.HTTPStatus.OK
        or not isinstance(found, dict)
        or not isinstance(found.get("refusals"), dict)
    ):
        fail(f"what answers at {url} is no relay of this version", REMEDY)
    return found


def show_status(found: Mapping[str, Any]) -> None:
    """Show it to a person."""

    def of(name: str) -> str:
        return f"{found.get(name, '-')} of {found.get(f'{name}_max', '-')}"

    click.echo("draining: it takes nobody new" if found.get("draining") else "serving")
    carried = found.get("forwarded_bytes")
    print_facts(
        [
            ("tunnels", f"{of('tunnels')}, {found.get('waiting', '-')} halves wait"),
            ("carried", size(carried) if isinstance(carried, int) else "-"),
            ("registrations", found.get("registrations")),
            ("connections", f"{found.get('connections', '-')} at the SEP, {found.get('circuits', '-')} circuits"),
            ("open files", of("descriptors")),
            ("pipes", of("pipes")),
        ]
    )
    if refusals := found["refusals"]:
        click.echo("\nRefused since the start")
        print_table(("REASON", "TIMES"), sorted(refusals.items()), none="")
