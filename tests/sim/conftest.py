"""Which seeds the simulations run: `--sim-seeds N` of them, or exactly `--sim-seed N`; else enough for a commit."""

SEEDS = 200
"""Of the quick suite, where a test does not say `@pytest.mark.seeds(N)`; or `seeds(N, MAX)`, where each takes long."""
LONG_FROM = 500
"""With so many seeds, those marked `long` run too."""


def pytest_generate_tests(metafunc):
    option = metafunc.config.getoption
    if "seed" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("seeds")
        quick = SEEDS if marker is None else marker.args[0]
        most = marker.args[1] if marker is not None and len(marker.args) > 1 else None
        wanted = option("--sim-seeds") or quick
        one = option("--sim-seed")
        metafunc.parametrize("seed", range(min(wanted, most or wanted)) if one is None else [one])
    if "sim_seconds" in metafunc.fixturenames:
        metafunc.parametrize("sim_seconds", [option("--sim-seconds") or 25.0], ids=["s"])


def pytest_collection_modifyitems(config, items):
    if (config.getoption("--sim-seeds") or 0) >= LONG_FROM:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
