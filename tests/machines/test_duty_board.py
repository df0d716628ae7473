"""The board of one node: whom it obeys, what it tells, and what it holds on to."""

import pytest

from atoll.actors.cloud.messages import NodeRecord, OfferedService
from atoll.actors.discoverer.messages import LinkWanted, MemberAlive, MemberDied, MemberLeft
from atoll.actors.duties.board import GATHER_S, DutyBoard
from atoll.actors.duties.messages import (
    PROXY,
    REGISTRAR,
    DropDuty,
    DutyFailed,
    DutyPlace,
    DutyReady,
    HeldDuty,
    HoldDuty,
    LabelsChanged,
    MemberHere,
    OwnRecordChanged,
    SiteKnown,
    SiteLabels,
    SiteRoll,
)
from atoll.actors.duties.roll import RECORD_S
from atoll.actors.elector.messages import DrainWanted, ScoreChanged, SupernodeElected, SupernodeLost
from atoll.actors.elector.score import Score
from atoll.actors.router.messages import PeerDown, PeerUp
from atoll.actors.runtime.machine import Announce, Arm, Received, Send, TimerFired, Told
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId

TV, DESK, PHONE = (NodeId(bytes([number]) * 32) for number in (1, 2, 3))
NAMES = {TV: "tv", DESK: "desk", PHONE: "phone"}
MAINS = Score(mains=True, cloud=True)


def record(node, **more):
    return NodeRecord(node, NAMES[node], "home", "1.0", **more)


def member(node, held=(), **more):
    return MemberHere(record(node), MAINS, (PROXY, REGISTRAR), tuple(held), **more)


class Driven:
    """A board, its clock, and what it did last."""

    def __init__(self, own=TV):
        self.now = 0.0
        self.board = DutyBoard(record(own), (PROXY, REGISTRAR))
        self.effects = self.board.start((), 0.0)

    def take(self, event):
        self.effects = self.board.handle(event, self.now)
        self.board.check()
        return self

    def told(self, fact):
        return self.take(Told(fact))

    def received(self, sender, message):
        return self.take(Received(sender, message))

    def timer(self, name, after=0.0):
        self.now += after
        return self.take(TimerFired(name))

    def sent(self, kind):
        return [each for each in self.effects if isinstance(each, Send) and isinstance(each.message, kind)]

    def announced(self, kind):
        return [each.fact for each in self.effects if isinstance(each, Announce) and isinstance(each.fact, kind)]

    def linked(self, *nodes):
        for node in nodes:
            self.told(PeerUp(node, Standing.MEMBER, NAMES[node], "127.0.0.1"))
        return self

    def elected(self, node, epoch=1):
        return self.told(SupernodeElected(node, epoch, confirmed=True, reason="a test said so"))

    def presiding(self, *others):
        """As supernode that has gathered its members, and holds the duties itself."""
        self.told(ScoreChanged(Score(mains=True, wired=True, cloud=True))).linked(*others).elected(self.board.own.node)
        for each in others:
            self.received(each, member(each))
        self.timer("decide", GATHER_S)
        assert {each.duty for each in self.announced(HoldDuty)} == {PROXY, REGISTRAR}
        self.told(DutyReady(PROXY)).told(DutyReady(REGISTRAR)).timer("report")
        return self


def place(duty, holder, *, source=None, epoch=1, turn=1):
    return DutyPlace(duty, holder, epoch, turn, source, "a test said so")


def roll(*places):
    return SiteRoll(tuple(map(record, NAMES)), places)


def test_what_a_member_says_is_told_to_everybody_at_once_and_not_with_the_next_report():
    site = Driven().presiding(DESK, PHONE)
    echo = NodeRecord(DESK, "desk", "home", "1.0", services=(OfferedService("echo", "/echo/v1"),))
    site.received(DESK, MemberHere(echo, MAINS, (PROXY, REGISTRAR)))
    rolls = site.sent(SiteRoll)
    assert [each.target for each in rolls] == [DESK, PHONE]
    assert all(echo in each.message.records for each in rolls)
    # The same again is nothing new.
    site.received(DESK, MemberHere(echo, MAINS, (PROXY, REGISTRAR)))
    assert site.sent(SiteRoll) == []


def test_a_member_that_comes_back_as_it_was_is_told_the_roll_at_once_and_nobody_else():
    tv = Driven().linked(DESK, PHONE).elected(TV)
    tv.received(PHONE, member(PHONE)).received(DESK, member(DESK)).timer("decide", GATHER_S)
    assert not tv.received(DESK, member(DESK)).sent(SiteRoll), "a report that says nothing new is not answered"
    tv.told(PeerDown(DESK, "its host was reset")).linked(DESK)
    (told,) = tv.received(DESK, member(DESK)).sent(SiteRoll)
    assert told.target == DESK
    assert record(DESK) in told.message.records


