"""The SEP switch: who is admitted, where records go, what is counted, and that nothing is left behind."""

import os

import pytest
from circuit_switch import LABEL, OK_TICKET, OTHER_LABEL, ROLES, Switch, key_of, refused, ticket_of, undelivered
from relay_keys import ISSUER, RELAY, STRANGER

from atoll.actors.tunnel_relay import frames
from atoll.actors.tunnel_relay.circuit_events import Deliver, Draining, Elapsed, Opened, Stuck
from atoll.actors.tunnel_relay.circuits import LABEL_HOLDERS_MAX
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.tickets import Role, issue
from atoll.transport.arrivals import Arrived, Gone


def test_nobody_else_can_take_a_label_and_no_ticket_reaches_into_another_registration():
    switch = Switch()
    switch.register(b"proxy", LABEL)
    switch.register(b"thief", LABEL, subject=b"t" * 16)
    switch.reach(b"caller")
    assert switch.call(b"caller")[0] == b"proxy"
    switch.reach(b"other caller", subject=b"t" * 16)
    assert switch.call(b"other caller")[0] == b"thief"
    switch.handle(Gone(b"proxy"))
    assert switch.call(b"caller") == undelivered(b"caller", Reason.UNKNOWN_LABEL)


def test_a_connection_that_changes_its_registration_leaves_its_labels_behind():
    switch = Switch()
    switch.register(b"proxy", LABEL)
    switch.reach(b"caller")
    switch.call(b"caller")
    effects = switch.show(b"proxy", Role.REGISTER, subject=b"n" * 16)
    notice = frames.event_frame(frames.Undelivered(Reason.UNKNOWN_LABEL, LABEL))
    assert effects == [Deliver(b"caller", notice), Deliver(b"proxy", OK_TICKET)]
    assert switch.call(b"caller") == undelivered(b"caller", Reason.UNKNOWN_LABEL)
    assert switch.counted("registrations") == 1
    switch.say(b"proxy", frames.labels_frame([LABEL]))
    switch.reach(b"caller", subject=b"n" * 16)
    assert switch.call(b"caller")[0] == b"proxy"


def test_a_call_reaches_the_label_and_the_answer_the_caller():
    switch = Switch()
    switch.register(b"proxy", LABEL, OTHER_LABEL)
    switch.reach(b"caller")
    to, inbound = switch.call(b"caller")
    assert (to, inbound.label, inbound.record) == (b"proxy", LABEL, b"question")
    [answer] = switch.say(b"proxy", frames.answer_frame(inbound.circuit, b"answer"))
    assert answer.connection == b"caller"
    assert frames.read_event(answer.frame) == frames.Returned(LABEL, b"answer")
    assert switch.call(b"caller")[1].circuit == inbound.circuit


def test_two_callers_of_one_label_have_circuits_of_their_own():
    switch = Switch()
    switch.register(b"proxy", LABEL)
    switch.reach(b"one")
    switch.reach(b"two")
    first, second = switch.call(b"one")[1].circuit, switch.call(b"two")[1].circuit
    assert first != second
    [answer] = switch.say(b"proxy", frames.answer_frame(second, b"answer"))
    assert answer.connection == b"two"


@pytest.mark.parametrize(
    ("ticket", "reason"),
    [
        (ticket_of(b"c", Role.REACH, life_s=0), Reason.EXPIRED),
        (ticket_of(b"c", Role.REACH, key=STRANGER), Reason.FOREIGN_ISSUER),
        (ticket_of(b"c", Role.REACH, relay=STRANGER), Reason.FOREIGN_RELAY),
        (ticket_of(b"another", Role.REACH), Reason.FOREIGN_HOLDER),
        (ticket_of(b"c", Role.REACH)[:-1] + bytes([ticket_of(b"c", Role.REACH)[-1] ^ 1]), Reason.FORGED),
        (ticket_of(b"c", Role.REACH, quota=0), Reason.OVER_QUOTA),
        (
            issue(ISSUER, role=Role.CALL, subject=bytes(16), relay=RELAY.node_id, expires_at=2**32 - 1),
            Reason.WRONG_ROLE,
        ),
        (b"nonsense", Reason.MALFORMED),
    ],
)
def test_a_ticket_that_is_not_good_is_refused_with_its_reason(ticket, reason):
    switch = Switch()
    assert switch.say(b"c", frames.ticket_frame(ticket)) == refused(b"c", reason)
    assert switch.counted(f"refused_{reason.name.lower()}") == 1
    assert switch.counted("connections") == 0


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (frames.call_frame(LABEL, b"record"), Reason.NO_TICKET),
        (frames.answer_frame(bytes(8), b"record"), Reason.NO_TICKET),
        (frames.labels_frame([LABEL]), Reason.NO_TICKET),
        (frames.ping_frame(), Reason.NO_TICKET),
        (b"", Reason.MALFORMED),
        (b"\x01", Reason.MALFORMED),
        (b"\x01\x01", Reason.MALFORMED),
        (b"\x01\x02" + ticket_of(b"c", Role.REACH), Reason.MALFORMED),
        (b"GET / HTTP/1.1", Reason.MALFORMED),
        (OK_TICKET, Reason.MALFORMED),
    ],
)
def test_whatever_comes_before_a_ticket_cuts_the_connection(frame, reason):
    switch = Switch()
    switch.register(b"proxy", LABEL)
    assert switch.say(b"c", frame) == refused(b"c", reason)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"\x03" + LABEL, Reason.MALFORMED),
        (b"\x03" + LABEL + bytes(frames.RECORD_BYTES_MAX + 1), Reason.TOO_LONG),
        (b"\x04" + bytes(8), Reason.MALFORMED),
        (b"\x04" + bytes(8 + frames.RECORD_BYTES_MAX + 1), Reason.TOO_LONG),
        (b"\x02" + LABEL + b"x", Reason.MALFORMED),
        (b"\x02" + LABEL * (frames.LABELS_PER_REGISTRATION_MAX + 1), Reason.MALFORMED),
        (b"\x05x", Reason.MALFORMED),
        (b"\x99", Reason.MALFORMED),
        (b"", Reason.MALFORMED),
    ],
)
def test_a_malformed_frame_cuts_even_who_is_admitted(frame, reason):
    switch = Switch()
    switch.register(b"c", LABEL)
    switch.reach(b"c")
    assert switch.say(b"c", frame) == refused(b"c", reason)
    assert switch.counted("labels") == 0


