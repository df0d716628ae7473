"""Which seeds the simulations run: `--sim-seeds N` of them, or exactly `--sim-seed N`."""

SEEDS = 200


def pytest_addoption(parser):
    parser.addoption("--sim-seeds", type=int, default=SEEDS, help="how many seeds each simulation runs")
    parser.addoption("--sim-seed", type=int, default=None, help="the one seed to run, to replay a failure")
    parser.addoption("--write-traces", action="store_true", help="write tests/traces anew")
    parser.addoption("--sim-seconds", type=float, default=None, help="simulated seconds of each seed")


def pytest_generate_tests(metafunc):
    # pytest registers these options only when it is called on this folder; otherwise the defaults hold.
    option = metafunc.config.getoption
    if "seed" in metafunc.fixturenames:
        one = option("--sim-seed", None)
        seeds = range(option("--sim-seeds", SEEDS)) if one is None else [one]
        metafunc.parametrize("seed", seeds)
    if "sim_seconds" in metafunc.fixturenames:
        metafunc.parametrize("sim_seconds", [option("--sim-seconds", None) or 25.0], ids=["s"])
