"""Ends of a benchmark give a figure however short the round is: a host may stand still for all of it."""

import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from atoll.bench.laps import laps
from atoll.bench.load_ends import drain_many, drain_stamped, exchange, probe, pump_many, pump_stamped
from atoll.bench.relay_ends import drain, echo, ping, pump
from atoll.bench.session_ends import session_drain, session_pump

NO_TIME = {"duration_s": 0.0}


def both(sends, receives):
    """What the receiving end gives, and what the sending one does, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far, ThreadPoolExecutor(1) as sender:
        sent = sender.submit(sends, near)
        return receives(far), sent.result()


def test_laps_go_on_for_their_time_and_at_least_so_often():
    assert len(list(laps(0.0))) == 1
    assert len(list(laps(0.0, 7))) == 7
    assert len(list(laps(0.02))) > 7


@pytest.mark.parametrize("message_bytes", [64, 1024, 65_000])
@pytest.mark.parametrize(
    ("pumps", "drains"),
    [(pump, drain), (partial(pump, raw=True), partial(drain, raw=True)), (session_pump, session_drain)],
    ids=["sealed", "raw", "session"],
)
def test_one_way(pumps, drains, message_bytes):
    how = {"message_bytes": message_bytes}
    got, sent = both(partial(pumps, **how, **NO_TIME), partial(drains, **how))
    assert 0 < got["messages"] < sent["messages"]
    assert got["bytes"] == got["messages"] * message_bytes
    assert got["took_s"] > 0


def test_both_ways():
    ends = partial(exchange, **NO_TIME)
    there, back = both(ends, ends)
    assert there["bytes"] + back["bytes"] > 0


def test_many():
    got, _ = both(partial(pump_many, **NO_TIME), drain_many)
    assert sum(got["bytes"]) > 0


def test_round_trips():
    _, times = both(partial(ping, message_bytes=64, **NO_TIME), echo)
    assert times["round_trips"] == 1
    assert 0 < times["p50_s"] <= times["p99_s"]


def test_a_probe_and_the_age_of_what_comes():
    near, far = socket.socketpair()
    with near, far:
        assert probe(near, far, message_bytes=64, **NO_TIME)["round_trips"] == 1
    ages, _ = both(partial(pump_stamped, **NO_TIME), drain_stamped)
    assert ages["round_trips"] == 1