def test_the_longest_record_passes_both_ways():
    switch = Switch()
    switch.register(b"proxy", LABEL)
    switch.reach(b"caller")
    record = os.urandom(frames.RECORD_BYTES_MAX)
    inbound = switch.call(b"caller", record=record)[1]
    assert inbound.record == record
    [answer] = switch.say(b"proxy", frames.answer_frame(inbound.circuit, record))
    assert frames.read_event(answer.frame).record == record


def test_who_shows_no_ticket_in_a_second_is_cut():
    switch = Switch()
    switch.handle(Opened(b"silent", key_of(b"silent")))
    switch.handle(Opened(b"silent", key_of(b"silent")))
    switch.now += 0.9
    assert switch.handle(Elapsed()) == []
    switch.now += 0.1
    assert switch.handle(Elapsed()) == refused(b"silent", Reason.NO_TICKET)


def test_a_flood_of_silent_connections_pushes_out_the_oldest_of_them_and_nobody_else():
    switch = Switch(new_max=2)
    switch.register(b"proxy", LABEL)
    for name in (b"1", b"2"):
        switch.handle(Opened(name, key_of(name)))
    assert switch.handle(Opened(b"3", key_of(b"3"))) == refused(b"1", Reason.TOO_SLOW)
    switch.reach(b"2")
    assert switch.call(b"2")[0] == b"proxy"


def test_without_the_role_nothing_is_done_but_the_other_role_goes_on():
    switch = Switch()
    switch.register(b"proxy", LABEL)
    notice = [Deliver(b"proxy", frames.denial(Reason.WRONG_ROLE))]
    assert switch.say(b"proxy", frames.call_frame(LABEL, b"record")) == notice
    switch.reach(b"caller")
    for frame in (frames.labels_frame([LABEL]), frames.answer_frame(bytes(8), b"record")):
        assert switch.say(b"caller", frame) == [Deliver(b"caller", frames.denial(Reason.WRONG_ROLE))]
    assert switch.call(b"caller")[0] == b"proxy"


def test_an_unknown_label_is_told():
    switch = Switch()
    switch.reach(b"caller")
    assert switch.call(b"caller") == undelivered(b"caller", Reason.UNKNOWN_LABEL)


def test_the_newest_live_registration_has_the_label_and_the_older_takes_over_again():
    switch = Switch()
    switch.register(b"old", LABEL)
    switch.register(b"new", LABEL)
    switch.reach(b"caller")
    assert switch.call(b"caller")[0] == b"new"
    # Saying the labels again makes no registration newer.
    switch.say(b"old", frames.labels_frame([LABEL, OTHER_LABEL]))
    assert switch.call(b"caller")[0] == b"new"
    assert switch.handle(Gone(b"new")) == []
    assert switch.call(b"caller")[0] == b"old"
    # Only when nobody takes over the caller is told, without having to ask.
    [notice] = switch.handle(Gone(b"old"))
    assert (notice.connection, frames.read_event(notice.frame)) == undelivered(b"caller", Reason.UNKNOWN_LABEL)


