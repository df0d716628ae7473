"""How many mutants are tried: three of the election in the quick suite, all with `--all-mutants`, as `.ci/run` does.

Beside each mutant the real machine is tried: with two seeds, or with all of the mutant's when many seeds are wanted.
"""

from pathlib import Path

import pytest

QUICK, ALL = range(2), range(6)
TRIED = {"test_election_mutants.py": 3}
"""Of the quick suite, by file; the others of its files have none."""
HERE = Path(__file__).parent


@pytest.fixture
def right_seeds(request):
    return QUICK if request.config.getoption("--sim-seeds") is None else ALL


def pytest_collection_modifyitems(config, items):
    if config.getoption("--all-mutants"):
        return
    seen, kept, left = {}, [], []
    for item in items:
        is_mutant = item.path.parent == HERE and "mutant" in getattr(item, "fixturenames", ())
        seen[item.path] = seen.get(item.path, 0) + is_mutant
        enough = is_mutant and seen[item.path] > TRIED.get(item.path.name, 0)
        (left if enough else kept).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept
