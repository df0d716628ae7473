"""How much memory this process has, and how much more it had for a moment.

The kernel keeps the most a process ever had, and forgets it when it is told to (Linux, `clear_refs` in proc(5)). So a
peak is measured without looking at the right moment, and what is none of its business can be left out.
"""

import resource
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

_Result = TypeVar("_Result")
_Arguments = ParamSpec("_Arguments")

_STATM, _CLEAR_REFS = Path("/proc/self/statm"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"


def most_mb() -> float:
    """Give the most memory that this process ever had, or has had since that was forgotten, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mb() -> float:
    """Give the memory this process has now, in MB; where the system does not say, the most it ever had."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize() / 2**20
    return most_mb()


class Peak:
    """The most that the process has had since `begin`, while it did nothing that is left out."""

    def __init__(self) -> None:
        self.known = False
        """Whether this system can tell."""
        self._began_mb = self._highest_mb = self._mark_mb = 0.0

    def begin(self) -> None:
        """Measure from here."""
        self.known = self._forget()
        self._began_mb = self._highest_mb = self._mark_mb = most_mb()

    @property
    def above_mb(self) -> float:
        """How far it was above what there was at the beginning."""
        self._note()
        return self._highest_mb - self._began_mb

    def without(self, act: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        """Leave out what `act` needs for a moment; what it leaves behind counts."""

        @wraps(act)
        def left_out(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            if not self.known:
                return act(*args, **kwargs)
            self._note()
            try:
                return act(*args, **kwargs)
            finally:
                if most_mb() > self._mark_mb:
                    self._forget()
                    self._mark_mb = most_mb()
                    self._highest_mb = max(self._highest_mb, self._mark_mb)

        return left_out

    def _note(self) -> None:
        if self.known and (most := most_mb()) > self._mark_mb:
            self._highest_mb, self._mark_mb = max(self._highest_mb, most), most

    def _forget(self) -> bool:
        try:
            _CLEAR_REFS.write_text(_FORGET_PEAK)
        except OSError:
            return False
        return True


PEAK = Peak()
"""This process's: its memory is one."""