def test_a_member_that_died_is_off_the_roll_at_once_and_one_out_of_reach_is_not():
    site = Driven().presiding(DESK, PHONE)
    site.told(PeerDown(DESK, "silent"))
    assert site.sent(SiteRoll) == []
    site.told(MemberDied(DESK, "nobody hears it"))
    assert [[each.name for each in sent.message.records] for sent in site.sent(SiteRoll)] == [["phone", "tv"]]


def test_a_new_supernode_gathers_before_it_places_what_nobody_holds():
    site = Driven().linked(DESK).told(ScoreChanged(Score())).elected(TV)
    assert Arm("decide", GATHER_S) in site.effects
    site.received(DESK, member(DESK))
    assert site.board.describe().places == ()
    site.timer("decide", GATHER_S)
    assert {each.holder for each in site.board.describe().places} == {DESK}
    assert site.announced(HoldDuty) == []


def test_who_was_on_the_roll_stays_on_it_under_the_next_supernode_and_a_silent_one_goes_in_the_end():
    site = Driven(DESK).linked(TV, PHONE).elected(TV).received(TV, roll(place(PROXY, PHONE), place(REGISTRAR, PHONE)))
    site.told(SupernodeLost(TV, 1, "the lease ran out")).elected(DESK, epoch=2)
    everybody = {TV, DESK, PHONE}
    assert [{each.node for each in told.records} for told in site.announced(SiteKnown)] == [everybody]
    # The phone, which holds the duties, is told what the others say: nobody is missing for a moment.
    site.received(TV, member(TV))
    assert all({each.node for each in told.message.records} == everybody for told in site.sent(SiteRoll))
    site.timer("decide", GATHER_S)
    site.timer("report", RECORD_S / 2).received(TV, member(TV))
    assert {each.node for each in site.board.describe().records} == everybody
    site.timer("report", RECORD_S / 2)
    assert {each.node for each in site.board.describe().records} == {TV, DESK}


def test_what_a_node_heard_as_supernode_long_ago_strikes_nobody_off_when_it_is_supernode_again():
    site = Driven(DESK).presiding(TV, PHONE).elected(TV, epoch=2).received(TV, roll())
    site.now += 2 * RECORD_S
    site.received(TV, roll()).elected(DESK, epoch=3).timer("report")
    assert {each.node for each in site.board.describe().records} == {TV, DESK, PHONE}


def test_who_died_under_the_supernode_before_is_struck_off_by_the_next():
    site = Driven(DESK).linked(TV, PHONE).elected(TV).received(TV, roll()).elected(DESK, epoch=2)
    site.told(MemberDied(TV, "silent though suspected"))
    assert {each.node for each in site.board.describe().records} == {DESK, PHONE}


@pytest.mark.parametrize("gone", [MemberDied(TV, "silent though suspected"), MemberLeft(TV)], ids=["died", "left"])
def test_a_supernode_that_is_known_to_be_gone_before_the_next_is_elected_is_not_on_the_roll(gone):
    site = Driven(DESK).linked(TV, PHONE).elected(TV).received(TV, roll()).told(gone).elected(DESK, epoch=2)
    assert {each.node for each in site.board.describe().records} == {DESK, PHONE}


def test_who_was_only_taken_for_gone_stays_on_the_roll_under_the_next_supernode():
    site = Driven(DESK).linked(TV, PHONE).elected(TV).received(TV, roll())
    site.told(MemberDied(PHONE, "silent though suspected")).told(MemberAlive(PHONE, "it says so"))
    site.elected(DESK, epoch=2)
    assert {each.node for each in site.board.describe().records} == {TV, DESK, PHONE}


def test_a_roll_is_obeyed_of_the_supernode_only():
    site = Driven().linked(DESK, PHONE).elected(DESK)
    site.received(PHONE, roll(place(PROXY, TV)))
    assert site.effects == []
    assert site.board.counts["rolls_of_others"] == 1
    site.received(DESK, roll(place(PROXY, TV)))
    assert site.announced(HoldDuty) == [HoldDuty(PROXY, None)]
    # And once: a supernode obeys nobody.
    site.elected(TV, 2)
    site.received(DESK, roll())
    assert site.announced(DropDuty) == []


def test_a_holder_reports_what_it_does_only_when_it_does_it():
    site = Driven().linked(DESK).elected(DESK).received(DESK, roll(place(PROXY, TV, turn=7)))
    (report,) = site.timer("report").sent(MemberHere)
    assert report.message.held == ()
    site.told(DutyReady(PROXY))
    (report,) = site.timer("report").sent(MemberHere)
    assert report.message.held == (HeldDuty(PROXY, 1, 7),)
    site.told(DutyReady("none of ours"))
    assert site.effects == []


def test_a_source_goes_on_until_its_duty_is_settled_elsewhere_and_gives_its_state_to_that_one_only():
    site = Driven().linked(DESK, PHONE).elected(DESK).received(DESK, roll(place(PROXY, TV)))
    site.received(DESK, roll(place(PROXY, PHONE, source=TV, turn=2)))
    assert site.announced(DropDuty) == []
    assert site.board.may_give(PROXY, PHONE)
    assert not site.board.may_give(PROXY, DESK)
    assert not site.board.may_give(REGISTRAR, PHONE)
    site.received(DESK, roll(place(PROXY, PHONE, turn=2)))
    assert site.announced(DropDuty) == [DropDuty(PROXY)]
    assert not site.board.may_give(PROXY, PHONE)


