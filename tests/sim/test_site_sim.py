"""A whole site under simulation: whatever happens to its hosts, its duties are done, and moved without a pause."""

import pytest

from atoll.actors.elector.messages import DrainWanted, Leave, Resign
from atoll.testing.faults import FaultPlan
from atoll.testing.site_duties import NoPause, site_simulation

OFTEN = (0.1, 2.0)
FAULTS_S = 8.0
SETTLED_S = 20.0
"""After the faults: a member's report after 5 s, a suspicion, a duty that fails to begin a few times."""
ORDERS = (DrainWanted(True), DrainWanted(False), Resign("to drain"))
IN_ORDER = FaultPlan(weights={"tell": 1.0}, every_s=(0.5, 3.0), late_ratio=0.0, duplicate_ratio=0.0, facts=ORDERS)
"""Nothing fails; nodes are drained, used again, and hand the lead over."""
PLANS = (
    FaultPlan(every_s=OFTEN, until_s=FAULTS_S),
    FaultPlan(
        every_s=OFTEN, until_s=FAULTS_S, weights={**FaultPlan().weights, "tell": 3.0}, facts=(*ORDERS, Leave("home"))
    ),
    FaultPlan(every_s=OFTEN, until_s=FAULTS_S, weights={"halves": 2.0, "partial": 2.0, "pause": 1.0, "crash": 2.0}),
)


def site_of(seed):
    return site_simulation(
        seed,
        voters=(1, 3, 5)[seed % 3],
        bystanders=seed % 4,
        faults=PLANS[seed // 3 % len(PLANS)],
        fails=0.2 * (seed % 2),
        chooses=seed % 4 < 2,
    )


@pytest.mark.parametrize("start", range(0, 36, 6))
def test_in_the_end_each_duty_is_done_once_and_everybody_knows_by_whom(start, enough):
    for seed in range(start, start + enough(6)):
        report = site_of(seed).run(FAULTS_S + SETTLED_S)
        assert not report.violations, f"{report.violations[0]}; seed {seed}"


@pytest.mark.parametrize("start", range(0, 20, 10))
def test_a_duty_moves_with_its_state_and_without_a_pause(start, enough):
    moves, seeds = 0, range(start, start + enough(10, least=5))
    for seed in seeds:
        probe = NoPause()
        report = site_simulation(seed, voters=(3, 5)[seed % 2], faults=IN_ORDER, probes=[probe]).run(30.0)
        assert not report.violations, f"{report.violations[0]}; seed {seed}"
        moves += probe.moves
    assert moves >= len(seeds), "next to nothing moved"


def test_the_same_seed_is_the_same_site():
    plan = FaultPlan(every_s=OFTEN)
    one, other = (site_simulation(5, voters=3, bystanders=2, faults=plan).run(20.0) for _ in range(2))
    assert one == other
