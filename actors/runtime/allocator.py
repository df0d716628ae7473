"""Tells glibc to keep what a burst has freed: the next one wants it again at once.

By default it gives memory back to the system when 128 KiB at the top of the heap are free, and takes large blocks from
the system one by one; then each burst of long messages pays for fresh pages, which is two thirds of what sealing them
costs. It concerns processes that are ours alone; whoever embeds a node keeps the settings of its own.
"""

import ctypes
import sys

TRIM_BYTES = 16 * 1024 * 1024
"""What may be free at the top of the heap; a node's session has 16 MiB under way at most."""
MMAP_BYTES = 4 * 1024 * 1024
"""Blocks of so much and more come from the system one by one: the longest message is as long."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""From malloc.h."""


def keep_memory_for_bursts() -> bool:
    """Set both thresholds; False where there is no glibc, which is harmless."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - musl has a mallopt that does nothing, and not this
        mallopt = library.mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    # The second alone would end glibc's own adjustment of the first.
    return bool(mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES)) and bool(mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES))
