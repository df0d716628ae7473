"""How far something is, on stderr: a bar for people who watch, lines for logs, JSON lines for programs.

One line for each step; what is asked again and has not come further is not said again.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from atoll.cli.output import JSON_VERSION
from atoll.cli.tables import shown, size

WAIT_MS = 5_000
"""For the node to say how far it is, when that goes into a log;"""
TELL_MS = 1_000
"""when a program reads it;"""
LOOK_MS = 300
"""and when somebody watches."""


def is_watched(*, as_json: bool) -> bool:
    """Tell whether somebody watches a terminal."""
    return sys.stderr.isatty() and not as_json


def wait_ms(*, as_json: bool) -> int:
    """Say how long a node may take before it answers how far it is."""
    return LOOK_MS if is_watched(as_json=as_json) else TELL_MS if as_json else WAIT_MS


@contextlib.contextmanager
def progress_bar(label: str, length: int | None) -> Iterator[Callable[[int], None]]:
    """Draw a bar on a terminal, and give what it is told when so many bytes more are done."""
    if not sys.stderr.isatty() or length is None:
        yield _nothing
        return
    with click.progressbar(length=length, label=shown(label), file=sys.stderr) as bar:
        yield bar.update


def _nothing(_count: int) -> None:
    """Show no progress: nobody watches."""


def steps(label: str, *, as_json: bool, watched: bool) -> "Steps":
    """Give what shows the steps of one thing; a context manager."""
    return _Bars(label) if watched else _Lines(label, as_json=as_json)


class Steps(contextlib.ExitStack):
    """Shows how far one thing is."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label

    def show(self, doing: str, got: int, length: int, **more: Any) -> None:
        """Show how much is done of what; `more` is for programs."""
        raise NotImplementedError

    def say(self, what: str, **more: Any) -> None:
        """Say what is waited for; nothing of it can be counted."""
        raise NotImplementedError


class _Lines(Steps):
    def __init__(self, label: str, *, as_json: bool) -> None:
        super().__init__(label)
        self.as_json = as_json
        self.last: object = None

    def show(self, doing: str, got: int, length: int, **more: Any) -> None:
        if (doing, got) == self.last:
            return
        self.last = doing, got
        share = got / length if length else 1.0
        if self.as_json:
            done = {"got_bytes": got, "size_bytes": length, "share": round(share, 3)}
            click.echo(json.dumps({"version": JSON_VERSION, "progress": done | more}), err=True)
        else:
            click.echo(f"{shown(self.label)}: {size(got)} of {size(length)} ({share:.0%}), {shown(doing)}", err=True)

    def say(self, what: str, **more: Any) -> None:
        if what == self.last:
            return
        self.last = what
        if self.as_json:
            click.echo(json.dumps({"version": JSON_VERSION, "progress": {"waits": what} | more}), err=True)
        else:
            click.echo(f"{shown(self.label)}: {shown(what)}", err=True)


class _Bars(Steps):
    """A bar for each thing that is done."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.doing = ""
        self.seen = 0
        self.bar: Callable[[int], None] = _nothing

    def show(self, doing: str, got: int, length: int, **more: Any) -> None:
        del more
        if doing != self.doing or got < self.seen:
            self.close()
            self.doing, self.seen = doing, 0
            self.bar = self.enter_context(progress_bar(f"{self.label}, {doing}", length))
        self.bar(got - self.seen)
        self.seen = got

    def say(self, what: str, **more: Any) -> None:
        del more
        if what != self.doing:
            self.close()
            self.doing, self.seen, self.bar = what, 0, _nothing
            click.echo(f"{shown(self.label)}: {shown(what)}", err=True)
