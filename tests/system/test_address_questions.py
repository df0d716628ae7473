"""What a relay's bearer port tells those who ask which address it sees, and how little they can ask for."""

import os
import socket

import pytest
from relay_keys import ISSUER, RELAY
from test_bearers import PATIENCE_S, answer_of, block_until, connect, halves, joined, serving

from atoll.actors.tunnel_relay import bearer_server
from atoll.actors.tunnel_relay.bearer_server import QUESTIONS_MAX
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.transport import stun
from atoll.transport.bearer import encode_preamble
from atoll.transport.tcp_address import TcpAddress


def asked(sock, request):
    """Ask, and read the answer to its end."""
    sock.sendall(request)
    data = b""
    while missing := stun.bytes_missing(data, stun.RESPONSE):
        piece = sock.recv(missing)
        assert piece, "the relay closed"
        data += piece
    return stun.decode_response(data, request[8:])


def question():
    return stun.encode_request(os.urandom(stun.TRANSACTION_BYTES))


def test_who_asks_is_told_its_address_again_and_again_but_not_for_ever():
    with serving() as server, connect(server, b"") as sock:
        own = TcpAddress.of(sock.getsockname())
        for _ in range(QUESTIONS_MAX):
            assert asked(sock, question()) == own
        sock.sendall(question())
        assert answer_of(sock)[0] is Reason.FULL
        block_until(lambda: server.statistics()["addresses_told"] == QUESTIONS_MAX)


def test_a_question_comes_in_pieces_and_a_ticket_may_follow_it():
    offer, call = halves()
    with serving() as server, connect(server, b"") as sock:
        request = question()
        for each in request[:-1]:
            sock.sendall(bytes([each]))
        sock.sendall(request[-1:])
        assert sock.recv(4) == b"\1\1\0\14"
        rest = sock.recv(100)
        assert rest[:4] == stun.COOKIE.to_bytes(4)
        sock.sendall(encode_preamble(offer))
        with connect(server, encode_preamble(call)) as other:
            assert (sock.recv(2), other.recv(2)) == (b"OK", b"OK")


def test_who_has_asked_is_let_go_without_a_word_and_counts_as_no_refusal():
    with serving(preamble_s=0.2) as server, connect(server, b"") as sock:
        asked(sock, question())
        assert sock.recv(1) == b""
        assert not [name for name in server.statistics() if name.startswith("refused")]


@pytest.mark.parametrize(
    "data",
    [
        b"\0\2" + bytes(18),
        b"\0\1\0\0" + bytes(16),
        stun.HEADER.pack(stun.REQUEST, 400, stun.COOKIE, bytes(12)),
        b"\0",
    ],
    ids=["method", "cookie", "length", "one byte"],
)
def test_what_is_no_question_is_refused(data):
    with serving(preamble_s=0.2) as server, connect(server, data) as sock:
        assert answer_of(sock)[0] in (Reason.MALFORMED, Reason.TOO_SLOW)


def test_more_questions_in_a_second_than_there_is_time_for_are_refused_and_tunnels_go_on(monkeypatch):
    monkeypatch.setattr(bearer_server, "QUESTIONS_PER_S_MAX", 3)
    monkeypatch.setattr(bearer_server.time, "monotonic", lambda: 1000.0)
    with serving() as server:
        refused = 0
        for _ in range(10):
            with connect(server, question()) as sock:
                refused += sock.recv(2) == b"NO"
        assert refused == 7
        offer, call = joined(server, *halves())
        with offer, call:
            offer.sendall(b"still")
            assert call.recv(5) == b"still"


def test_an_ipv6_address_is_told_too():
    try:
        probe = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    probe.close()
    server = bearer_server.BearerServer(relay=RELAY.node_id, issuer=ISSUER.node_id, host="::1", port=0)
    try:
        with socket.create_connection(("::1", server.port), PATIENCE_S) as sock:
            sock.sendall(question())
            while not server.statistics().get("addresses_told"):
                server.turn(0.1)
            assert TcpAddress.parse("::1", 1).packed not in sock.recv(44)
    finally:
        server.close()
