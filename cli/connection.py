"""HTTP to one node: over its unix socket, or to a URL with the API key.

    command --ask--> Connection --socket or TCP--> gateway --/at/NODE/…--> another node's gateway

Every problem that the gateway answers, and everything that can go wrong on the way, becomes a `Failed` with what to do.
It must never wait without a limit, and never read an answer longer than `ANSWER_BYTES_MAX`.
"""

import contextlib
import http.client
import json
import shlex
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from atoll.cli.output import Failed
from atoll.cli.places import Place, place_of_command

CONNECT_S = 5.0
ANSWER_S = 40.0
MARGIN_S = 10.0
"""What a node behind the one that is connected gets less: that one knows better what was late."""
NOT_FOUND = 404
AWAY_S = 30.0
"""How long a node that was there is waited for while it starts again."""
AWAY_LOOK_S = 0.5
ANSWER_BYTES_MAX = 64 * 1024 * 1024
PIECE_BYTES = 256 * 1024
PROBLEM = "urn:atoll:problem:"

T = TypeVar("T")


class NotRunning(Failed):
    """Nobody listens where the node should be (the world's fault)."""


class NoAnswer(Failed):
    """Somebody is there, and does not answer as a node does."""


class ProblemAnswer(Failed):
    """The node says what is wrong."""

    def __init__(self, what: str, remedy: str, *, status: int, name: str) -> None:
        """Keep the status and the problem's name for commands that know a way out."""
        super().__init__(what, remedy)
        self.status = status
        self.name = name


