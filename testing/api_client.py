"""Asks a node's REST interface on its unix socket, one request a connection."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

from atoll.testing.errors import NoAnswer

ANSWER_S = 10.0
ANSWER_BYTES_MAX = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = field(repr=False)
    took_s: float = 0.0
    """From before the connection to the last byte."""

    @property
    def data(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True, slots=True)
class NodeApi:
    """The interface of one node."""

    socket: Path

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = ANSWER_S,
    ) -> Answer:
        """Make one request and read the whole answer, whatever its status.

        Raises:
            NoAnswer: Nobody answered in time.
        """
        asked = partial(self._ask_blocking, method, target, body, dict(headers or {}), timeout_s)
        return await anyio.to_thread.run_sync(asked, abandon_on_cancel=True)

    async def get(self, target: str) -> Any:
        """Give the JSON of a successful GET.

        Raises:
            NoAnswer: Nobody answered in time, or with an error.
        """
        return _data(await self.ask("GET", target), target)

    async def post_json(self, target: str, data: Any) -> Any:
        """Post JSON and give the JSON of the answer.

        Raises:
            NoAnswer: Nobody answered in time, or with an error.
        """
        body = json.dumps(data).encode()
        return _data(await self.ask("POST", target, body, {"content-type": "application/json"}), target)

    async def post_file(self, target: str, name: str, data: bytes) -> Any:
        """Post a file as the field `name` of a form, and give the JSON of the answer.

        Raises:
            NoAnswer: Nobody answered in time, or with an error.
        """
        boundary = "atoll-form-boundary-of-one-file"
        while boundary.encode() in data:
            boundary += "-"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.tar"\r\n\r\n'
        body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
        kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
        return _data(await self.ask("POST", target, body, kind), target)

    def _ask_blocking(
        self, method: str, target: str, body: bytes | None, headers: dict[str, str], timeout_s: float
    ) -> Answer:
        began = time.monotonic()
        with contextlib.closing(_UnixConnection(self.socket, timeout_s)) as connection:
            try:
                connection.request(method, target, body=body, headers=headers)
                reply = connection.getresponse()
                data = reply.read(ANSWER_BYTES_MAX + 1)
            except (OSError, http.client.HTTPException) as error:
                raise NoAnswer(
                    f"{method} {target}: no answer at {self.socket}: {error}", "see the node's log"
                ) from error
        if len(data) > ANSWER_BYTES_MAX:
            raise NoAnswer(f"{method} {target}: more than {ANSWER_BYTES_MAX} bytes of answer", "ask for less")
        headers_told = {name.lower(): value for name, value in reply.getheaders()}
        return Answer(reply.status, headers_told, data, time.monotonic() - began)


def _data(answer: Answer, target: str) -> Any:
    try:
        data = answer.data
    except ValueError as error:
        raise NoAnswer(f"{target}: status {answer.status}, and no JSON", "see the node's log") from error
    if answer.status >= 400:
        problem = data if isinstance(data, dict) else {}
        said = problem.get("detail") or problem.get("title") or f"status {answer.status}"
        raise NoAnswer(f"{target}: {said}", str(problem.get("remedy") or "see the node's log"))
    return data
