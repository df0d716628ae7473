"""What may stand in the head of an HTTP message, whoever made it.

A service is not believed: a line break in a field or a target would let it write messages of its own on the wire.
"""

import re

from atoll.actors.container_manager.messages import Headers

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_URL = re.compile(r"[\x21-\x7e]+")


def field_fault(headers: Headers) -> str:
    """Say which field cannot be sent, and why; empty when all can."""
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            return f"{name[:80]!r} cannot be the name of a header"
        if not _VALUE.fullmatch(value):
            return f"the header {name[:80]} holds a line break or other characters that it must not"
    return ""


def is_method(text: str) -> bool:
    """Tell whether it can be a method, such as `GET`."""
    return _TOKEN.fullmatch(text) is not None


def is_clean_url(text: str) -> bool:
    """Tell whether it holds only what a URL may hold: no spaces, no line breaks, nothing but ASCII."""
    return _URL.fullmatch(text) is not None
