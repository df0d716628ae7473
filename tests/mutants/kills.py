"""What every nemesis must show: it kills the mutant of its rule in half of the seeds, and never the real machine."""


def must_kill(mutant, seeds, found):
    """Assert it of `found(seed)`, which gives what the mutant did wrong; stops as soon as it is shown."""
    killed = []
    for seed in seeds:
        if len(killed) * 2 >= len(seeds):
            return
        killed += [seed] if found(seed) else []
    assert len(killed) * 2 >= len(seeds), f"only seeds {killed} of {list(seeds)} kill {mutant.__name__}"


def must_spare(seeds, found):
    """Assert that the real machine does nothing wrong under them."""
    survived = {seed: wrong for seed in seeds if (wrong := found(seed))}
    assert not survived, f"the real machine breaks: {survived}"
