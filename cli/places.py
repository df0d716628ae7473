"""Which node a command talks to: `--at`, ATOLL_AT, or this host's own.

    nothing             -->  the socket of this user's node (ATOLL_RUN_DIR, ATOLL_CONFIG)
    home/tv             -->  a node of a cluster that runs on this host (`atoll up`)
    ./x, /run/x, x.sock -->  that socket, or the one in that folder; also as unix:/run/x
    http://host:8083    -->  that URL, with the API key

It opens no connection, and never takes this host's own API key to another host.
"""

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from atoll.cli.output import Failed

_LOCAL_HOST = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
_KEY = re.compile("[!-~]{1,1000}")
_START = "start one with: atoll node run"


class WrongPlace(Failed):
    """What was given with `--at` names no node; exit 2."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one node's REST interface is: a socket or a URL."""

    socket: Path | None = None
    url: str = ""
    api_key: str = ""
    start: str = _START
    """What to do when nobody is there."""
    own: bool = False
    """It is this host's node, which nobody named."""

    def remedy(self) -> str:
        """Say what to do when nobody is there; those who run a cluster may have meant one of its nodes."""
        found = _nodes() if self.own else []
        return self.start + (f", or name one that runs: atoll --at {found[0][1]}" if found else "")

    def __str__(self) -> str:
        """Name it for errors."""
        return str(self.socket or self.url)


def find_place(at: str | None, api_key_file: Path | None, environment: Mapping[str, str]) -> Place:
    """Find the node that `at` names; None or empty means this host's.

    Raises:
        WrongPlace: It names none, or several.
    """
    if not at:
        return Place(socket=_own_config(environment).api_socket, own=True)
    if "://" in at:
        return _url(at, api_key_file, environment)
    if at.startswith(("unix:", "/", "./", "../", "~")) or at.endswith(".sock"):
        return Place(socket=_socket(at.removeprefix("unix:")), start="name another socket with --at, or " + _START)
    return _running(at)


def _socket(at: str) -> Path:
    if not at:
        raise WrongPlace("--at names no socket", "write it as unix:/path/to/api.sock")
    try:
        path = Path(at).expanduser()
        return path / "api.sock" if path.is_dir() else path
    except (OSError, ValueError, RuntimeError) as error:
        raise WrongPlace(f"{at} is no path: {error}", "name a socket, as /path/to/api.sock") from error


def _own_config(environment: Mapping[str, str]) -> Any:
    from atoll.cluster_specs import NodeConfig, SpecInvalid, read_config

    file = environment.get("ATOLL_CONFIG")
    try:
        return read_config(NodeConfig, Path(file) if file else None, environment=environment).config
    except SpecInvalid as error:
        raise WrongPlace(str(error), "mend it, or name the node with --at") from error


def _url(at: str, key_file: Path | None, environment: Mapping[str, str]) -> Place:
    try:
        url = urlsplit(at)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise WrongPlace(f"{at} is not a URL: {error}", "write it as http://127.0.0.1:8083") from error
    if url.scheme not in {"http", "https"} or not host or url.path.strip("/") or url.query or url.username:
        raise WrongPlace(f"{at} is not the URL of a gateway", "write it as http://127.0.0.1:8083, without a path")
    netloc = f"[{host}]" if ":" in host else host
    return Place(
        url=f"{url.scheme}://{netloc}" + (f":{port}" if port is not None else ""),
        api_key=_api_key(host, key_file, environment),
        start="see that its gateway listens there ([gateway] host and port), or " + _START,
    )


def _api_key(host: str, key_file: Path | None, environment: Mapping[str, str]) -> str:
    """Take the key that was given, or else this host's own for itself."""
    if key_file is not None:
        key = _read_key(key_file)
        if key is None:
            raise WrongPlace(f"no API key in {key_file}", "name the file `api.key` of that node's state directory")
        return key
    if given := environment.get("ATOLL_API_KEY", "").strip():
        if not _KEY.fullmatch(given):
            raise WrongPlace("ATOLL_API_KEY is no API key", "set it to what stands in that node's file `api.key`")
        return given
    if not _LOCAL_HOST.fullmatch(host):
        return ""
    # Without a key the node says what it wants; a key file that this user may not read is no reason to stop here.
    return _read_key(_own_config(environment).state_dir / "api.key") or ""


def _read_key(path: Path) -> str | None:
    try:
        key = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return key if _KEY.fullmatch(key) else None


def _running(name: str) -> Place:
    """Find a node of a running cluster: `tv` or `home/tv`, and `two-sites/home/tv` where that is not enough."""
    nodes = _nodes()
    found = [
        (cluster, node, socket)
        for cluster, node, socket in nodes
        if name in (node, node.rpartition("/")[2], f"{cluster}/{node}")
    ]
    if len(found) == 1:
        cluster, _, socket = found[0]
        start = f"that node of {cluster} has ended, or is still starting; see what `atoll up` printed"
        return Place(socket=Path(socket), start=start)
    if found:
        choices = _some(f"{cluster}/{node}" for cluster, node, _ in found)
        raise WrongPlace(f"{len(found)} running nodes are called {name}", f"say which: {choices}")
    raise WrongPlace(
        f"no running node is called {name}" + (f"; there are {_some(node for _, node, _ in nodes)}" if nodes else ""),
        "name a socket (/path/to/api.sock) or a URL, or start a cluster with: atoll up two-sites",
    )


def _nodes() -> list[tuple[str, str, str]]:
    """Give (cluster, node, socket) of all that run."""
    from atoll.testing.errors import ClusterFault
    from atoll.testing.runs import running

    try:
        return [(run.label, node, socket) for run in running() for node, socket in run.nodes.items()]
    except ClusterFault as error:
        raise WrongPlace(error.what, f"end that cluster, and {error.remedy}") from error


def _some(names: Iterable[str], most: int = 8) -> str:
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def place_of_command() -> Place:
    """Find the node that the running command's `--at` names."""
    options = click.get_current_context().find_root().params
    return find_place(options.get("at"), options.get("api_key_file"), os.environ)


def atoll() -> str:
    """Say how `atoll` was called, as far as it decides about the node: to be pasted before another command."""
    root = click.get_current_context().find_root()
    at = root.params.get("at")
    source = root.get_parameter_source("at")
    given = at and source is not None and source.name == "COMMANDLINE"
    return f"atoll --at {shlex.quote(str(at))}" if given else "atoll"
