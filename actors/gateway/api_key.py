"""The node's API key: made at first start, in a file that only its owner may read."""

import os
import re
import secrets
from pathlib import Path

from atoll.transport.errors import UsageError

KEY_BYTES = 32
FILE_NAME = "api.key"
_FORM = re.compile(r"[A-Za-z0-9_-]{20,200}")


def load_or_create_api_key(path: Path) -> str:
    """Read the key at `path`, or make one there (mode 0600).

    Raises:
        UsageError: The file holds no key, or others may read it.
    """
    try:
        key = path.read_text("ascii").strip()
        mode = path.stat().st_mode
    except FileNotFoundError:
        return _create(path)
    except UnicodeDecodeError:
        key, mode = "", 0
    if not _FORM.fullmatch(key):
        raise UsageError(f"{path} holds no API key: delete it, and the next start makes a new one")
    if mode & 0o077:
        raise UsageError(f"{path} can be read by others: run `chmod 600 {path}`")
    return key


def _create(path: Path) -> str:
    key = secrets.token_urlsafe(KEY_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key
