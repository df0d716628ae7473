"""Which names a blob may have: a peer chooses it, and a user's folder gets it. Without I/O.

A name is refused, never mended: what was mended might be another name that somebody wanted to be overwritten.
"""

import re

from atoll.transport.errors import Refused

NAME_BYTES_MAX = 255
"""What file systems take."""
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$|clock\$)( *\..*)?", re.IGNORECASE)
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They make a terminal show `gpj.exe` as `exe.jpg`."""
_UNSEEN = frozenset({"Cc", "Cs", "Cn", "Zl", "Zp"})


def check_name(name: str) -> str:
    """Give the name back if a folder may get it.

    Raises:
        Refused: It may not; the text says why.
    """
    why = _wrong(name)
    if why:
        raise Refused(f"the name {name[:80]!r} is refused: {why}")
    return name


def _wrong(name: str) -> str:  # noqa: PLR0911 - one return a rule
    if not name:
        return "it is empty"
    try:
        if len(name.encode()) > NAME_BYTES_MAX:
            return f"it is longer than {NAME_BYTES_MAX} bytes"
    except UnicodeEncodeError:
        return "it is no text"
    if "/" in name or "\\" in name:
        return "it is a path"
    if name.startswith("."):
        return "it begins with a dot: programs read hidden files by themselves"
    if name != name.strip() or name.endswith("."):
        return "it begins or ends with what cannot be seen"
    # Imported where it is wanted: its tables take 0.7 MB.
    import unicodedata  # noqa: PLC0415

    if any(each in _TURNS or unicodedata.category(each) in _UNSEEN for each in name):
        return "it holds characters that cannot be seen"
    if _DEVICE.fullmatch(name):
        return "some systems have a device of that name"
    return ""
