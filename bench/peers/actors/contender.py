"""Who is compared with: where it is found, how its processes start, what they can do, and that they end."""

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from atoll.bench.peers.peer import program, tree_clocks
from atoll.bench.report import Row, row
from atoll.bench.rounds import Progress, turns
from atoll.bench.way import spent_s
from atoll.transport.errors import Unreachable, UsageError

IN_FLIGHT = 64
ACROSS = ("ask_across", "asks_across")
WITHIN = ("tell", "ask", "asks")
TITLES = {
    "tell": "tell",
    "ask": "ask, 1 in flight",
    "asks": f"ask, {IN_FLIGHT} in flight",
    "ask_across": "ask across processes, 1 in flight",
    "asks_across": f"ask across processes, {IN_FLIGHT} in flight",
}
STOP_S = 10.0
OURS = "atoll"
ALL = "all"


@dataclass(frozen=True, slots=True)
class Contender:
    """One library; `module` is its process of ours, or for Erlang its program."""

    name: str
    found: Callable[[], bool]
    install: str
    operations: tuple[str, ...]

    def absence(self) -> str | None:
        """Tell why it cannot be measured here, and what to do; None if it can."""
        return None if self.found() else f"not installed ({self.install})"


def _importable(module: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(module) is not None


CONTENDERS = {
    each.name: each
    for each in (
        Contender("pykka", _importable("pykka"), "pip install pykka", WITHIN),
        Contender("thespian", _importable("thespian"), "pip install thespian", (*WITHIN, *ACROSS)),
        Contender("xoscar", _importable("xoscar"), "pip install xoscar", (*WITHIN, *ACROSS)),
        Contender(
            "erlang", lambda: bool(program("erl") and program("erlc")), "apt install erlang-base", (*WITHIN, *ACROSS)
        ),
    )
}


def chosen(names: Sequence[str]) -> tuple[list[Contender], dict[str, str]]:
    """Give those that are here, and of those that are not why, and how to get them; as for relays.

    Raises:
        UsageError: There is nobody of that name, or one that was named is not installed.
    """
    if unknown := sorted(set(names) - {*CONTENDERS, ALL}):
        raise UsageError(f"no peer is called {', '.join(unknown)}; there are {', '.join(CONTENDERS)}, and {ALL}")
    here, absent = [], {}
    for name, each in CONTENDERS.items():
        if name not in names and ALL not in names:
            continue
        if (reason := each.absence()) is None:
            here.append(each)
        elif name in names:
            raise UsageError(f"the peer {name} cannot be measured: {reason}")
        else:
            absent[name] = reason
    return here, absent


class Running:
    """A contender's process, ready."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="atoll-bench-")
        with (Path(self._folder.name) / "log").open("w") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own modules
                [sys.executable, "-m", f"atoll.bench.peers.actors.{name}_actors"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._folder.name,
                process_group=0,
                text=True,
            )
        if self._line().strip() != name:
            said = self._last_words()
            self.close()
            raise Unreachable(f"{name} did not start: {said}")

    def _line(self) -> str:
        return self._process.stdout.readline() if self._process.stdout else ""

    def _last_words(self) -> str:
        said = " ".join((Path(self._folder.name) / "log").read_text(errors="replace").split())
        return said[-400:] or "it said nothing"

    def do(self, operation: str, seconds: float) -> dict[str, float]:
        """Do it for so long; the answer has the CPU of all its processes, too.

        Raises:
            Unreachable: It ended instead.
        """
        before = tree_clocks(self._process.pid)
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{operation} {seconds:.4f}\n")
                self._process.stdin.flush()
        if not (line := self._line()):
            raise Unreachable(f"{self.name} ended in the middle of {operation}: {self._last_words()}")
        answer: dict[str, float] = json.loads(line)
        return answer | {"cpu_s": spent_s(before, tree_clocks(self._process.pid))}

    def close(self) -> None:
        """End it and all below it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self._process.pid).children(recursive=True)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for each in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            psutil.wait_procs(below, timeout=STOP_S)
        self._folder.cleanup()


def measured(
    contenders: Sequence[Contender], round_s: float, progress: Progress, absent: dict[str, str] | None = None
) -> Iterator[Row]:
    """Compare them with ours, on uvloop, operation by operation in turns.

    Those that do not start are written into `absent`, or are an error without it.

    Raises:
        Unreachable: One did not start, or ended.
    """
    with ExitStack() as stack:
        running: dict[str, Running] = {}
        for name in (OURS, *(each.name for each in contenders)):
            progress(f"starting {name}")
            try:
                running[name] = Running(name)
            except Unreachable as error:
                if absent is None or name == OURS:
                    raise
                absent[name] = str(error)
                continue
            stack.callback(running[name].close)
        for operation, title in TITLES.items():
            others = [each.name for each in contenders if operation in each.operations]
            able = [OURS, *(name for name in others if name in running)]
            progress(f"{title}: {', '.join(able)}")
            answers = turns({name: partial(running[name].do, operation) for name in able}, round_s)
            yield from _rows(title, answers)


def _rows(title: str, answers: dict[str, list[dict[str, float]]]) -> Iterator[Row]:
    kinds: list[tuple[str, str, Callable[[dict[str, float]], float]]] = [
        ("1/s", "", lambda got: got["count"] / got["took_s"]),
        ("us CPU", ", CPU each", lambda got: got["cpu_s"] / got["count"] * 1e6),
    ]
    if all("p50_us" in got for rounds in answers.values() for got in rounds):
        kinds.append(("us", ", p50", lambda got: got["p50_us"]))
    for unit, suffix, figure in kinds:
        ours: Row | None = None
        for name, rounds in answers.items():
            slices = [figure(got) for got in rounds]
            each = row(f"{name}, {title}{suffix}", unit, slices, against=ours, group=f"beside others, {title}{suffix}")
            ours = ours or each
            yield each