def test_a_list_of_labels_replaces_the_former_one():
    switch = Switch()
    switch.register(b"proxy", LABEL)
    switch.reach(b"caller")
    switch.say(b"proxy", frames.labels_frame([OTHER_LABEL]))
    assert switch.call(b"caller") == undelivered(b"caller", Reason.UNKNOWN_LABEL)
    assert switch.call(b"caller", OTHER_LABEL)[0] == b"proxy"


def test_a_circuit_is_no_use_to_another_registration_nor_after_its_caller_left():
    switch = Switch()
    switch.register(b"proxy", LABEL)
    switch.register(b"thief", OTHER_LABEL)
    switch.reach(b"caller")
    circuit = switch.call(b"caller")[1].circuit
    [told] = switch.say(b"thief", frames.answer_frame(circuit, b"forged"))
    assert (told.connection, frames.read_event(told.frame)) == undelivered(b"thief", Reason.UNKNOWN_CIRCUIT, circuit)
    switch.handle(Gone(b"caller"))
    [told] = switch.say(b"proxy", frames.answer_frame(circuit, b"late"))
    assert (told.connection, frames.read_event(told.frame)) == undelivered(b"proxy", Reason.UNKNOWN_CIRCUIT, circuit)


def test_a_ticket_pays_for_what_its_holder_sends_and_not_for_more():
    switch = Switch()
    switch.register(b"proxy", LABEL)
    switch.reach(b"caller", quota=1000)
    record = b"x" * (400 - 17)
    assert switch.call(b"caller", record=record)[0] == b"proxy"
    assert switch.call(b"caller", record=record)[0] == b"proxy"
    over = switch.say(b"caller", frames.call_frame(LABEL, record))
    assert over == refused(b"caller", Reason.OVER_QUOTA)
    # Coming again with the same ticket buys nothing, with a new one it does.
    assert switch.show(b"caller", Role.REACH, quota=1000) == refused(b"caller", Reason.OVER_QUOTA)
    switch.reach(b"caller", life_s=601)
    assert switch.call(b"caller")[0] == b"proxy"


def test_small_frames_are_not_free():
    switch = Switch()
    switch.reach(b"caller", quota=64 * 3)
    for _ in range(3):
        assert switch.call(b"caller", record=b"x") == undelivered(b"caller", Reason.UNKNOWN_LABEL)
    assert switch.say(b"caller", frames.call_frame(LABEL, b"x")) == refused(b"caller", Reason.OVER_QUOTA)


def test_a_ticket_shown_on_a_second_connection_moves_there():
    switch = Switch()
    ticket = frames.ticket_frame(ticket_of(b"proxy", Role.REGISTER))
    switch.register(b"proxy", LABEL)
    effects = switch.handle(Arrived(b"again", key_of(b"proxy"), ticket))
    assert effects == [*refused(b"proxy", Reason.REPLACED), Deliver(b"again", OK_TICKET)]
    assert switch.counted("registrations") == 1


def test_a_registration_ends_with_its_ticket_unless_it_is_renewed():
    switch = Switch()
    switch.register(b"proxy", LABEL, life_s=60)
    switch.register(b"other", OTHER_LABEL, life_s=60)
    switch.show(b"other", Role.REGISTER, life_s=120)
    switch.now += 60
    assert switch.handle(Elapsed()) == refused(b"proxy", Reason.EXPIRED)
    assert (switch.counted("registrations"), switch.counted("grants")) == (1, 1)
    switch.now += 60
    assert switch.handle(Elapsed()) == refused(b"other", Reason.EXPIRED)
    assert switch.counted("connections") == switch.counted("grants") == switch.counted("labels") == 0


@pytest.mark.parametrize("first", ROLES)
def test_one_role_may_expire_while_the_other_goes_on(first):
    switch = Switch()
    switch.show(b"both", Role.REGISTER, life_s=60 if first is Role.REGISTER else 120)
    switch.show(b"both", Role.REACH, life_s=60 if first is Role.REACH else 120)
    switch.say(b"both", frames.labels_frame([LABEL]))
    assert switch.call(b"both")[0] == b"both"
    switch.now += 60
    assert switch.handle(Elapsed()) == [Deliver(b"both", frames.denial(Reason.EXPIRED))]
    assert switch.counted("registrations") == (0 if first is Role.REGISTER else 1)
    assert switch.counted("circuits") == 0


def test_a_record_that_the_receiver_does_not_take_is_told_to_its_sender():
    switch = Switch()
    switch.register(b"proxy", LABEL)
    switch.reach(b"caller")
    [delivery] = switch.say(b"caller", frames.call_frame(LABEL, b"question"))
    [told] = switch.handle(Stuck(delivery))
    assert (told.connection, frames.read_event(told.frame)) == undelivered(b"caller", Reason.CONGESTED)
    [told] = switch.handle(Stuck(delivery, gone=True))
    assert (told.connection, frames.read_event(told.frame)) == undelivered(b"caller", Reason.UNKNOWN_LABEL)
    # The notice itself may be stuck, too; then it is counted and that is all.
    assert switch.handle(Stuck(told)) == []
    assert switch.counted("notices_dropped") == 1
    switch.handle(Gone(b"caller"))
    assert switch.handle(Stuck(delivery)) == []


