"""The copy of a pipe that a node reads from the disk, for as long as the command lives that was given the pipe.

    made --locked, filled--> the node opens it --the command ends--> removed
         --the command is killed--> left behind, unlocked --the next command with a pipe--> removed

The node opens it by its name, which may be later than the command's first word, so it cannot do without one; and
`/proc/PID/fd` would name another file once the command is gone and its number is another's.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PREFIX = "atoll-send-"


@contextlib.contextmanager
def spooled() -> Iterator[IO[bytes]]:
    """Lend a file in the temporary folder that is removed in the end, and those that killed commands have left."""
    folder = Path(tempfile.gettempdir())
    _remove_leftovers(folder)
    while True:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=PREFIX) as file:
            # The lock ends with the process, however that ends. Where files cannot be locked none is removed either.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if not os.fstat(file.fileno()).st_nlink:
                # Another command took it for a leftover before it was locked.
                with contextlib.suppress(FileNotFoundError):
                    file.close()
                continue
            yield file
            return


def _remove_leftovers(folder: Path) -> None:
    """Delete what nobody holds; what cannot be looked at, or is somebody else's, stays."""
    for path in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(descriptor)