def test_what_is_held_is_held_on_while_nobody_presides():
    site = Driven().linked(DESK).elected(DESK).received(DESK, roll(place(PROXY, TV)))
    site.told(SupernodeLost(DESK, 1, "silent"))
    assert site.announced(DropDuty) == []
    assert site.announced(SiteKnown)[0].supernode is None
    assert site.board.describe().held == (PROXY,)
    site.timer("report")
    assert site.sent(MemberHere) == []


def test_the_same_duty_under_the_next_supernode_is_not_begun_again():
    site = Driven().linked(DESK, PHONE).elected(DESK).received(DESK, roll(place(PROXY, TV))).told(DutyReady(PROXY))
    site.elected(PHONE, 2).received(PHONE, roll(place(PROXY, TV, epoch=2, turn=2)))
    assert site.announced(HoldDuty) == []
    (report,) = site.timer("report").sent(MemberHere)
    assert report.message.held == (HeldDuty(PROXY, 2, 2),)


def test_a_duty_that_could_not_be_begun_is_not_reported_and_goes_elsewhere():
    site = Driven().linked(DESK).elected(DESK).received(DESK, roll(place(PROXY, TV)))
    site.told(DutyFailed(PROXY))
    (report,) = site.timer("report").sent(MemberHere)
    assert report.message.held == ()


@pytest.mark.parametrize("told", ["anothers record", "another site"])
def test_a_record_that_is_not_the_senders_own_or_of_another_site_is_refused(told):
    site = Driven().presiding(DESK)
    wrong = {"anothers record": record(PHONE), "another site": NodeRecord(DESK, "desk", "office")}[told]
    site.received(DESK, MemberHere(wrong))
    assert site.effects == []
    assert site.board.counts["records_refused"] == 1


def test_labels_are_believed_of_the_proxys_node_only_and_passed_on_to_the_registrars():
    labels = ((TV, b"l" * 16),)
    site = Driven().linked(DESK, PHONE).elected(DESK)
    site.received(DESK, roll(place(PROXY, PHONE), place(REGISTRAR, TV)))
    site.received(DESK, SiteLabels(labels, ()))
    assert site.announced(LabelsChanged) == []
    assert site.board.counts["labels_of_others"] == 1
    site.received(PHONE, SiteLabels(labels, (DESK,)))
    assert site.announced(LabelsChanged) == [LabelsChanged(labels, (DESK,))]
    assert LabelsChanged(labels, (DESK,)) in site.board.recent()
    site.received(DESK, roll(place(PROXY, TV, turn=2), place(REGISTRAR, PHONE, turn=2)))
    site.told(LabelsChanged(labels, ()))
    assert [(each.target, each.message) for each in site.sent(SiteLabels)] == [(PHONE, SiteLabels(labels, ()))]
    # On a large site the two have no link of themselves.
    assert LinkWanted(PHONE) in site.announced(LinkWanted)


def test_what_a_draining_supernode_holds_goes_to_another_member_and_stays_with_nobody_better():
    site = Driven().presiding(DESK)
    site.told(DrainWanted(draining=True)).timer("report")
    assert {(each.holder, each.source) for each in site.board.describe().places} == {(DESK, TV)}
    assert not site.board.alone
    both = Driven().presiding(DESK)
    both.received(DESK, member(DESK, draining=True)).told(DrainWanted(draining=True)).timer("report")
    assert {each.holder for each in both.board.describe().places} == {TV}
    assert both.board.alone


def test_the_own_record_is_in_the_next_roll():
    site = Driven().presiding(DESK)
    site.told(OwnRecordChanged((), ("thermostat",))).timer("report")
    (sent,) = site.sent(SiteRoll)
    assert {each.actors for each in sent.message.records} == {(), ("thermostat",)}


def test_a_proxy_repeats_its_labels_also_as_supernode_and_after_the_roll_that_says_so():
    labels = ((TV, b"l" * 16),)
    site = Driven().presiding(DESK).told(LabelsChanged(labels, ()))
    assert site.sent(SiteLabels) == []
    there = {each.duty: each for each in site.board.describe().places}
    site.told(DrainWanted(draining=True))
    site.received(DESK, MemberHere(record(DESK), MAINS, (REGISTRAR,))).timer("report")
    site.received(DESK, MemberHere(record(DESK), MAINS, (REGISTRAR,), (HeldDuty(REGISTRAR, 1, there[REGISTRAR].turn),)))
    site.timer("report")
    assert {each.duty: each.holder for each in site.board.describe().places} == {PROXY: TV, REGISTRAR: DESK}
    assert [type(each.message) for each in site.effects if isinstance(each, Send)] == [SiteRoll, SiteLabels]
