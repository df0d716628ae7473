"""Measures what a process holds of its host: memory, file descriptors, threads, and the length of its log."""

from dataclasses import dataclass
from pathlib import Path

from atoll.testing.processes import ClusterProcess


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one process holds at one moment."""

    resident_kib: int
    descriptors: int
    threads: int
    log_bytes: int

    @classmethod
    def of(cls, process: ClusterProcess) -> "Footprint":
        """Measure it, as Linux tells it.

        Raises:
            OSError: It has ended, or this is not Linux.
        """
        place = Path("/proc") / str(process.pid)
        told = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        return cls(
            resident_kib=int(told["VmRSS"].split()[0]),
            descriptors=len(list((place / "fd").iterdir())),
            threads=int(told["Threads"]),
            log_bytes=process.log_file.stat().st_size,
        )
