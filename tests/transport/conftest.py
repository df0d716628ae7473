"""Every test of the contract runs over each kind of link transport."""

import pytest
from link_worlds import MemoryWorld, ZeroMqWorld


@pytest.fixture(params=[MemoryWorld, ZeroMqWorld], ids=["memory", "zeromq"])
def world(request):
    return request.param()
