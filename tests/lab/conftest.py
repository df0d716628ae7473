"""Helpers that the tests of the system have are for the labs too."""

import sys
from pathlib import Path

import pytest

from atoll.testing.host_pauses import HostPauses

sys.path.append(str(Path(__file__).parent.parent / "system"))


@pytest.fixture
def host_pauses():
    """How long this host stood still during the test; whoever bounds how long users wait adds it."""
    with HostPauses() as pauses:
        yield pauses
