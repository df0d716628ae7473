"""`atoll forward`: a TCP port of another node at a port of this host, through the best path there is.

The node listens; this command keeps the forward alive, says what became of its connections, and ends it. Should the
command die, the forward ends by itself after `FOR_S`.
"""

import contextlib
import json
import re
import signal
import threading
from typing import TYPE_CHECKING

import click

from atoll.cli.connection import Connection, connection
from atoll.cli.options import json_option
from atoll.cli.output import Failed, print_json
from atoll.cli.places import atoll
from atoll.cli.tables import print_table, shown, size

if TYPE_CHECKING:
    from atoll.actors.gateway.forward_views import ForwardView

FOR_S = 15.0
RENEW_S = 2.0
_LISTEN = re.compile(r"(?:(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\[\]]+):)?(?P<port>[0-9]{1,5})")
_TARGET = re.compile(r"(?P<name>.+):(?P<port>[0-9]{1,5})")
_BASE = "/atoll/v1/forwards"
_HEADERS = {"content-type": "application/json"}


class BadForward(Failed):
    """What was given is no port to forward; exit 2."""

    exit_code = 2


@click.command("forward")
@click.argument("listen", metavar="[BIND:]PORT", required=False)
@click.argument("target", metavar="NODE:PORT", required=False)
@click.option("--list", "only_list", is_flag=True, help="Show what is forwarded, and end.")
@json_option
def command(listen: str | None, target: str | None, *, only_list: bool, as_json: bool) -> None:
    """Reach a TCP port of another node at a port of this host, until interrupted.

    PORT 0 takes any free port; BIND is 127.0.0.1 if nothing else is said. The other node's config has to allow its
    port: forward.allow = [5432].
    """
    node = connection()
    if only_list:
        _show_all(node, as_json=as_json)
        return
    if listen is None or target is None:
        raise BadForward(
            "what is to be forwarded where is not said", "write it as: atoll forward 5432 office/server:5432"
        )
    host, listen_port = _listen(listen)
    name, port = _target(target)
    wanted = {"node": name, "port": port, "host": host, "listen_port": listen_port, "for_s": FOR_S}
    answer = node.ask("POST", _BASE, body=json.dumps(wanted).encode(), headers=_HEADERS)

    from atoll.actors.gateway.forward_views import ForwardReply

    forward = answer.view(ForwardReply).forward
    if as_json:
        print_json(answer.plain())
    else:
        click.echo(f"{_address(forward)} -> {shown(forward.name)} port {forward.port}")
        click.echo(f"end it with Ctrl+C; see it with: {atoll()} forward --list", err=True)
    _keep(node, forward)


def _keep(node: Connection, forward: "ForwardView") -> None:
    """Renew it until a signal comes; tell of what failed meanwhile."""
    from atoll.actors.gateway.forward_views import ForwardReply

    ended = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: ended.set())
    body = json.dumps({"for_s": FOR_S}).encode()
    where = f"{_BASE}/{forward.id}"
    route = ""
    while not ended.wait(RENEW_S):
        now = node.ask("POST", f"{where}/renew", body=body, headers=_HEADERS).view(ForwardReply).forward
        if now.failed > forward.failed:
            click.echo(f"a connection failed: {shown(now.failure)}", err=True)
        if now.connections_total and now.route != route:
            route = now.route
            click.echo(f"by {now.route}: {shown(now.why)}", err=True)
        forward = now
    with contextlib.suppress(Failed):
        node.ask("DELETE", where)
    click.echo(
        f"{forward.connections_total} connections, {size(forward.sent_bytes)} there, "
        f"{size(forward.received_bytes)} back",
        err=True,
    )


def _show_all(node: Connection, *, as_json: bool) -> None:
    from atoll.actors.gateway.forward_views import ForwardsReply

    answer = node.ask("GET", _BASE)
    view = answer.view(ForwardsReply)
    if as_json:
        print_json(answer.plain())
        return
    print_table(
        ("AT", "NODE", "PORT", "BY", "OPEN", "ALL", "FAILED", "THERE", "BACK"),
        [
            (
                _address(each),
                each.name,
                each.port,
                each.route,
                each.connections,
                each.connections_total,
                each.failed,
                size(each.sent_bytes),
                size(each.received_bytes),
            )
            for each in view.forwards
        ],
        none="nothing is forwarded",
    )
    allowed = ", ".join(map(str, view.allowed)) or "none (forward.allow)"
    click.echo(f"ports of this host that others may reach: {allowed}; {view.taken} connections to them", err=True)


def _address(forward: "ForwardView") -> str:
    host = f"[{forward.host}]" if ":" in forward.host else forward.host
    return f"{host}:{forward.listen_port}"


def _listen(text: str) -> tuple[str, int]:
    found = _LISTEN.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise BadForward(f"{text[:80]} is no place to listen", "write it as 5432 or 127.0.0.1:5432; 0 is any free port")
    return (found["host"] or "127.0.0.1").strip("[]"), int(found["port"])


def _target(text: str) -> tuple[str, int]:
    found = _TARGET.fullmatch(text)
    if found is None or not 0 < int(found["port"]) <= 65535:
        raise BadForward(f"{text[:80]} is no port of a node", "write it as NODE:PORT, as office/server:5432")
    return found["name"], int(found["port"])
