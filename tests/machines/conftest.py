"""Worlds and benches that several files of tests begin with."""

import pytest
from conversing_nodes import World
from membership_bench import Bench


@pytest.fixture
def world():
    return World()


@pytest.fixture
def caller(world):
    return world.nodes[0]


@pytest.fixture
def callee(world):
    return world.nodes[1]


@pytest.fixture
def bench():
    return Bench()
