"""`atoll call`: a REST call to a service anywhere; `lookup.py` says where that is.

The reply's body goes to stdout as it came, everything about it to stderr.
"""

import base64
import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from atoll.cli.connection import MARGIN_S, Answer, connection
from atoll.cli.lookup import find_service
from atoll.cli.output import Failed, fail, print_json
from atoll.cli.tables import shown

CALL_S = 30.0
CALL_S_MAX = 300.0
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\xa0-\xff]*)")
_PATH_SAFE = "/?&=%:@!$'()*+,;~[]"


@click.command("call")
@click.argument("service", metavar="SERVICE[@NODE]")
@click.argument("path", metavar="[PATH]", default="")
@click.option("-X", "--request", "method", metavar="METHOD", help="Default: GET, or POST with -d.")
@click.option("-d", "--data", metavar="DATA", help="The body; @FILE reads a file, @- standard input.")
@click.option("-H", "--header", "fields", multiple=True, metavar="NAME: VALUE", help="A header field.")
@click.option(
    "--timeout",
    "call_s",
    default=CALL_S,
    metavar="SECONDS",
    type=click.FloatRange(0.001, CALL_S_MAX),
    help=f"How long it may take; default {CALL_S:g}, at most {CALL_S_MAX:g}.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say the way it took, and why, on stderr.")
@click.option("-i", "--include", is_flag=True, help="The same, and the reply's header, on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print status, header, body and way as JSON.")
def command(  # noqa: PLR0917 - click passes all by name
    service: str,
    path: str,
    method: str | None,
    data: str | None,
    fields: tuple[str, ...],
    call_s: float,
    *,
    verbose: bool,
    include: bool,
    as_json: bool,
) -> None:
    """Call SERVICE, on this node or on NODE, and print the reply's body.

    Exit 1 where the reply's status is 400 or above.
    """
    name, _, node = service.partition("@")
    if not name or path[:1] not in {"", "/"} or service.endswith("@"):
        fail(f"{service} {path} is no call", "write it as: atoll call SERVICE@NODE /path", code=2)
    headers, body = _headers(fields), _body(data)
    method = (method or ("GET" if body is None else "POST")).upper()
    if not _TOKEN.fullmatch(method):
        fail(f"-X {method} is no method", "use GET, POST, PUT, PATCH, DELETE or another word", code=2)
    if body is not None:
        headers.setdefault("content-type", _content_type(body))
    path = path or ("" if name.startswith("/") else "/")
    spot = find_service(connection(), name, node)
    # A node behind the one that is connected is waited for there.
    there = connection(spot.node, answer_s=call_s + (MARGIN_S if spot.node else 0))
    answer = there.exchange(method, (spot.path + quote(path, safe=_PATH_SAFE)) or "/", body=body, headers=headers)
    _say(answer, verbose=verbose or include, include=include)
    _show(answer, as_json=as_json)


def _headers(fields: tuple[str, ...]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for each in fields:
        found = _FIELD.fullmatch(each)
        if found is None:
            fail(f"-H {each!r} is no header field", "write it as -H 'Name: value'", code=2)
        name = found[1].lower()
        if name in {"content-length", "transfer-encoding", "connection", "host"}:
            fail(f"-H {name} is not yours to set", "leave it out", code=2)
        headers[name] = f"{headers[name]}, {found[2]}" if name in headers else found[2]
    return headers


def _body(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode("utf-8", "surrogateescape")
    if data == "@-":
        return sys.stdin.buffer.read()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        fail(f"-d {data}: {error.strerror}", "name a file to send, or @- for standard input", code=2)


def _content_type(body: bytes) -> str:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return "application/octet-stream" if b"\0" in body else "text/plain; charset=utf-8"
    return "application/json"


def _route(answer: Answer) -> dict[str, str]:
    given = {name: answer.headers.get(f"x-atoll-{name}", "") for name in ("route", "why", "node")}
    found = re.search(r"\batoll;dur=([0-9.]+)", answer.headers.get("server-timing", ""))
    return given | {"elapsed_ms": found[1] if found else ""} if given["route"] else {}


def _say(answer: Answer, *, verbose: bool, include: bool) -> None:
    if verbose:
        route = _route(answer)
        way = (
            "{route} to {node:.10}, {elapsed_ms} ms: {why}".format(**route) if route else "here: a service of the node"
        )
        click.echo(f"by {shown(way)}", err=True)
    if include:
        click.echo(f"HTTP {answer.status}", err=True)
        for name, value in answer.headers.items():
            click.echo(f"{shown(name)}: {shown(value)}", err=True)


def _show(answer: Answer, *, as_json: bool) -> None:
    problem = answer.problem()
    if as_json:
        route: dict[str, Any] = dict(_route(answer))
        if route:
            route["elapsed_ms"] = float(route["elapsed_ms"] or 0)
        text = answer.text()
        said: dict[str, Any] = {"status": answer.status, "headers": answer.headers.items(), "body": text}
        if text is None:
            said["body_base64"] = base64.b64encode(answer.body).decode()
        print_json(said | {"route": route or None})
    elif problem is None:
        ending = sys.stdout.isatty() and not answer.body.endswith(b"\n")
        click.echo(answer.body + (b"\n" if ending else b""), nl=False)
    if problem is not None:
        raise (
            Failed(problem.message, "try again, or give it longer with --timeout")
            if problem.name == "late"
            else problem
        )
    if answer.status >= 400:
        raise Failed(f"the service answered {answer.status}", "its reply says why; `-i` shows the header")
