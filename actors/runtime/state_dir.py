"""The directory in which a process keeps its keys, journals and files: one process at a time.

free --held--> held, until the block is left or the process dies --> free
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll.transport.errors import UsageError


@contextmanager
def held_state_dir(state_dir: Path) -> Iterator[None]:
    """Hold the directory, made if need be: two nodes with one key and one journal would harm their site.

    Raises:
        UsageError: It cannot be used, or another process holds it; says what to do.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(
            f"the state directory {state_dir} cannot be used: {error.strerror}; name another with --set state_dir=DIR"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"another process uses {state_dir}: stop it, or give this one its own with --set state_dir=DIR"
            ) from None
        yield
    finally:
        os.close(descriptor)
