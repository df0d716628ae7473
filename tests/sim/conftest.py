"""Which seeds the simulations run: `--sim-seeds N` of them, or exactly `--sim-seed N`; else enough for a commit.

Enough is what `--deep` runs; the quick suite runs a quarter, and `least` of those whose seeds are of several kinds.
"""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
SEEDS = 200
"""Where a test does not say `@pytest.mark.seeds(N)`; or `seeds(N, MAX)`, where each takes long."""
QUICK_PART = 4


def pytest_generate_tests(metafunc):
    option = metafunc.config.getoption
    if "seed" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("seeds")
        enough = SEEDS if marker is None else marker.args[0]
        least = 1 if marker is None else marker.kwargs.get("least", 1)
        if not option("--deep"):
            enough = min(enough, max(least, -(-enough // QUICK_PART)))
        most = marker.args[1] if marker is not None and len(marker.args) > 1 else None
        wanted = option("--sim-seeds") or enough
        one = option("--sim-seed")
        metafunc.parametrize("seed", range(min(wanted, most or wanted)) if one is None else [one])
    if "sim_seconds" in metafunc.fixturenames:
        metafunc.parametrize("sim_seconds", [option("--sim-seconds") or 25.0], ids=["s"])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == HERE and "seed" in item.fixturenames:
            item.add_marker("partly")