class _NotTaken(Exception):
    """What came could not be written where it belongs: no fault of the node."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    where: str

    def plain(self) -> dict[str, Any]:
        """Give the JSON object as it came, fields of later versions included."""
        found = self._json()
        if not isinstance(found, dict):
            raise self._strange("its answer is no JSON object")
        return found

    def view(self, kind: type[T]) -> T:
        """Give the answer as one of the gateway's views."""
        import msgspec

        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise self._strange(str(error)) from error

    def problem(self) -> ProblemAnswer | None:
        """Give the problem that the gateway itself states; None for anything else."""
        if self.status < 400 or not self.headers.get_content_type().endswith("problem+json"):
            return None
        found = self._json()
        if not isinstance(found, dict) or not str(found.get("type", "")).startswith(PROBLEM):
            return None
        what = str(found.get("detail") or found.get("title") or f"HTTP status {self.status}")
        if isinstance(candidates := found.get("candidates"), list) and candidates:
            what += ": " + ", ".join(map(str, candidates))
        remedy = str(found.get("remedy") or "look into the node's log")
        return ProblemAnswer(what, remedy, status=self.status, name=str(found["type"]).removeprefix(PROBLEM))

    def text(self) -> str | None:
        """Give the body as text; None where it is none."""
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            return None

    def _json(self) -> Any:
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def _strange(self, why: str) -> NoAnswer:
        return NoAnswer(f"what answers at {self.where} speaks like no node of this version: {why}", "see `atoll --at`")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, place: Place) -> None:
        super().__init__("localhost", timeout=CONNECT_S)
        self._path = str(place.socket)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Asks one node, or through it another one; every request has a connection of its own."""

    place: Place
    node: str = ""
    """The node behind it that is meant; empty: itself."""
    answer_s: float = ANSWER_S

    def target(self, path: str) -> str:
        """Give the path on the node that is connected."""
        return f"/at/{quote(self.node, safe='')}{path}" if self.node else path

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        take: Callable[[bytes], None] | None = None,
        live: bool = False,
    ) -> Answer:
        """Make one request and give its answer; `take` gets the body of a good one, at any length.

        With `live` it gets each piece as soon as it comes.

        Raises:
            Failed: It went wrong, or the node answers with a status of 400 or above.
        """
        answer = self.exchange(method, path, body=body, headers=headers, take=take, live=live)
        if problem := answer.problem():
            raise problem
        if answer.status >= 400:
            raise NoAnswer(f"{self.place} answered {answer.status} to {method} {path}", "is it a node of this version?")
        return answer

    def ask_again(self, method: str, path: str, asked: Mapping[str, Any], *, away_s: float) -> Answer:
        """Ask in JSON what may be asked again at any time, also of a node that was away for so long.

        A node that has just started does not know the others at once: what it knew before, it does not know now.

        Raises:
            Failed: It went wrong, or the node did not come back.
        """
        body, headers = json.dumps(asked).encode(), {"content-type": "application/json"}
        deadline = time.monotonic() + away_s
        while True:
            try:
                return self.ask(method, path, body=body, headers=headers)
            except (NotRunning, NoAnswer):
                if time.monotonic() >= deadline:
                    raise
            except ProblemAnswer as problem:
                if problem.status != NOT_FOUND or time.monotonic() >= deadline:
                    raise
            time.sleep(AWAY_LOOK_S)

    def exchange(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        take: Callable[[bytes], None] | None = None,
        live: bool = False,
    ) -> Answer:
        """Make one request and give its answer, whatever its status is; `take` gets a good body, at any length.

        Raises:
            Failed: There is no answer.
        """
        fields = {"connection": "close", **(headers or {})}
        if self.node:
            fields["x-atoll-timeout-ms"] = str(max(1, round((self.answer_s - MARGIN_S) * 1000)))
        if self.place.api_key:
            # An `x-api-key` of the caller's own is for the service; ours then goes the other way.
            ours = ("authorization", "Bearer ") if "x-api-key" in fields else ("x-api-key", "")
            fields.setdefault(ours[0], ours[1] + self.place.api_key)
        opened = self._open()
        with contextlib.closing(opened):
            try:
                self._connect(opened)
                return self._exchange(opened, method, self.target(path), body, fields, take=take, live=live)
            except _NotTaken as not_taken:
                raise not_taken.error from None
            except TimeoutError as error:
                raise NoAnswer(
                    f"{self.place} did not answer within {self.answer_s:g} s",
                    "try again, give a call more time with --timeout, or look into the node's log",
                ) from error
            except (OSError, http.client.HTTPException) as error:
                raise NoAnswer(
                    f"{self.place} broke off: {error or type(error).__name__}",
                    f"see whether the node still runs: atoll --at {shlex.quote(str(self.place))} status",
                ) from error

    def _open(self) -> http.client.HTTPConnection:
        if self.place.socket is not None:
            return _UnixConnection(self.place)
        url = urlsplit(self.place.url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        return kind(url.hostname or "", url.port, timeout=CONNECT_S)

    def _connect(self, opened: http.client.HTTPConnection) -> None:
        try:
            opened.connect()
        except PermissionError as error:
            # Of a socket: its folder or file is another user's. Of TCP: the system forbids the port or address.
            raise NotRunning(
                f"{self.place} may not be opened", "run this as the user the node runs as, or with sudo"
            ) from error
        except ssl.SSLError as error:
            raise NoAnswer(f"{self.place} does not speak TLS as it should: {error.reason}", "try http://") from error
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise NotRunning(f"no node is running at {self.place} ({why})", self.place.remedy()) from error
        opened.sock.settimeout(self.answer_s)

    def _exchange(
        self,
        opened: http.client.HTTPConnection,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | None,
        headers: Mapping[str, str],
        *,
        take: Callable[[bytes], None] | None,
        live: bool,
    ) -> Answer:
        chunked = body is not None and not isinstance(body, bytes) and "content-length" not in headers
        fields = dict(headers) | ({"transfer-encoding": "chunked"} if chunked else {})
        # A refusal may come, and the connection close, while a long body is still on its way: read it all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            opened.request(method, target, body=body, headers=fields, encode_chunked=chunked)
        with opened.getresponse() as response:
            read = response.read1 if live else response.read
            while take is not None and response.status == 200 and (piece := read(PIECE_BYTES)):
                try:
                    take(piece)
                except OSError as error:
                    raise _NotTaken(error) from error
            data = response.read(ANSWER_BYTES_MAX + 1)
            if len(data) > ANSWER_BYTES_MAX:
                raise NoAnswer(f"the answer of {self.place} is longer than {ANSWER_BYTES_MAX} bytes", "ask for less")
            if response.length:
                raise http.client.IncompleteRead(data, response.length)
            return Answer(response.status, response.headers, data, str(self.place))


def connection(node: str | None = None, *, answer_s: float = ANSWER_S) -> Connection:
    """Give the connection of the running command; `node` is what its `--node` names."""
    return Connection(place=place_of_command(), node=node or "", answer_s=answer_s)


def for_each(names: Iterable[str], do: Callable[[str], None]) -> None:
    """Do it to each, whatever the node says about the others.

    Raises:
        Failed: The last one that went wrong; those before it have been shown.
    """
    failed: Failed | None = None
    for name in names:
        try:
            do(name)
        except ProblemAnswer as error:
            if failed is not None:
                failed.show()
            failed = error
    if failed is not None:
        raise failed


@contextlib.contextmanager
def remedied(problem: str, remedy: str) -> Iterator[None]:
    """Say what to do about that problem in the words of a command: the gateway's are those of HTTP."""
    try:
        yield
    except ProblemAnswer as error:
        if error.name != problem:
            raise
        raise ProblemAnswer(error.message, remedy, status=error.status, name=error.name) from error


def segment(name: str) -> str:
    """Write a name as one segment of a path."""
    return quote(name, safe="")
