"""What the HTTP server refuses: malformed, endless, slow and too many requests."""

import itertools
import json
from collections import Counter

import anyio
import anyio.to_thread
import pytest
from examples import examples
from http_apps import echo, reply
from http_probe import WAIT_S, fetch, read_until, serving, talk, until_closed
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.gateway.http_server import ClientGone, Limits

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("request_bytes", "status", "word"),
    [
        (b"NONSENSE\r\n\r\n", 400, "malformed-request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n", 400, "malformed-request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed-request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, "malformed-request"),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505, "malformed-request"),
        (b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed-request"),
        (b"GET relative HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed-request"),
        (b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed-request"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405, "method-not-allowed"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "malformed-request"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "malformed-request"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "malformed-request",
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "malformed-request"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "malformed-request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000 + b"\r\n\r\n", 431, "header-too-long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: a\r\n" * 120 + b"\r\n", 431, "header-too-long"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413, "body-too-long"),
    ],
)
async def test_bad_input_is_refused_with_a_problem_and_the_server_goes_on(request_bytes, status, word):
    async with serving(echo) as (port, _):
        got = await talk(port, request_bytes)
        head, _, body = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"content-type: application/problem+json" in head
        problem = json.loads(body)
        assert problem["type"] == f"urn:atoll:problem:{word}"
        assert problem["status"] == status
        assert problem["detail"]
        assert problem["remedy"]
        response, _ = await fetch(port, "GET", "/")
        assert response.status == 200


async def test_a_chunked_body_that_grows_too_long_is_refused():
    request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n"
    async with serving(echo, limits=Limits(body_bytes_max=4096)) as (port, _):
        got = await talk(port, request + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 9)
    assert got.startswith(b"HTTP/1.1 413")
    assert json.loads(got.partition(b"\r\n\r\n")[2])["detail"].startswith("the body is longer than 4096 bytes")


async def test_an_early_refusal_reaches_a_client_that_is_still_sending():
    async def app(scope, receive, send):
        await reply(send, b"not you", 403)

    async with serving(app) as (port, _):
        response, body = await fetch(port, "POST", "/", body=b"x" * 30_000_000)
    assert (response.status, body) == (403, b"not you")
    assert response.headers["connection"] == "close"


async def test_a_short_unread_body_does_not_cost_the_connection():
    async def app(scope, receive, send):
        await reply(send, scope["path"].encode())

    first = b"POST /one HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
    async with serving(app) as (port, _):
        got = await talk(port, first + b"GET /two HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert got.endswith(b"/two")


async def test_a_client_that_sends_nothing_is_closed_without_a_word():
    async with serving(echo, limits=Limits(idle_s=0.05)) as (port, _):
        assert await talk(port, b"") == b""


async def test_a_header_that_drips_is_refused():
    async with serving(echo, limits=Limits(header_s=0.05)) as (port, _):
        got = await talk(port, b"GET / HTTP/1.1\r\nHost:")
    assert got.startswith(b"HTTP/1.1 408")


async def test_a_body_that_stops_coming_is_refused():
    async with serving(echo, limits=Limits(body_s=0.05)) as (port, _):
        got = await talk(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
    assert got.startswith(b"HTTP/1.1 408")


async def test_a_client_that_does_not_read_is_given_up():
    outcome = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        except ClientGone as error:
            outcome.append(error)
            done.set()
            raise

    done = anyio.Event()
    async with (
        serving(app, limits=Limits(write_s=0.05, linger_s=0.05)) as (port, _),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with anyio.fail_after(WAIT_S):
            await done.wait()
    assert len(outcome) == 1


async def test_too_many_connections_are_told_so():
    async with (
        serving(echo, limits=Limits(connections_max=1)) as (port, _),
        await anyio.connect_tcp("127.0.0.1", port) as first,
    ):
        await first.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_until(first, b"GET /a? ")
        got = await talk(port, b"")
        assert got.startswith(b"HTTP/1.1 503")
        await first.send(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_until(first, b"GET /b? ")


REQUESTS = (
    b"POST /one HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nfirst"
    b"GET /two?q=1 HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    b"POST /three HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n"
    b"HEAD /four HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
)


@given(st.lists(st.integers(1, len(REQUESTS) - 1), max_size=6))
@settings(max_examples=examples(25))
async def test_requests_are_read_the_same_however_they_are_cut(cuts):
    async with serving(echo) as (port, _), await anyio.connect_tcp("127.0.0.1", port) as stream:
        edges = [0, *sorted(set(cuts)), len(REQUESTS)]
        for start, end in itertools.pairwise(edges):
            await stream.send(REQUESTS[start:end])
            # Lets the server read this piece by itself.
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(WAIT_S):
            got = await until_closed(stream)
    answers = [part.partition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200")[1:]]
    assert answers == [b"POST /one? first", b"GET /two?q=1 ", b"POST /three? abcde", b""]


@given(
    st.lists(st.tuples(st.integers(0, len(REQUESTS) - 1), st.binary(max_size=4)), min_size=1, max_size=4)
    | st.binary(max_size=200)
)
@settings(max_examples=examples(25))
async def test_mangled_requests_are_answered_or_closed_and_hurt_nobody(mangled):
    data = mangled
    if isinstance(mangled, list):
        data = bytearray(REQUESTS)
        for place, wrong in mangled:
            data[place : place + len(wrong)] = wrong
    counters = Counter()
    async with serving(echo, counters=counters) as (port, _):
        got = await talk(port, bytes(data), half_close=True)
        assert got == b"" or got.startswith(b"HTTP/1.1 ")
        assert (await talk(port, b"GET /after HTTP/1.0\r\n\r\n")).endswith(b"GET /after? ")
    assert counters["errors"] == 0