@pytest.mark.parametrize(
    ("limits", "role"),
    [
        ({"connections_max": 1}, Role.REACH),
        ({"registrations_max": 1}, Role.REGISTER),
        ({"grants_max": 1}, Role.REACH),
    ],
)
def test_a_full_relay_says_so(limits, role):
    switch = Switch(**limits)
    switch.register(b"first", LABEL)
    assert switch.show(b"second", role) == refused(b"second", Reason.FULL)
    switch.register(b"first", OTHER_LABEL)


def test_a_label_has_only_so_many_holders():
    switch = Switch()
    for number in range(LABEL_HOLDERS_MAX):
        switch.register(b"%d" % number, LABEL)
    switch.show(b"one more", Role.REGISTER)
    assert switch.say(b"one more", frames.labels_frame([LABEL])) == refused(b"one more", Reason.FULL)


def test_a_caller_keeps_its_newest_circuits():
    switch = Switch(circuits_per_connection_max=2)
    labels = [bytes([number]) * 16 for number in range(3)]
    switch.register(b"proxy", *labels)
    switch.reach(b"caller")
    circuits = [switch.call(b"caller", label)[1].circuit for label in labels]
    alive = [len(switch.say(b"proxy", frames.answer_frame(c, b"a"))[0].frame) == 18 for c in circuits]
    assert alive == [False, True, True]


def test_when_all_circuits_are_taken_the_caller_is_told():
    switch = Switch(circuits_max=1)
    switch.register(b"proxy", LABEL)
    switch.reach(b"one")
    switch.reach(b"two")
    switch.call(b"one")
    assert switch.call(b"two") == undelivered(b"two", Reason.FULL)
    assert switch.call(b"one")[0] == b"proxy"


def test_draining_tells_everybody_admitted_and_admits_nobody_new():
    switch = Switch()
    switch.register(b"proxy", LABEL)
    switch.reach(b"caller")
    switch.handle(Opened(b"new", b"k" * 32))
    going = frames.event_frame(frames.Going(30))
    assert switch.handle(Draining(30)) == [Deliver(b"proxy", going), Deliver(b"caller", going)]
    assert switch.show(b"late", Role.REACH) == refused(b"late", Reason.DRAINING)
    assert switch.call(b"caller")[0] == b"proxy"


def test_a_ticket_sends_no_faster_than_its_rate_and_showing_it_again_gives_no_second_burst():
    switch = Switch()
    switch.register(b"proxy", LABEL)
    switch.reach(b"caller", rate_bytes_s=1000)
    record = bytes(30_000)
    assert switch.call(b"caller", record=record)[0] == switch.call(b"caller", record=record)[0] == b"proxy"
    assert switch.call(b"caller", record=record) == undelivered(b"caller", Reason.CONGESTED)
    switch.now += 10
    assert switch.call(b"caller", record=bytes(9_000))[0] == b"proxy"
    switch.handle(Gone(b"caller"))
    shown = frames.ticket_frame(ticket_of(b"caller", Role.REACH, rate_bytes_s=1000))
    assert switch.handle(Arrived(b"again", key_of(b"caller"), shown)) == [Deliver(b"again", OK_TICKET)]
    late = frames.call_frame(LABEL, record)
    [told] = switch.handle(Arrived(b"again", key_of(b"caller"), late))
    assert (told.connection, frames.read_event(told.frame)) == undelivered(b"again", Reason.CONGESTED)
    switch.now += 60
    [passed] = switch.handle(Arrived(b"again", key_of(b"caller"), late))
    assert passed.connection == b"proxy"


def test_answers_have_a_rate_too_and_the_relay_has_its_own():
    switch = Switch(rate_bytes_s_max=1000)
    switch.register(b"proxy", LABEL)
    switch.reach(b"caller", rate_bytes_s=2**32 - 1)
    _, inbound = switch.call(b"caller", record=bytes(45_000))
    assert switch.call(b"caller", record=bytes(45_000)) == undelivered(b"caller", Reason.CONGESTED)
    answer = frames.answer_frame(inbound.circuit, bytes(45_000))
    assert switch.say(b"proxy", answer)[0].connection == b"caller"
    [told] = switch.say(b"proxy", answer)
    assert frames.read_event(told.frame) == frames.Undelivered(Reason.CONGESTED, inbound.circuit)


def test_a_ping_is_answered():
    switch = Switch()
    switch.reach(b"caller")
    assert switch.say(b"caller", frames.ping_frame()) == [Deliver(b"caller", frames.event_frame(frames.Pong()))]
