"""Membership at its limits: large sites, floods of neighbours, dials under way."""

from membership_bench import HIGH, OTHERS, PORT, Bench, node

from atoll.actors.discoverer import membership
from atoll.actors.discoverer.membership import (
    DIALS_MAX,
    NEIGHBOUR_DIALS_MAX,
    NEIGHBOUR_LINKS_MAX,
    RING_LINKS,
    SMALL_SITE_MAX,
)
from atoll.actors.discoverer.messages import (
    LinkWanted,
    Seed,
    Wanted,
)
from atoll.actors.discoverer.talks import TALK_S, TALKS_MAX
from atoll.actors.router.messages import PeerDown
from atoll.transport.base import Standing


def test_a_small_site_has_links_to_everybody(bench):
    for other in OTHERS[: SMALL_SITE_MAX - 1]:
        bench.hear(other)
        bench.up(other)
    assert set(bench.dialled) == set(OTHERS[: SMALL_SITE_MAX - 1])


def test_a_large_site_dials_the_next_few_and_those_wanted(bench):
    # While everybody is linked the rule is looked at with all of them known.
    members = OTHERS[:200]
    for other in members:
        bench.up(other)
    for other in members:
        bench.tell(PeerDown(other, "the switch restarted"))
    bench.dials.clear()
    heard = [(other, "192.0.2.7") for other in members]
    bench.tell(Wanted(frozenset([OTHERS[100], OTHERS[150], node(7)])))
    bench.wait(30, hearing=heard)
    assert set(bench.dialled) == {*members[:RING_LINKS], OTHERS[100], OTHERS[150]}
    assert "large site" in bench.line(OTHERS[50]).why
    bench.tell(Wanted(frozenset([OTHERS[50]])))
    bench.wait(5, hearing=heard)
    assert OTHERS[50] in bench.dialled


def test_a_supernode_has_links_to_everybody_however_large_the_site(bench):
    for each in OTHERS[:100]:
        bench.hear(each)
        bench.up(each) if each in OTHERS[:2] else None
    bench.tell(Wanted(frozenset(), everybody=True))
    for _ in range(100):
        lines = {each.node: each for each in bench.machine.seen(bench.now).nodes}
        for who in set(bench.dialled):
            if lines[who].standing == "":
                bench.up(who)
        bench.wait(0.3)
    assert {*bench.dialled, *OTHERS[:2]} == set(OTHERS[:100])


def test_the_ring_goes_round(bench):
    members = [node(number) for number in range(1, 40)]
    for other in members:
        bench.up(other)
    for other in members:
        bench.tell(PeerDown(other, "the switch restarted"))
    bench.wait(10, hearing=[(other, "192.0.2.7") for other in members])
    assert set(bench.dialled) == set(members[:RING_LINKS])


def test_dials_under_way_are_bounded_and_members_go_first():
    bench = Bench(seeds=[Seed(each, "192.0.2.9", PORT) for each in OTHERS[:40]])
    assert len(bench.dials) == DIALS_MAX
    bench.wait(120)
    assert set(bench.dialled) == set(OTHERS[:40])


def test_neighbours_leave_room_for_members(bench):
    for other in OTHERS[:50]:
        bench.hear(other, member=False)
    assert len(bench.dials) == NEIGHBOUR_DIALS_MAX
    bench.hear(HIGH)
    assert bench.dialled[-1] == HIGH
    assert "neighbours are being dialled" in bench.line(OTHERS[20]).why


def test_the_cloud_is_no_neighbour(bench):
    bench.up(HIGH, Standing.CLOUD)
    bench.tell(PeerDown(HIGH, "gone"))
    assert bench.line(HIGH) is None
    assert bench.seen == []


def test_links_to_neighbours_are_limited(bench):
    for other in OTHERS[:NEIGHBOUR_LINKS_MAX]:
        bench.up(other, Standing.NEIGHBOUR)
    bench.hear(OTHERS[-1], member=False)
    assert bench.dials == []
    assert "enough" in bench.line(OTHERS[-1]).why
    bench.tell(PeerDown(OTHERS[0], "gone"))
    bench.wait(1)
    assert OTHERS[-1] in bench.dialled


