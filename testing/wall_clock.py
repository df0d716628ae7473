"""Lets the clocks of one process jump, by libfaketime (Debian: `libfaketime`): the wall clock alone, or all of them.

It is preloaded into a process as that starts, and reads from a file, at every look at a clock, by how much to lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
)


def library() -> str | None:
    """Give where libfaketime is; None where it is not."""
    return next((path for path in LIBRARIES if Path(path).exists()), None)


@dataclass(frozen=True, slots=True)
class JumpingClocks:
    """The clocks of one process; `file` says by how much they are off."""

    file: Path
    library: str
    all_clocks: bool = False
    """Those that only go on, too (`CLOCK_MONOTONIC`, `CLOCK_BOOTTIME`): forward, that is how a host's sleep looks."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """Give what to start so that `argv` sees these clocks."""
        self.jump(0)
        settings = {
            "LD_PRELOAD": self.library,
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "0" if self.all_clocks else "1",
        }
        return ["env", *(f"{name}={value}" for name, value in settings.items()), *argv]

    def jump(self, seconds: int) -> None:
        """Be off by so much from now on."""
        fresh = self.file.with_name(f"{self.file.name}.new")
        fresh.write_text(f"{seconds:+d}")
        fresh.replace(self.file)
