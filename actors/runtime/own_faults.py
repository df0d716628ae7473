"""What a start that failed says: the cause in its own words, not which of many actors it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from atoll.actors.runtime.errors import StartFailed
from atoll.transport.errors import UsageError


@contextmanager
def own_faults() -> Iterator[None]:
    """Let a start that failed say what really happened, in its own words.

    Raises:
        UsageError: In place of `StartFailed`.
    """
    try:
        yield
    except StartFailed as error:
        cause: BaseException = error
        while isinstance(cause, StartFailed) and cause.__cause__ is not None:
            cause = cause.__cause__
        raise UsageError(str(cause if isinstance(cause, Exception) else error)) from error
