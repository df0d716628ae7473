"""How many mutants are tried: three of the election in the quick suite, all with `--all-mutants`, as `.ci/run` does.

Beside each mutant the real machine is tried: with two seeds, or with all of the mutant's when many seeds are wanted.
Where it is tried by a test of its own, `test_the_real_...`, the quick suite leaves that out, too.
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
    seen, kept, left, deep = {}, [], [], config.getoption("--deep")
    for item in items:
        is_mutant = item.path.parent == HERE and "mutant" in getattr(item, "fixturenames", ())
        seen[item.path] = seen.get(item.path, 0) + is_mutant
        is_real = item.path.parent == HERE and item.name.startswith("test_the_real_") and not deep
        enough = is_mutant and seen[item.path] > TRIED.get(item.path.name, 0)
        (left if enough or is_real else kept).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept
