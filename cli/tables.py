"""How commands show things to people: aligned columns, sizes, times; no colour, so that none can carry meaning.

Texts come from other nodes: whatever could move a terminal's cursor is shown as `?`.
"""

import datetime as dt
import shlex
from collections.abc import Sequence

import click

from atoll.transport.printable import printable

_GAP = "  "


def shown(text: object) -> str:
    """Give a text that is safe on a terminal."""
    return printable(str(text), "?")


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, none: str) -> None:
    """Print rows below their heads; `none` goes to stderr where there are no rows."""
    if not rows:
        click.echo(none, err=True)
        return
    cells = [[shown(cell) or "-" for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(heads), *cells]) for column in range(len(heads))]
    for line in [list(heads), *cells]:
        click.echo(_GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Print names with their values, one a line; empty values are left out."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        if value not in ("", None):
            click.echo(f"{name.ljust(width)}{_GAP}{shown(value)}")


def suggest(what: str, *command: str, node: str | None = None) -> None:
    """Name the partner command, ready to be pasted, on stderr; `command` begins with how atoll was called."""
    atoll, *words = [shown(each) for each in command]
    there = ["--node", node] if node else []
    click.echo(f"{what}: {atoll} {shlex.join([*words, *there])}", err=True)


def size(count: float) -> str:
    """Say a number of bytes."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def span(seconds: float | None) -> str:
    """Say how long something has been."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def moment(at_ms: int) -> str:
    """Say a time, as UTC."""
    try:
        return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "?"


def millis(latency_ms: float | None) -> str:
    """Say a latency."""
    return "" if latency_ms is None else f"{latency_ms:.1f} ms"
