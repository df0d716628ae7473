"""Bodies of requests: short ones whole, images straight into a file.

    image:  multipart/form-data, field `image`   or   the raw tar   -->  a temporary file  -->  gone when the block ends

A body is never read before the caller is known to be allowed to send it, and never further than its limit.
"""

import contextlib
import errno
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from atoll.actors.gateway.http_exchange import body_too_long
from atoll.actors.gateway.http_line import ClientGone
from atoll.actors.gateway.messages import BODY_BYTES_MAX
from atoll.actors.gateway.problems import Problem

IMAGE_BYTES_MAX = 64 * 1024 * 1024
JSON_BYTES_MAX = 256 * 1024
WRAPPING_BYTES = 64 * 1024
"""What a form adds to its image: boundaries, part headers, short fields."""
UPLOAD_PREFIX = "upload-"
PART_HEADER_BYTES_MAX = 8 * 1024

T = TypeVar("T")


class LimitedBody:
    """The body of a request, piece by piece.

    No async generator on purpose: one that is left half-way is finished by the garbage collector, if at all.
    """

    def __init__(self, request: Request, bytes_max: int) -> None:
        """Refuse at once what is announced too long.

        Raises:
            Problem: It is longer than `bytes_max`.
        """
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > bytes_max:
            raise body_too_long(bytes_max)
        self._receive = request.receive
        self._bytes_max = bytes_max
        self._got = 0
        self._done = False

    async def piece(self) -> bytes:
        """Give the next piece; empty at the end.

        Raises:
            Problem: It is longer than `bytes_max`.
            ClientGone: The client left in the middle of it.
        """
        while not self._done:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client left in the middle of its request")
            self._done = not message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            self._got += len(chunk)
            if self._got > self._bytes_max:
                raise body_too_long(self._bytes_max)
            if chunk:
                return chunk
        return b""


async def whole_body(request: Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """Read a body that fits into one message."""
    body = LimitedBody(request, bytes_max)
    parts = []
    while chunk := await body.piece():
        parts.append(chunk)
    return b"".join(parts)


async def json_body(request: Request, kind: type[T]) -> T:
    """Read a JSON body, whatever its content type says: `curl -d` calls it a form.

    Raises:
        Problem: It is no such JSON; the text names the first thing wrong.
    """
    body = await whole_body(request, JSON_BYTES_MAX)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Problem("bad-input", f"the body is not as expected: {error}", "see /openapi.json for its form") from error


@contextlib.asynccontextmanager
async def uploaded_image(request: Request, folder: Path) -> AsyncIterator[Path]:
    """Write the image that a request carries into a file of `folder`, for the time of the block.

    Raises:
        Problem: There is none, it is too long, the form is broken, or the disk is full.
    """
    file = _make_file(folder)
    path = Path(file.name)
    try:
        with file, _disk_full_said(folder):
            await _receive(request, file)
        yield path
    finally:
        _remove(path)


def _make_file(folder: Path) -> IO[bytes]:
    # Not in a thread: a piece is 64 KiB and goes to the page cache, handing it over would cost more.
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return tempfile.NamedTemporaryFile(dir=folder, prefix=UPLOAD_PREFIX, suffix=".tar", delete=False)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what a process that died in mid-upload left in `folder`."""
    for path in folder.glob(f"{UPLOAD_PREFIX}*.tar"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_full_said(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise Problem("no-space", f"no space is left in {folder}", "free some, and push the image again") from error
        raise


async def _receive(request: Request, file: IO[bytes]) -> None:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"multipart/form-data":
        await _receive_form(request, options.get(b"boundary", b""), file)
    else:
        body = LimitedBody(request, IMAGE_BYTES_MAX)
        while chunk := await body.piece():
            file.write(chunk)
    if file.tell() == 0:
        raise Problem(
            "bad-input",
            "no image received",
            "send a docker-save tar as the multipart field `image`, or as the body itself",
        )


async def _receive_form(request: Request, boundary: bytes, file: IO[bytes]) -> None:
    form = _ImageForm(file)
    body = LimitedBody(request, IMAGE_BYTES_MAX + WRAPPING_BYTES)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.part_began,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.header_ended,
                "on_part_data": form.part_data,
                "on_end": form.ended,
            },
            max_header_size=PART_HEADER_BYTES_MAX,
        )
        while chunk := await body.piece():
            parser.write(chunk)
    except FormParserError as error:
        raise Problem("bad-input", f"the form is broken: {error}", "send multipart/form-data (RFC 7578)") from error
    if not form.complete:
        raise Problem("bad-input", "the form ends before its closing boundary", "send the whole form")


class _ImageForm:
    """Keeps the field `image` of a form and passes over the others."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._name = bytearray()
        self._value = bytearray()
        self._wanted = False
        self.complete = False

    def part_began(self) -> None:
        self._wanted = False

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_ended(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._wanted = options.get(b"name") == b"image"
            if self._wanted and self._file.tell():
                raise Problem("bad-input", "the form has two fields `image`", "push one image at a time")
        self._name.clear()
        self._value.clear()

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._wanted:
            return
        if self._file.tell() + end - start > IMAGE_BYTES_MAX:
            raise body_too_long(IMAGE_BYTES_MAX)
        self._file.write(data[start:end])

    def ended(self) -> None:
        self.complete = True
