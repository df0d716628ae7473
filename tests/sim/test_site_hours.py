"""Many worlds at once: the same sum over any number of processes, and a failure that can be replayed."""

from functools import partial

import pytest
from click.testing import CliRunner

from atoll.actors.elector.election import Election
from atoll.cli.sim import command as sim
from atoll.testing import site_hours
from atoll.testing.elections import election_simulation
from atoll.testing.faults import EVERYTHING
from atoll.testing.site_duties import site_simulation
from atoll.testing.site_hours import World, plan_with, run_all, world_of
from atoll.testing.site_hours_main import command as hours
from atoll.transport.errors import UsageError


class OneVoteIsAMajority(Election):
    @property
    def quorum(self):
        return 1


@pytest.fixture
def broken(monkeypatch):
    monkeypatch.setattr(site_hours, "election_simulation", partial(election_simulation, kind=OneVoteIsAMajority))
    monkeypatch.setattr(site_hours, "site_simulation", partial(site_simulation, kind=OneVoteIsAMajority))


def test_two_processes_find_what_one_finds():
    alone, together = (run_all([world_of(seed, 2.0) for seed in range(12)], jobs) for jobs in (1, 2))
    assert alone.trace_hash == together.trace_hash
    assert (alone.worlds, alone.elections, alone.events) == (together.worlds, together.elections, together.events)
    assert together.simulated_s == pytest.approx(24.0)
    assert not together.violations


def test_worlds_have_all_sizes_under_all_plans():
    drawn = [world_of(seed) for seed in range(84)]
    assert len({(each.voters, id(each.plan)) for each in drawn}) == 7 * len(site_hours.PLANS)
    assert {(id(each.plan), each.whole) for each in drawn} == {
        (id(p), w) for p in site_hours.PLANS for w in (True, False)
    }
    assert {each.bystanders for each in drawn} == {0, 1, 2}


def test_only_the_faults_that_are_asked_for_happen():
    assert plan_with("").weights == EVERYTHING
    crashing, cut, quiet = (run_all([World(3, 3, 0, plan_with(kinds))]) for kinds in ("crash", "halves,loss", "none"))
    assert crashing.crashes
    assert (crashing.partitions, cut.crashes, quiet.crashes, quiet.partitions) == (0, 0, 0, 0)
    assert cut.partitions
    with pytest.raises(UsageError, match="no fault is called 'earthquake'; there are crash, "):
        plan_with("crash,earthquake")


@pytest.mark.usefixtures("broken")
def test_a_failing_seed_prints_the_command_that_replays_it():
    failed = CliRunner().invoke(sim, ["lan-3", "--hours", "0.05", "--seed", "5", "--faults", "halves,crash"])
    assert failed.exit_code == 1
    replay = failed.output.split("replay the first with: atoll sim ")[1].split()
    again = CliRunner().invoke(sim, replay)
    assert again.exit_code == 1
    first = failed.output.split("violations   ['")[1].split("'")[0]
    assert first in again.output, "the same violation, at the same moment"


@pytest.mark.usefixtures("broken")
def test_site_hours_name_what_failed_and_end_with_their_number():
    done = CliRunner().invoke(hours, ["--hours", "0.1", "--jobs", "1"])
    assert done.exit_code == 1
    first, *_, last = done.output.splitlines()
    assert "in epoch 1, it is" in first
    assert "replay with: python -m atoll.testing.site_hours_main --seed " in first
    assert " site-hours in " in last
    assert ", 0 violations" not in last
