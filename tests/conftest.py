"""What every test shares: the three event loops, and how much of the long suites is wanted."""

import gc

import pytest
from hypothesis import settings

# How long an example takes says how busy the host is, and nothing about the code.
settings.register_profile("busy host", deadline=None)
settings.load_profile("busy host")

LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=LOOPS)
def anyio_backend(request):
    """Run an `anyio`-marked test on asyncio, uvloop and trio."""
    return request.param


def pytest_collection_finish():
    """Keep what thousands of collected tests are made of out of every later collection: a tenth of the suite's time."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption("--sim-seeds", type=int, help="how many seeds each simulation runs; the quick suite has its own")
    parser.addoption("--sim-seed", type=int, help="the one seed to run, to replay a failure")
    parser.addoption("--sim-seconds", type=float, help="simulated seconds of each seed")
    parser.addoption("--write-traces", action="store_true", help="write tests/traces anew")
    parser.addoption("--all-mutants", action="store_true", help="try every mutant, not a few of each file")
