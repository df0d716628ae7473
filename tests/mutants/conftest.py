"""With how many seeds the real machine is tried beside each mutant: all of them when `make sim` asks for many."""

import pytest

QUICK, ALL = range(2), range(6)


@pytest.fixture
def right_seeds(request):
    # Registered by the simulations' folder, and so only known when that is called by name.
    many = request.config.getoption("--sim-seeds", None)
    return QUICK if many is None else ALL
