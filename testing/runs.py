"""Writes down every running cluster, so that `atoll --at home/tv` (see `cli/places.py`) finds that node's socket.

    published  --end of the run-->  removed        --SIGKILL-->  stale  --next run, or start of a cluster-->  cleared

A file names its owner by process number and time of birth. A stale one is nobody's: what it lists is killed (only what
has the same time of birth) and removed.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from atoll.cluster_specs.config import default_run_dir
from atoll.testing.errors import ClusterFault
from atoll.testing.warden_main import born, kill_if_same

FORMAT = 1


@dataclass(slots=True)
class Run:
    """One running cluster."""

    label: str
    """The spec's name, with the process number behind it where that name is taken."""
    pid: int
    birth: str | None
    nodes: dict[str, str] = field(default_factory=dict)
    """API sockets by node."""
    processes: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    """Number and time of birth."""
    scratch: str = ""
    """A directory that goes with the run; empty: it stays."""

    @property
    def stale(self) -> bool:
        """Its owner is gone."""
        return born(self.pid) != self.birth

    @property
    def file(self) -> Path:
        """Where it is written down."""
        return runs_directory() / f"{self.label}.json"

    def write(self) -> None:
        """Write it down, whole or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self.file.with_suffix(".new")
        draft.write_text(json.dumps({"format": FORMAT} | asdict(self)))
        draft.replace(self.file)


def runs_directory() -> Path:
    """Give where the running clusters of this user are written down."""
    return default_run_dir() / "clusters"


@contextlib.contextmanager
def published(name: str, sockets: Mapping[str, Path], scratch: Path | None = None) -> Iterator[Run]:
    """Write a run down while the block lasts.

    Raises:
        ClusterFault: It cannot be written down.
    """
    clear_stale()
    label = f"{name}-{os.getpid()}" if name in (run.label for run in running()) else name
    nodes = {node: str(path) for node, path in sockets.items()}
    run = Run(label, os.getpid(), born(os.getpid()), nodes, scratch=str(scratch or ""))
    try:
        run.write()
    except OSError as error:
        raise ClusterFault(
            f"{run.file} cannot be written: {error.strerror}", "set XDG_RUNTIME_DIR to a directory of yours"
        ) from error
    try:
        yield run
    finally:
        run.file.unlink(missing_ok=True)


def running() -> list[Run]:
    """List the clusters that run, by name; stale files are passed over."""
    return [run for run in _all_runs() if not run.stale]


def clear_stale() -> list[str]:
    """Kill and remove what runs without an owner have left; gives the runs' labels."""
    cleared = []
    for run in _all_runs():
        if run.stale:
            for pid, birth in run.processes.values():
                kill_if_same(pid, birth)
            if run.scratch:
                shutil.rmtree(run.scratch, ignore_errors=True)
            run.file.unlink(missing_ok=True)
            cleared.append(run.label)
    return cleared


def _all_runs() -> Iterator[Run]:
    for file in sorted(runs_directory().glob("*.json")):
        try:
            plain = json.loads(file.read_text())
            if plain.pop("format") == FORMAT:
                plain["processes"] = {name: (pid, birth) for name, (pid, birth) in plain["processes"].items()}
                yield Run(**plain)
        except FileNotFoundError:
            continue  # Its run has just ended.
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ClusterFault(f"{file} is no cluster's file: {error!r}", "remove it") from error
