"""What every test shares: the three event loops, and how much of the long suites is wanted.

The quick suite runs a part of what takes many seeds, cases or examples: a test asks for it with the fixture `enough`,
simulations with `seeds` (tests/sim), properties by their profile and `examples.py`. Such a test is marked `partly`
here, and `make deep` runs those and the ones marked `deep` whole. So nothing is cut that `make deep` leaves out.
A test of all three loops runs on one of them in the quick suite, not the same for each; `make deep` has the others.
"""

import gc
import zlib

import pytest
from hung_tests import HungTests
from hypothesis import is_hypothesis_test, settings
from void_tests import VoidTests

QUICK_PART = 4
"""The quick suite runs one in so many."""
EXAMPLES = settings.default.max_examples
# How long an example takes says how busy the host is, and nothing about the code.
settings.register_profile("deep", deadline=None, max_examples=EXAMPLES)
settings.register_profile("quick", deadline=None, max_examples=EXAMPLES // QUICK_PART)


def pytest_configure(config):
    # Before any test is imported: its decorators read the profile.
    settings.load_profile("deep" if config.getoption("--deep") else "quick")
    config.pluginmanager.register(HungTests())
    if not config.getoption("--no-void") and not config.getoption("--collect-only"):
        config.pluginmanager.register(VoidTests())


LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=LOOPS)
def anyio_backend(request):
    """Run an `anyio`-marked test on asyncio, uvloop and trio."""
    return request.param


def is_left_to_deep(item):
    """Tell whether this is one of the two loops of a test that the quick suite leaves out, the same each time."""
    chosen = any("anyio_backend" in mark.args[0] for mark in item.iter_markers("parametrize"))
    if chosen or item.path.parent.name == "lab" or "anyio_backend" not in getattr(item, "fixturenames", ()):
        return False
    test = item.nodeid.partition("[")[0]
    kept = LOOPS[zlib.crc32(test.encode()) % len(LOOPS)]
    return item.callspec.params["anyio_backend"] != kept.values[0]


@pytest.fixture
def enough(request):
    """Give `enough(count)`: how many of them this run has to do, at least `least`."""
    deep = request.config.getoption("--deep")
    return lambda count, least=1: count if deep else max(least, -(-count // QUICK_PART))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        if "enough" in getattr(item, "fixturenames", ()) or is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("partly")
        if is_left_to_deep(item):
            item.add_marker("deep")
    deep = [item for item in items if item.get_closest_marker("deep")]
    # All mutants are tried on all loops: `make deep` tries few.
    if deep and not config.getoption("--deep") and not config.getoption("--all-mutants"):
        config.hook.pytest_deselected(items=deep)
        items[:] = [item for item in items if not item.get_closest_marker("deep")]


def pytest_collection_finish():
    """Keep what thousands of collected tests are made of out of every later collection: a tenth of the suite's time."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption("--deep", action="store_true", help="run whole what the quick suite runs a part of")
    parser.addoption(
        "--no-void", action="store_true", help="a test that fails has failed, also where the host stood still"
    )
    parser.addoption(
        "--cancel-within", type=float, help="cancel each async test at a moment within so many seconds: it must end"
    )
    parser.addoption("--sim-seeds", type=int, help="how many seeds each simulation runs; the suites have their own")
    parser.addoption("--sim-seed", type=int, help="the one seed to run, to replay a failure")
    parser.addoption("--sim-seconds", type=float, help="simulated seconds of each seed")
    parser.addoption("--write-traces", action="store_true", help="write tests/traces anew")
    parser.addoption("--all-mutants", action="store_true", help="try every mutant, not a few of each file")
