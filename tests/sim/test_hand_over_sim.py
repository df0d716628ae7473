"""The hand-over of migratable actors under every fault at once: nothing acknowledged is lost, doubled or changed."""

import pytest

from atoll.actors.hand_over import log_store, move, replication
from atoll.actors.hand_over.log_store import LogStore
from atoll.actors.hand_over.messages import LOG_STORE
from atoll.actors.placement.messages import Placed
from atoll.testing.faults import EVERYTHING, Crash, FaultPlan, Forget
from atoll.testing.hand_over_invariants import OneServes
from atoll.testing.hand_overs import Replace, Restock, hand_over_simulation, world

DOWN_S = (0.01, 0.1)
OFTEN_LATE = {"late_ratio": 0.1, "late_s_max": 1.0, "duplicate_ratio": 0.1}
SHORT = {"crash_s": (0.02, 1.0), "pause_s": (0.1, 2.0), "suspend_s": (0.2, 3.0), "cut_s": (0.1, 2.0)}
HARMLESS_TO_STATE = {kind: 1.0 for kind in EVERYTHING if kind not in ("crash", "tear")}
"""A soft actor dies with its host, and what it answered with it; all other faults it must survive."""
CRASHES = {"crash": 6.0, "tear": 6.0, "loss": 1.0, "partial": 1.0}


def replay(request, seed):
    return f"replay with: python -m pytest tests/sim --sim-seed {seed} -k {request.node.originalname}"


QUICK_SEEDS = 2
"""Each takes half a second; `make nightly` has thousands."""


def all_wanted(request):
    option = request.config.getoption
    return option("--sim-seed") is not None or option("--sim-seeds") is not None


@pytest.fixture
def seconds(sim_seconds, request):
    return sim_seconds if all_wanted(request) else sim_seconds / 2


def check(simulation, seconds, request, seed):
    report = simulation.run(seconds)
    assert not report.violations, f"{report.violations[0]}; {replay(request, seed)}"
    assert simulation.once.acknowledged > 0, replay(request, seed)
    return report


@pytest.mark.seeds(QUICK_SEEDS)
def test_every_acknowledged_operation_is_applied_exactly_once_despite_every_fault(seed, seconds, request):
    plan = FaultPlan(every_s=(0.05, 2.0), until_s=seconds - 5, **SHORT)
    of = world(4 + seed % 2, (1, 2, 3, 3, 3, 4)[seed % 6], 3)
    check(hand_over_simulation(seed, plan, of), seconds, request, seed)


