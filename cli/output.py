"""How commands print: JSON with a version at the top, and errors that say what to do next."""

import json
import sys
from typing import Any, NoReturn

JSON_VERSION = 1


def print_json(data: dict[str, Any]) -> None:
    """Print one JSON object; fields may be added in later versions, never renamed."""
    print(json.dumps({"version": JSON_VERSION} | data, indent=2, default=str))


def fail(what: str, remedy: str, *, code: int = 1) -> NoReturn:
    """End the command: one line says what was wrong, one what to do."""
    print(f"atoll: {what}\n       {remedy}", file=sys.stderr)
    raise SystemExit(code)
