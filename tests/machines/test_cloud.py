"""The cloud's decisions: who may announce what, which relay is chosen, what a look-up gives."""

import os
from types import SimpleNamespace

import anyio
import pytest

from atoll.actors.cloud.directory import NODE_LEASE_S, Directory
from atoll.actors.cloud.doors import WAITING_PER_SENDER_MAX, DirectoryDoor
from atoll.actors.cloud.messages import (
    MESSAGES,
    AnnounceSite,
    ListNodes,
    LookUp,
    NodeRecord,
    OfferedService,
    PlaceSep,
    RelayReport,
    SepLabel,
    TunnelRequest,
)
from atoll.actors.cloud.signaling import PURSE_LIFE_S, RELAY_LEASE_S, TUNNELS_PER_NODE_MAX, Signaling
from atoll.actors.cloud.store import CloudStore, StoreFailed
from atoll.actors.runtime import Address
from atoll.actors.runtime.errors import Declined
from atoll.actors.tunnel_relay.tickets import BEP_ROLES, Role, check
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.errors import Refused, Unreachable, UsageError
from atoll.transport.keys import NodeKey


class Cloud:
    """A cloud of plain objects under a clock that the test moves."""

    def __init__(self):
        self.now = 1_000_000.0
        self.key = NodeKey.generate()
        self.store = CloudStore(None)
        self.signaling = Signaling(self.store, self.key, lambda: self.now)
        self.directory = Directory(self.store, self.signaling, lambda: self.now)

    def wait(self, seconds):
        """Let time pass while others are heard: a cloud that hears nobody knows that it was away itself."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 1.0, until)
            self.store.heard(self.now)

    def enrol(self, name, *, site="home", kind="node"):
        key, secret = NodeKey.generate(), os.urandom(32)
        self.store.expect(secret, kind=kind, site=site, name=name)
        assert self.store.enrol(key.node_id, secret)
        return self.store.enrolled(key.node_id)

    def relay(self, name, load=0.0):
        enrolled = self.enrol(name, site="", kind="relay")
        self.signaling.report(enrolled, RelayReport(f"{name}.example", 8088, 8089, load))
        return enrolled


@pytest.fixture
def cloud():
    cloud = Cloud()
    with cloud.store:
        yield cloud


def record(enrolled, **changes):
    return NodeRecord(**{"node": enrolled.node, "name": enrolled.name, "site": enrolled.site} | changes)


def test_every_message_survives_the_codec():
    codec = Codec(MESSAGES)
    report = RelayReport("relay.example", 1, 2, 0.5)
    assert codec.decode(codec.encode(report)) == report


def test_an_enrolment_secret_admits_exactly_one_key(cloud):
    secret = os.urandom(32)
    cloud.store.expect(secret, kind="node", site="home", name="tv")
    first, second = NodeKey.generate().node_id, NodeKey.generate().node_id
    assert cloud.store.enrol(first, secret)
    assert cloud.store.enrol(first, secret)
    assert not cloud.store.enrol(second, secret)
    assert cloud.store.enrolled(second) is None


def test_a_secret_nobody_expects_admits_nobody(cloud):
    assert not cloud.store.enrol(NodeKey.generate().node_id, os.urandom(32))


def test_a_guessable_enrolment_secret_is_refused(cloud):
    with pytest.raises(UsageError, match="at least 16 bytes"):
        cloud.store.expect(b"short", kind="node", site="home", name="tv")


def test_enrolments_survive_a_restart(tmp_path):
    secret, key = os.urandom(32), NodeKey.generate()
    with CloudStore(tmp_path / "cloud.db") as store:
        store.expect(secret, kind="node", site="home", name="tv")
        assert store.enrol(key.node_id, secret)
    with CloudStore(tmp_path / "cloud.db") as store:
        store.expect(secret, kind="node", site="home", name="tv")
        assert store.enrolled(key.node_id).name == "tv"
        assert not store.enrol(NodeKey.generate().node_id, secret)


def test_a_store_that_is_no_database_is_refused_in_words(tmp_path):
    (tmp_path / "cloud.db").write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(UsageError, match="cannot be used as the cloud's store"):
        CloudStore(tmp_path / "cloud.db")


def test_a_site_cannot_announce_another_site(cloud):
    tv = cloud.enrol("tv")
    with pytest.raises(Refused, match="enrolled for site 'home'"):
        cloud.directory.announce(tv, AnnounceSite("office", ()))


@pytest.mark.parametrize(
    "changes",
    [{"name": "other"}, {"site": "office"}, {"services": (OfferedService("a", "/a\n/b"),)}, {"actors": ("x",) * 1000}],
)
def test_a_record_that_cannot_be_is_left_out_with_its_reason_and_the_others_are_kept(cloud, changes):
    tv, phone = cloud.enrol("tv"), cloud.enrol("phone")
    announced = cloud.directory.announce(tv, AnnounceSite("home", (record(tv, **changes), record(phone))))
    assert len(announced.left_out) == 1
    assert [each.name for each in cloud.directory.list_nodes(ListNodes()).nodes] == ["phone"]


def test_a_site_cannot_announce_nodes_of_another(cloud):
    tv, desk = cloud.enrol("tv"), cloud.enrol("desk", site="office")
    announced = cloud.directory.announce(tv, AnnounceSite("home", (record(desk, site="home"),)))
    assert "not enrolled as a node of site 'home'" in announced.left_out[0]
    assert not cloud.directory.list_nodes(ListNodes()).nodes


def test_a_relay_cannot_pass_for_a_node(cloud):
    relay = cloud.relay("relay-1")
    with pytest.raises(Refused):
        cloud.signaling.tunnels(relay, TunnelRequest())


def test_records_are_gone_when_their_lease_is_over(cloud):
    tv = cloud.enrol("tv")
    cloud.directory.announce(tv, AnnounceSite("home", (record(tv),)))
    assert [each.name for each in cloud.directory.list_nodes(ListNodes()).nodes] == ["tv"]
    cloud.wait(NODE_LEASE_S + 0.1)
    assert cloud.directory.list_nodes(ListNodes()).nodes == ()
    with pytest.raises(Unreachable, match="home/tv"):
        cloud.directory.look_up(LookUp("home/tv", ()))


def test_a_name_that_fits_two_sites_is_refused_with_both(cloud):
    for site in ("home", "office"):
        tv = cloud.enrol("tv", site=site)
        cloud.directory.announce(tv, AnnounceSite(site, (record(tv),)))
    with pytest.raises(Refused, match="home/tv, office/tv"):
        cloud.directory.look_up(LookUp("tv", ()))
    assert cloud.directory.look_up(LookUp("office/tv", ())).record.site == "office"


def test_a_look_up_gives_a_ticket_per_relay_bound_to_the_callers_fresh_keys(cloud):
    relays = [cloud.relay("relay-1"), cloud.relay("relay-2", load=0.5)]
    tv = cloud.enrol("tv")
    labels = tuple(SepLabel(tv.node, relay.node, os.urandom(16)) for relay in relays)
    cloud.directory.announce(tv, AnnounceSite("home", (record(tv),), labels))
    holders = (os.urandom(32), os.urandom(32))
    found = cloud.directory.look_up(LookUp(str(tv.node), holders))
    assert [route.relay for route in found.routes] == [relay.node for relay in relays]
    for route, holder in zip(found.routes, holders, strict=True):
        ticket = check(
            route.ticket,
            issuer=cloud.key.node_id,
            relay=route.relay,
            roles={Role.REACH},
            holder=holder,
            now=cloud.now,
        )
        assert ticket.role is Role.REACH


def test_a_site_is_placed_on_two_different_relays_least_loaded_first(cloud):
    for name, load in (("busy", 0.9), ("idle", 0.1), ("half", 0.5)):
        cloud.relay(name, load)
    tv = cloud.enrol("tv")
    placed = cloud.signaling.place(tv, PlaceSep("home", (os.urandom(32), os.urandom(32), os.urandom(32))))
    assert [each.host for each in placed.placements] == ["idle.example", "half.example"]


def test_a_site_has_one_registration_at_a_relay_and_its_callers_are_sent_to_that(cloud):
    relays = [cloud.relay("relay-1"), cloud.relay("relay-2", load=0.5)]
    tv, phone, desk = cloud.enrol("tv"), cloud.enrol("phone"), cloud.enrol("desk", site="office")

    def placed(sender):
        message = PlaceSep(sender.site, (os.urandom(32), os.urandom(32)))
        return [each.registration for each in cloud.signaling.place(sender, message).placements]

    assert placed(tv) == placed(phone)
    assert len({*placed(tv), *placed(desk)}) == 4
    labels = tuple(SepLabel(tv.node, relay.node, os.urandom(16)) for relay in relays)
    cloud.directory.announce(tv, AnnounceSite("home", (record(tv),), labels))
    holders = (os.urandom(32), os.urandom(32))
    routes = cloud.directory.look_up(LookUp(str(tv.node), holders)).routes
    subjects = [
        check(
            route.ticket, issuer=cloud.key.node_id, relay=route.relay, roles={Role.REACH}, holder=holder, now=cloud.now
        ).subject
        for route, holder in zip(routes, holders, strict=True)
    ]
    assert subjects == placed(tv)


def test_a_nodes_tunnels_share_a_purse_that_differs_by_relay_and_hour_and_names_nobody(cloud):
    relays = [cloud.relay("relay-1"), cloud.relay("relay-2")]
    tv, phone = cloud.enrol("tv"), cloud.enrol("phone")

    def purses(sender):
        pairs = cloud.signaling.tunnels(sender, TunnelRequest(2)).pairs
        found = {}
        for pair in pairs:
            asked = {"issuer": cloud.key.node_id, "relay": pair.relay, "roles": BEP_ROLES, "holder": None}
            offer, call = (check(half, now=cloud.now, **asked) for half in (pair.offer, pair.call))
            assert (offer.purse, offer.tunnels_max) == (call.purse, TUNNELS_PER_NODE_MAX)
            found[pair.relay] = offer.purse
        return found

    first = purses(tv)
    assert purses(tv) == first
    cloud.wait(PURSE_LIFE_S)
    for relay in relays:
        cloud.signaling.report(relay, RelayReport("relay.example", 8088, 8089, 0.0))
    drawn = [*first.values(), *purses(tv).values(), *purses(phone).values()]
    assert len(set(drawn)) == len(drawn)
    assert not [each for each in drawn if each in tv.node or each in phone.node]


def test_a_dead_relay_is_not_placed_on(cloud):
    cloud.relay("relay-1")
    tv = cloud.enrol("tv")
    cloud.wait(RELAY_LEASE_S + 0.1)
    with pytest.raises(Unreachable, match="atoll relay run"):
        cloud.signaling.place(tv, PlaceSep("home", (os.urandom(32),)))


def test_a_draining_relay_gets_nothing_new(cloud):
    relay = cloud.relay("relay-1")
    cloud.signaling.report(relay, RelayReport("relay-1.example", 8088, 8089, 0.0, draining=True))
    with pytest.raises(Unreachable):
        cloud.signaling.tunnels(cloud.enrol("tv"), TunnelRequest())


def test_both_halves_of_a_tunnel_name_the_same_tunnel_and_end_together(cloud):
    cloud.relay("relay-1")
    (pair,) = cloud.signaling.tunnels(cloud.enrol("tv"), TunnelRequest()).pairs
    halves = [
        check(half, issuer=cloud.key.node_id, relay=pair.relay, roles=BEP_ROLES, holder=None, now=cloud.now)
        for half in (pair.offer, pair.call)
    ]
    assert [half.role for half in halves] == [Role.OFFER, Role.CALL]
    assert {half.subject for half in halves} == {pair.tunnel}
    assert {half.expires_at for half in halves} == {pair.expires_at}


@pytest.mark.parametrize(
    "report",
    [RelayReport("", 1, 2, 0), RelayReport("x", 0, 2, 0), RelayReport("x", 1, 2**16, 0), RelayReport("x", 1, 2, 7)],
)
def test_a_senseless_relay_report_is_refused(cloud, report):
    relay = cloud.enrol("relay-1", site="", kind="relay")
    with pytest.raises(Refused, match="reports a host"):
        cloud.signaling.report(relay, report)


def test_a_key_that_is_none_gets_no_ticket(cloud):
    cloud.relay("relay-1")
    with pytest.raises(Refused, match="fresh CURVE key"):
        cloud.signaling.place(cloud.enrol("tv"), PlaceSep("home", (bytes(32),)))


def test_rows_do_not_pile_up(cloud):
    tv = cloud.enrol("tv")
    cloud.directory.announce(tv, AnnounceSite("home", (record(tv),)))
    cloud.now += NODE_LEASE_S + 1
    assert cloud.store.sweep(cloud.now) == 1
    assert cloud.store.sweep(cloud.now) == 0


def test_what_a_full_or_readonly_disk_refuses_is_said_once_and_nothing_is_half_written(tmp_path, caplog):
    caplog.set_level("INFO", "atoll")
    with CloudStore(tmp_path / "cloud.db") as store:
        key, secret = NodeKey.generate(), os.urandom(32)
        store.expect(secret, kind="node", site="home", name="tv")
        assert store.enrol(key.node_id, secret)
        tv = NodeRecord(key.node_id, "tv", "home")
        store.keep_nodes((tv,), (), 100.0)
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        for trouble, mended, words in (
            (f"PRAGMA max_page_count = {pages}", "PRAGMA max_page_count = 1000000", "its disk is full: make room"),
            ("PRAGMA query_only = 1", "PRAGMA query_only = 0", "fix the rights of the file"),
        ):
            store._database.execute(trouble)
            wordy = [NodeRecord(key.node_id, "tv", "home", actors=("x" * 20_000,)) for _ in range(2)]
            for _ in range(3):
                with pytest.raises(StoreFailed, match="the cloud cannot use its store now"):
                    store.keep_nodes(tuple(wordy), (), 200.0)
            assert caplog.text.count(words) == 1
            assert store.node_by_id(key.node_id, 50.0) == tv
            assert store.enrolled(key.node_id).name == "tv"
            store._database.execute(mended)
            store.keep_nodes((tv,), (), 100.0)
    assert caplog.text.count("can be written again") == 2


def test_a_store_failure_at_the_door_is_a_refusal_in_words():
    store = CloudStore(None)
    store.expect(bytes(32), kind="node", site="home", name="tv")
    store._database.execute("PRAGMA query_only = 1")
    with store, pytest.raises(Refused, match="cannot use its store now"):
        store.enrol(NodeKey.generate().node_id, bytes(32))


def test_a_database_with_a_damaged_page_is_noticed_at_the_start(tmp_path):
    path = tmp_path / "cloud.db"
    with CloudStore(path) as store:
        for _ in range(200):
            store.expect(os.urandom(32), kind="node", site="home", name="tv")
    data = bytearray(path.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 64] = b"\xa5" * 64
    path.write_bytes(data)
    with pytest.raises(UsageError, match="put back a copy, or start without one"):
        CloudStore(path)


@pytest.mark.anyio
async def test_senders_take_turns_however_many_questions_one_of_them_has(cloud):
    answered = []

    class Told:
        def __init__(self, name):
            self.name = name

        def answer(self, message):
            answered.append(self.name)

        def fail(self, error):
            answered.append(str(error))

    door = DirectoryDoor(cloud.store, cloud.directory)
    loud, quiet = cloud.enrol("loud"), cloud.enrol("quiet")

    def question(sender, number):
        ref = SimpleNamespace(address=Address(sender.node, "x"))
        told = Told(f"{sender.name} {number}")
        return SimpleNamespace(sender=ref, standing=Standing.GRANTED, message=ListNodes(), reply_to=told)

    for number in range(WAITING_PER_SENDER_MAX):
        await door.receive(question(loud, number))
    with pytest.raises(Declined, match=f"{WAITING_PER_SENDER_MAX} of your questions wait"):
        await door.receive(question(loud, 99))
    await door.receive(question(quiet, 0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door._answer_in_turn)
        while len(answered) <= WAITING_PER_SENDER_MAX:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert answered[:3] == ["loud 0", "quiet 0", "loud 1"]
    assert answered[-1] == f"loud {WAITING_PER_SENDER_MAX - 1}"


def test_an_announcement_that_fails_in_the_middle_leaves_nothing_of_it(cloud):
    tv, box = cloud.enrol("tv"), cloud.enrol("box")
    with pytest.raises(StoreFailed):
        cloud.store.keep_nodes((record(tv), record(box, version=object())), (), cloud.now + 10)
    assert cloud.store.node_by_id(tv.node, cloud.now) is None
    cloud.store.keep_nodes((record(tv),), (), cloud.now + 10)
    assert cloud.store.node_by_id(tv.node, cloud.now) == record(tv)


def test_an_answer_that_is_too_long_is_declined_and_ends_nobody(cloud):
    said = []

    class Told:
        def answer(self, message):
            raise UsageError(f"a message has at most 4194304 bytes, {type(message).__name__} has more")

        def fail(self, error):
            said.append(str(error))

    door, asker = DirectoryDoor(cloud.store, cloud.directory), cloud.enrol("asker")
    door._answer_to(asker.node, SimpleNamespace(message=ListNodes(), reply_to=Told()))
    assert said == ["the answer cannot be sent: a message has at most 4194304 bytes, NodeList has more"]
