"""Helpers that the tests of the system have are for the labs too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "system"))
