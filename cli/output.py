"""How commands end: JSON with a version at the top, or an error that says what was wrong and what to do next."""

import json
import sys
from typing import Any, NoReturn

import click

from atoll.cli.tables import shown

JSON_VERSION = 1
TEXT_CHARACTERS_MAX = 800
"""Of a line of an error; names can be of any length."""


class Failed(click.ClickException):
    """Ends a command with one line about what was wrong and one about what to do; exit 1.

    For texts that other nodes have a part in; `fail` is for those of this host, which may have several lines.
    """

    def __init__(self, what: str, remedy: str) -> None:
        """Say what happened and what to do."""
        super().__init__(_one_line(what))
        self.remedy = _one_line(remedy)

    def show(self, file: Any = None) -> None:
        """Write both lines to stderr."""
        click.echo(f"atoll: {self.message}\n       {self.remedy}", file=file, err=file is None)


def _one_line(text: str) -> str:
    # Some of it comes from other nodes: it must neither break the line nor move a terminal's cursor.
    line = shown(" ".join(text.split()))
    return line if len(line) <= TEXT_CHARACTERS_MAX else line[:TEXT_CHARACTERS_MAX] + "…"


def print_json(data: dict[str, Any]) -> None:
    """Print one JSON object; fields may be added in later versions, never renamed."""
    print(json.dumps({"version": JSON_VERSION} | data, indent=2, default=str))


def fail(what: str, remedy: str, *, code: int = 1) -> NoReturn:
    """End the command: one line says what was wrong, one what to do."""
    print(f"atoll: {what}\n       {remedy}", file=sys.stderr)
    raise SystemExit(code)
