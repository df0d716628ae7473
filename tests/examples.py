"""How many examples a property tries whose number is its own, and not that of the profile."""

from hypothesis import settings

DEEP = 100
"""Of the profile of `--deep`; what the quick one has is a part of it (conftest.py)."""
LEAST = 10


def examples(count):
    """Give `count`, or the part of it that the quick suite tries."""
    return max(min(count, LEAST), count * settings.default.max_examples // DEEP)