@pytest.fixture
def five_parts(monkeypatch):
    """Let states be sent in about five parts: real ones are beyond 256 KiB, these a few dozen bytes."""
    cuts = []

    def parts_of(state):
        size = max(4, len(state) // 5 + 1)
        parts = [state[at : at + size] for at in range(0, len(state), size)] or [b""]
        if len(parts) > 1:
            cuts.append(len(parts))
        return parts

    for module in (log_store, move, replication):
        monkeypatch.setattr(module, "parts_of", parts_of)
    return cuts


@pytest.mark.seeds(QUICK_SEEDS)
def test_states_of_several_parts_are_handed_over_whole_despite_every_fault(seed, seconds, request, five_parts):
    plan = FaultPlan(every_s=(0.05, 2.0), until_s=seconds - 5, **SHORT, **OFTEN_LATE)
    check(hand_over_simulation(seed, plan, world(4 + seed % 2, (1, 2, 3, 4)[seed % 4], 3)), seconds, request, seed)
    assert five_parts


@pytest.mark.seeds(QUICK_SEEDS)
def test_crashes_and_torn_writes_in_quick_succession_lose_nothing(seed, seconds, request):
    plan = FaultPlan(weights=CRASHES, every_s=(0.02, 0.2), until_s=seconds - 5, **{**SHORT, "crash_s": (0.01, 0.2)})
    check(hand_over_simulation(seed, plan, world(4, 3, 3)), seconds, request, seed)


@pytest.mark.seeds(QUICK_SEEDS)
def test_emptied_stores_lose_nothing(seed, seconds, request):
    plan = FaultPlan(weights={**EVERYTHING, "forget": 0.3}, every_s=(0.5, 3.0), **SHORT)
    report = hand_over_simulation(seed, plan, world(5, 3 if seed % 2 else 5, 3)).run(seconds)
    assert not report.violations, f"{report.violations[0]}; {replay(request, seed)}"


@pytest.mark.seeds(QUICK_SEEDS)
def test_nothing_is_lost_while_logs_are_kept_on_ever_other_stores(seed, seconds, request):
    plan = FaultPlan(every_s=(0.05, 2.0), until_s=seconds - 5, **SHORT)
    of = world(5, 1 + seed % 3, 3, move_s=(0.02, 0.2)[seed % 2], restock_s=(0.05, 0.5))
    simulation = hand_over_simulation(seed, plan, of)
    check(simulation, seconds, request, seed)
    assert simulation.once.changes > 0


@pytest.mark.seeds(QUICK_SEEDS)
def test_nothing_is_lost_while_logs_are_kept_on_ever_other_stores_and_stores_are_emptied(seed, seconds, request):
    plan = FaultPlan(weights={**EVERYTHING, "forget": 0.3}, every_s=(0.05, 2.0), **SHORT)
    of = world(5, 1 + seed % 3, 3, move_s=(0.02, 0.2)[seed % 2], restock_s=(0.05, 0.5))
    report = hand_over_simulation(seed, plan, of).run(seconds)
    assert not report.violations, f"{report.violations[0]}; {replay(request, seed)}"


def where_stores_forget(seed, until_s):
    plan = FaultPlan(every_s=(0.05, 2.0), until_s=until_s, **SHORT)
    of = world(5, 1 + seed % 3, 3, move_s=(0.02, 0.2)[seed % 2], restock_s=(0.05, 0.5), retains=True)
    return hand_over_simulation(seed, plan, of)


@pytest.mark.seeds(QUICK_SEEDS)
def test_nothing_is_lost_while_stores_that_are_not_wanted_any_more_forget(seed, seconds, request):
    check(where_stores_forget(seed, seconds - 5), seconds, request, seed)


def test_stores_do_forget_there():
    for seed in range(6):
        simulation = where_stores_forget(seed, 10.0)
        simulation.run(15.0)
        machines = [host.machine for host in simulation.hosts[:5] if host.machine is not None]
        if any(machine.parts["log_store"].dropped for machine in machines):
            return
    raise AssertionError("in six worlds no store has forgotten anything")


def where_actors_are_removed(seed, until_s, **more):
    """Each life of the actor begins empty, on stores that may have dropped the one before, or be away."""
    plan = FaultPlan(every_s=(0.05, 2.0), until_s=until_s, **SHORT)
    restock_s = (0.05, 0.5) if seed % 4 < 2 else None
    removed = {"restock_s": restock_s, "remove_s": (0.2, 2.0), "retains": True}
    of = world(4 + seed % 2, 1 + seed % 3, 3, move_s=(0.02, 0.2)[seed % 2], **removed, **more)
    return hand_over_simulation(seed, plan, of)


def logs_of_removed(simulation, up_to):
    """Name the stores that keep what was removed."""
    stores = [host.machine.parts[LOG_STORE] for host in simulation.hosts[: len(simulation.world.hosts)] if host.machine]
    return [kept for store in stores for kept in store.logs.values() if kept.generation <= up_to]


@pytest.mark.seeds(QUICK_SEEDS)
def test_what_is_removed_is_gone_and_nothing_is_lost_that_its_next_life_acknowledged(seed, seconds, request):
    simulation = where_actors_are_removed(seed, seconds - 5)
    simulation.run(seconds - 4)
    register = simulation.hosts[len(simulation.world.hosts)].machine.parts["placement"]
    retired = register.retired
    check(simulation, 4, request, seed)
    assert simulation.once.lives.now > 1, replay(request, seed)
    assert logs_of_removed(simulation, retired) == [], replay(request, seed)


@pytest.mark.deep
def test_callers_are_told_of_removals_there():
    told = 0
    for seed in range(4):
        simulation = where_actors_are_removed(seed, 10.0)
        simulation.run(15.0)
        told += simulation.once.told_of_removal
    assert told > 10


class NeverDrops(LogStore):
    def is_removed(self, kept, first):
        return False


@pytest.mark.deep
def test_a_store_that_never_drops_what_was_removed_is_noticed_there():
    kept = []
    for seed in range(4):
        simulation = where_actors_are_removed(seed, 6.0, store_kind=NeverDrops)
        simulation.run(7.0)
        retired = simulation.hosts[len(simulation.world.hosts)].machine.parts["placement"].retired
        simulation.run(4.0)
        kept += logs_of_removed(simulation, retired)
    assert kept


FOR_GOOD_S = 1e6


@pytest.mark.parametrize("stores", [2, 3])
def test_a_store_that_is_gone_for_good_is_left_behind_and_the_actor_goes_on(stores):
    """Of two stores, the one that lives has everything, and goes on with one only after the set was changed."""
    quiet = {"weights": {}, "late_ratio": 0.0, "duplicate_ratio": 0.0}
    plan = FaultPlan(**quiet, script=[(3.0, Crash(0, FOR_GOOD_S))])
    of = world(4, stores, 3, move_s=0.0, replace_s=None)
    simulation = hand_over_simulation(7, plan, of)
    simulation.run(5.0)
    before, register = simulation.once.acknowledged, simulation.hosts[4].machine.parts["placement"]
    elsewhere = Placed(register.places["ledger"].generation + 1, of.hosts[1], of.stores)
    simulation.tell(simulation.hosts[4], Replace("ledger", elsewhere))
    simulation.run(3.0)
    served = simulation.once.acknowledged > before
    assert served == (stores > 2), "a majority of two is both"
    left = of.stores[1:]
    simulation.tell(simulation.hosts[1], Restock(left))
    simulation.run(3.0)
    assert simulation.once.acknowledged > before + 100
    assert register.places["ledger"].stores == left
    simulation.tell(simulation.hosts[1], Restock((*left, of.hosts[3])))
    report = simulation.run(5.0)
    assert register.places["ledger"].stores == (*left, of.hosts[3])
    assert simulation.hosts[3].machine.parts["log_store"].logs["ledger"].voice
    assert not report.violations, report.violations[0]


@pytest.mark.seeds(QUICK_SEEDS)
def test_planned_moves_of_soft_actors_are_exactly_once(seed, seconds, request):
    plan = FaultPlan(weights=HARMLESS_TO_STATE, every_s=(0.05, 2.0), until_s=seconds - 5, **SHORT)
    of = world(4, 0, 3, soft=True, replace_s=None)
    check(hand_over_simulation(seed, plan, of), seconds, request, seed)


@pytest.mark.seeds(QUICK_SEEDS)
def test_soft_actors_that_are_removed_in_quick_succession_are_exactly_once_in_each_life(seed, seconds, request):
    plan = FaultPlan(weights=HARMLESS_TO_STATE, every_s=(0.05, 1.0), **SHORT, **OFTEN_LATE)
    of = world(4, 0, 3, soft=True, replace_s=None, move_s=0.3, remove_s=(0.05, 0.5))
    simulation = hand_over_simulation(seed, plan, of)
    check(simulation, seconds, request, seed)
    assert simulation.once.lives.now > 3, replay(request, seed)


KILLS = {"crash": 4.0, "tear": 1.0}


def killed_in_moves(seed, seconds, **more):
    """Give what a soft actor does while its hosts are killed in the middle of its moves, and words come late."""
    plan = FaultPlan(
        weights=KILLS, every_s=(0.02, 0.3), until_s=seconds - 5, aim=1.0, late_ratio=0.2, late_s_max=1.0, crash_s=DOWN_S
    )
    of = world(4, 0, 3, soft=True, replace_s=None, **more)
    simulation = hand_over_simulation(seed, plan, of, violations_max=10**6)
    simulation.watch(OneServes())
    return simulation


@pytest.mark.seeds(QUICK_SEEDS)
def test_a_soft_actor_whose_hosts_are_killed_in_its_moves_is_never_run_twice_and_comes_back(seed, seconds, request):
    """What it answered before a death is gone, and may come again: that is why only this is asked."""
    simulation = killed_in_moves(seed, seconds)
    report = simulation.run(seconds)
    twice = [each for each in report.violations if "serve at once" in each]
    assert not twice, f"{twice[0]}; {replay(request, seed)}"
    assert simulation.once.last_s > seconds - 1, replay(request, seed)
    assert simulation.once.moves > 10, replay(request, seed)
    assert report.crashes > 10, replay(request, seed)


def test_a_store_that_was_emptied_is_filled_again_and_counts():
    quiet = {"weights": {}, "late_ratio": 0.0, "duplicate_ratio": 0.0}
    plan = FaultPlan(**quiet, script=[(3.0, Forget(1, 0.1)), (6.0, Forget(2, 0.1)), (9.0, Forget(0, 0.1))], until_s=9.5)
    simulation = hand_over_simulation(7, plan, world(4, 3, 2, move_s=0.0, replace_s=None))
    report = simulation.run(14.0)
    assert not report.violations, report.violations[0]
    stores = [host.machine.parts["log_store"] for host in simulation.hosts[:3]]
    assert all(store.logs["ledger"].voice for store in stores)


@pytest.mark.deep
def test_two_hosts_that_redirect_to_each_other_do_not_keep_a_caller_for_long():
    """In this run a host is told that the actor is back while it still has it in an earlier generation."""
    plan = FaultPlan(every_s=(0.5, 5), until_s=20, **{**SHORT, "crash_s": (0.02, 1)})
    report = hand_over_simulation(11013, plan, world(4, 3, 2, move_s=0.002, think_s=0.05)).run(25)
    assert not report.violations, report.violations[0]


def test_an_actor_whose_founder_dies_at_once_is_known_by_what_its_stores_were_told():
    """In this run somebody else is placed before the first entry of its log, which names its kind, is anywhere."""
    weights = {"crash": 3.0, "tear": 2.0, "loss": 3.0, "partial": 2.0}
    times = {"every_s": (0.002, 0.03), "crash_s": (0.01, 0.05), "cut_s": (0.02, 0.2)}
    plan = FaultPlan(weights=weights, until_s=2.0, loss_ratio_max=0.9, aim=0.7, **times)
    report = hand_over_simulation(34, plan, world(4, 3, 2, move_s=0.05)).run(7.0)
    assert not report.violations, report.violations[0]
