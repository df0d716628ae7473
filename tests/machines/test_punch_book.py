"""When punching to a peer is tried again, and what is said of it."""

from atoll.actors.router.punch_book import LIVED_S, LOST_PAUSE_S, PAUSES_S, PEERS_MAX, PunchBook
from atoll.transport.identity import NodeId

PEER = NodeId(b"p" * 32)


def peer(number):
    return NodeId(number.to_bytes(32, "big"))


def test_attempts_in_vain_are_made_less_and_less_often_and_the_reason_is_said():
    book, now = PunchBook(), 100.0
    assert (book.due_in_s(PEER, now), book.seen(PEER, now)) == (0.0, "")
    for number, pause_s in enumerate((*PAUSES_S, PAUSES_S[-1])):
        book.begun(PEER)
        assert book.due_in_s(PEER, now) is None
        assert book.seen(PEER, now) == "punching through NAT is being tried"
        book.failed(PEER, "a wall", now)
        assert book.due_in_s(PEER, now) == pause_s
        tries = f"{number + 1} tries in vain, " if number else ""
        when = f"({tries}again in {pause_s:.0f} s at the earliest)"
        assert book.seen(PEER, now) == f"not punched through NAT: a wall {when}"
        now += pause_s
        assert book.due_in_s(PEER, now) == 0.0


def test_an_open_connection_is_not_tried_for_and_one_that_has_lived_is_replaced_soon():
    book = PunchBook()
    book.begun(PEER)
    book.failed(PEER, "a wall", 0.0)
    book.begun(PEER)
    book.opened(PEER, 10.0)
    assert (book.due_in_s(PEER, 1e9), book.seen(PEER, 11.0)) == (None, "punched through NAT")
    book.lost(PEER, "reset", 10.0 + LIVED_S)
    assert book.due_in_s(PEER, 10.0 + LIVED_S) == LOST_PAUSE_S
    assert "the connection was lost: reset" in book.seen(PEER, 10.0 + LIVED_S)
    # What failed before the success is forgotten.
    book.begun(PEER)
    book.failed(PEER, "a wall", 200.0)
    assert book.due_in_s(PEER, 200.0) == PAUSES_S[0]


def test_one_that_dies_young_counts_as_an_attempt_in_vain():
    book = PunchBook()
    for number, pause_s in enumerate(PAUSES_S):
        book.begun(PEER)
        book.opened(PEER, 0.0)
        book.lost(PEER, "silence", LIVED_S - 1)
        assert book.due_in_s(PEER, LIVED_S - 1) == pause_s, number
        book.lost(PEER, "told twice", LIVED_S - 1)
        assert book.due_in_s(PEER, LIVED_S - 1) == pause_s


def test_one_that_is_lost_before_it_is_noted_as_open_is_not_believed_to_be_open():
    book = PunchBook()
    book.begun(PEER)
    book.lost(PEER, "reset", 1.0)
    book.opened(PEER, 2.0)
    assert book.due_in_s(PEER, 2.0) == PAUSES_S[0]
    book.begun(PEER)
    book.opened(PEER, 30.0)
    assert book.due_in_s(PEER, 30.0) is None


def test_another_network_makes_everything_worth_a_try():
    book = PunchBook()
    for _ in PAUSES_S:
        book.begun(PEER)
        book.failed(PEER, "a wall", 0.0)
    book.network_changed()
    assert book.due_in_s(PEER, 0.0) == 0.0


def test_the_book_is_bounded_and_forgets_nobody_that_is_connected_while_there_is_somebody_else():
    book = PunchBook()
    book.begun(peer(0))
    book.opened(peer(0), 0.0)
    for number in range(1, 3 * PEERS_MAX):
        book.begun(peer(number))
        book.failed(peer(number), "a wall", 0.0)
    assert len(book) == PEERS_MAX
    assert book.seen(peer(0), 0.0) == "punched through NAT"
    book.failed(peer(1), "forgotten long ago", 0.0)
    book.opened(peer(1), 0.0)
    book.lost(peer(1), "forgotten", 0.0)
    assert book.due_in_s(peer(1), 0.0) == 0.0
