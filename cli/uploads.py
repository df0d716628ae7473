"""A file on its way to a node: a multipart form that is read piece by piece, never whole.

head --> pieces of the file --> tail          pieces are counted for the progress bar
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from atoll.cli.output import Failed

PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ImageForm:
    """The field `image` of a form; it can be gone through once."""

    file: IO[bytes]
    length: int | None
    """What the file holds; None where nobody knows, as of a pipe."""
    sent: Callable[[int], None]
    """Told how many bytes of the file have gone."""
    boundary: str = "atoll-" + secrets.token_hex(16)

    def headers(self) -> dict[str, str]:
        """Give what the request says of it."""
        fields = {"content-type": f"multipart/form-data; boundary={self.boundary}"}
        if self.length is not None:
            fields["content-length"] = str(len(self._head) + self.length + len(self._tail))
        return fields

    @property
    def _head(self) -> bytes:
        disposition = 'Content-Disposition: form-data; name="image"; filename="image.tar"'
        return f"--{self.boundary}\r\n{disposition}\r\nContent-Type: application/x-tar\r\n\r\n".encode()

    @property
    def _tail(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode()

    def __iter__(self) -> Iterator[bytes]:
        """Give the form's bytes.

        Raises:
            Failed: The file has become shorter since it was measured.
        """
        yield self._head
        left = self.length
        while left is None or left > 0:
            piece = self.file.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left))
            if not piece:
                if left:
                    raise Failed("the file became shorter while it was sent", "push it again when it is complete")
                break
            yield piece
            self.sent(len(piece))
            left = None if left is None else left - len(piece)
        yield self._tail
