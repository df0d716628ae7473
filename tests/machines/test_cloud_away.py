"""A cloud that was away: who was there before is still there, until it had the time to say so and did not."""

import os

import pytest

from atoll.actors.cloud.directory import NODE_LEASE_S, Directory
from atoll.actors.cloud.messages import AnnounceSite, LookUp, NodeRecord, RelayReport, SepLabel
from atoll.actors.cloud.signaling import Signaling
from atoll.actors.cloud.store import AWAY_S, GRACE_S, CloudStore
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey


class Cloud:
    """A cloud on a file, with a site and a relay, under a clock that the test moves."""

    def __init__(self, path):
        self.now, self.key, self.path = 1_000_000.0, NodeKey.generate(), path
        self.begin()
        self.tv, self.relay = self.enrol("tv", "home", "node"), self.enrol("relay-1", "", "relay")

    def begin(self):
        self.store = CloudStore(self.path)
        self.signaling = Signaling(self.store, self.key, lambda: self.now)
        self.directory = Directory(self.store, self.signaling, lambda: self.now)

    def enrol(self, name, site, kind):
        key, secret = NodeKey.generate().node_id, os.urandom(32)
        self.store.expect(secret, kind=kind, site=site, name=name)
        assert self.store.enrol(key, secret)
        return self.store.enrolled(key)

    def site_speaks(self):
        record = NodeRecord(self.tv.node, "tv", "home")
        label = SepLabel(self.tv.node, self.relay.node, b"l" * 16)
        self.directory.announce(self.tv, AnnounceSite("home", (record,), (label,)))

    def relay_speaks(self):
        self.signaling.report(self.relay, RelayReport("relay-1.example", 8088, 8089, 0.0))

    def found(self):
        return self.directory.look_up(LookUp("home/tv", (os.urandom(32),)))


@pytest.fixture
def cloud(tmp_path):
    cloud = Cloud(tmp_path / "cloud.db")
    cloud.relay_speaks()
    cloud.site_speaks()
    yield cloud
    with cloud.store:
        pass


@pytest.mark.parametrize("away_s", [AWAY_S, 20.0, 3600.0])
def test_after_a_pause_who_was_there_is_still_found_with_its_routes(cloud, away_s):
    cloud.now += away_s
    assert len(cloud.found().routes) == 1


def test_a_new_life_begins_with_who_was_there_at_the_end_of_the_last(cloud):
    with cloud.store:
        pass
    cloud.now += 60.0
    cloud.begin()
    assert len(cloud.found().routes) == 1


def test_who_does_not_speak_up_after_a_pause_is_gone(cloud):
    cloud.now += 20.0
    assert cloud.found()
    for _ in range(int(GRACE_S) + 1):
        cloud.now += 1.0
        cloud.relay_speaks()
    with pytest.raises(Unreachable, match="home/tv"):
        cloud.found()


def test_who_had_gone_before_a_pause_does_not_come_back(cloud):
    for _ in range(int(NODE_LEASE_S) + 1):
        cloud.now += 1.0
        cloud.relay_speaks()
    cloud.now += 20.0
    with pytest.raises(Unreachable, match="home/tv"):
        cloud.found()