def test_invented_neighbours_do_not_grow_the_table_nor_keep_members_out(bench, monkeypatch):
    monkeypatch.setattr(membership, "NEIGHBOURS_MAX", 8)
    for other in OTHERS[:100]:
        bench.hear(other, member=False)
    assert len(bench.machine.seen(bench.now).nodes) == 8
    bench.hear(HIGH)
    assert bench.line(HIGH).member
    assert bench.machine.statistics(bench.now)["refused"] == 92


def test_broken_links_do_not_overfill_the_table(bench, monkeypatch):
    monkeypatch.setattr(membership, "NEIGHBOURS_MAX", 3)
    for other in OTHERS[:6]:
        bench.up(other, Standing.NEIGHBOUR)
    for other in OTHERS[:6]:
        bench.tell(PeerDown(other, "gone"))
    assert len(bench.machine.seen(bench.now).nodes) == 3
    assert len(bench.lost) == 3


def test_a_beacon_can_claim_membership_but_the_link_decides(bench):
    bench.hear(HIGH, member=True)
    bench.up(HIGH, Standing.NEIGHBOUR)
    bench.hear(HIGH, member=True)
    assert (bench.line().member, bench.line().standing) == (False, "neighbour")


def on_a_large_site(bench):
    members = OTHERS[:100]
    for other in members:
        bench.hear(other)
    heard = [(other, "192.0.2.7") for other in members]
    bench.wait(3, hearing=heard)
    for who in set(bench.dialled):
        bench.up(who)
    bench.dials.clear()
    bench.let_go.clear()
    return heard


def test_a_member_of_a_large_site_that_is_talked_to_is_dialled_and_let_go_when_nobody_has_said_anything_for_long(bench):
    heard = on_a_large_site(bench)
    far = OTHERS[60]
    assert "large site" in bench.line(far).why
    bench.tell(LinkWanted(far))
    assert bench.dialled == [far]
    assert bench.machine.is_coming(far)
    bench.up(far)
    assert not bench.machine.is_coming(far)
    bench.wait(TALK_S - 2, hearing=heard)
    bench.tell(LinkWanted(far))
    bench.wait(TALK_S - 2, hearing=heard)
    assert bench.let_go == []
    bench.wait(4, hearing=heard)
    assert bench.let_go == [far]
    bench.tell(PeerDown(far, "let go"))
    bench.wait(20, hearing=heard)
    assert bench.dialled == [far], "nobody wants it any more"


def test_a_link_that_is_wanted_for_another_reason_too_is_not_let_go(bench):
    heard = on_a_large_site(bench)
    far = OTHERS[60]
    bench.tell(LinkWanted(far))
    bench.up(far)
    bench.tell(Wanted(frozenset([far])))
    bench.wait(2 * TALK_S, hearing=heard)
    assert bench.let_go == []


def test_only_so_many_members_are_talked_to_at_once_and_strangers_never(bench):
    heard = on_a_large_site(bench)
    unlinked = [each for each in OTHERS[:100] if bench.line(each).standing == ""]
    for each in unlinked:
        bench.tell(LinkWanted(each))
    assert bench.machine.statistics(bench.now)["talks_refused"] == len(unlinked) - TALKS_MAX
    assert len(bench.dialled) <= DIALS_MAX
    bench.dials.clear()
    bench.hear(HIGH, member=False)
    bench.dials.clear()
    for stranger in (HIGH, node(9999)):
        bench.tell(LinkWanted(stranger))
        assert not bench.machine.is_coming(stranger)
    bench.wait(1, hearing=heard)


def test_on_a_small_site_a_wish_for_a_link_changes_nothing(bench):
    bench.hear(OTHERS[3])
    bench.dials.clear()
    bench.tell(LinkWanted(OTHERS[3]))
    assert (bench.dials, bench.machine.is_coming(OTHERS[3])) == ([], False)
