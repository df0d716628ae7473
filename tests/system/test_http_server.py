"""The HTTP server: connections, bodies, upgrades, sockets, and its end."""

import json
import os
import socket
import stat
from collections import Counter

import anyio
import anyio.to_thread
import pytest
from http_apps import body_of, echo, reply
from http_probe import WAIT_S, fetch, read_until, serving, talk, until_closed
from waiting import until

from atoll.actors.gateway.http_server import AddressInUse, Limits, bind_tcp, bind_unix
from atoll.transport.errors import UsageError, WorldError

pytestmark = pytest.mark.anyio


async def test_one_connection_serves_several_requests():
    async with serving(echo) as (port, _), await anyio.connect_tcp("127.0.0.1", port) as stream:
        for number in (b"1", b"2", b"3"):
            await stream.send(b"GET /" + number + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            got = await read_until(stream, b"GET /" + number + b"? ")
            assert got.startswith(b"HTTP/1.1 200 ")
            assert b"\r\ndate: " in got.lower()


async def test_connections_that_are_reset_at_once_end_nothing_else():
    def reset(port):
        for _ in range(600):
            sock = socket.create_connection(("127.0.0.1", port), WAIT_S)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()

    async with serving(echo) as (port, _):
        await anyio.to_thread.run_sync(reset, port)
        got = await talk(port, b"GET /still HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert got.endswith(b"GET /still? ")


async def test_pipelined_requests_are_answered_in_order():
    requests = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab%d" % (number, number) for number in range(8)
    )
    async with serving(echo) as (port, _):
        got = await talk(port, requests + b"GET /end HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answers = [part.partition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200")[1:]]
    assert answers == [b"POST /%d? ab%d" % (number, number) for number in range(8)] + [b"GET /end? "]


async def test_requests_sent_ahead_wait_for_an_application_that_watches_its_client():
    async def watching(scope, receive, send):
        await body_of(receive)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.lowlevel.checkpoint()
            await reply(send, scope["path"].encode())

    async with serving(watching) as (port, _):
        got = await talk(
            port,
            b"GET /one HTTP/1.1\r\nHost: x\r\n\r\nGET /two HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
    assert [part.partition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200")[1:]] == [b"/one", b"/two"]


async def test_chunks_come_in_and_go_out():
    async def app(scope, receive, send):
        body = await body_of(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for letter in body:
            await send({"type": "http.response.body", "body": bytes([letter]), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    request = (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"3;extension=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: yes\r\n\r\n"
    )
    async with serving(app) as (port, _):
        got = await talk(port, request)
        assert b"transfer-encoding: chunked" in got.lower()
        assert got.endswith(b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n1\r\nd\r\n1\r\ne\r\n0\r\n\r\n")
        response, body = await fetch(port, "POST", "/", body=iter([b"x" * 5]))
        assert (response.status, body) == (200, b"x" * 5)


async def test_head_has_the_header_of_get_and_no_body():
    async with serving(echo) as (port, _):
        got = await talk(
            port, b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
    head, _, rest = got.partition(b"\r\n\r\n")
    assert b"content-length: 9" in head.lower()
    assert rest.startswith(b"HTTP/1.1 200")
    assert rest.endswith(b"GET /b? ")


async def test_an_http_1_0_client_is_answered_and_closed():
    async with serving(echo) as (port, _):
        got = await talk(port, b"GET /old HTTP/1.0\r\n\r\n")
    assert got.endswith(b"GET /old? ")


async def test_an_absolute_target_counts_over_the_host_field():
    async def app(scope, receive, send):
        await reply(send, dict(scope["headers"])[b"host"] + scope["raw_path"] + b"?" + scope["query_string"])

    async with serving(app) as (port, _):
        got = await talk(port, b"GET http://tunnel.example/p%2Fq?a=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert got.endswith(b"tunnel.example/p%2Fq?a=1")


async def test_the_body_is_asked_for_only_when_the_application_reads_it():
    async def app(scope, receive, send):
        if scope["path"] == "/closed":
            await reply(send, b"no", 401)
        else:
            await reply(send, await body_of(receive))

    head = b" HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    async with serving(app) as (port, _):
        got = await talk(port, b"POST /closed" + head)
        assert got.startswith(b"HTTP/1.1 401")
        assert b"connection: close" in got.lower()
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"POST /open" + head)
            got = await read_until(stream, b"\r\n\r\n")
            assert got.startswith(b"HTTP/1.1 100")
            await stream.send(b"bytes")
            assert (await read_until(stream, b"bytes")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_bytes",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"],
)
async def test_the_application_learns_that_its_client_left(request_bytes):
    messages = []
    there, gone = anyio.Event(), anyio.Event()

    async def app(scope, receive, send):
        there.set()
        while not messages or messages[-1] != "http.disconnect":
            messages.append((await receive())["type"])
        gone.set()

    counters = Counter()
    async with serving(app, counters=counters) as (port, _):
        stream = await anyio.connect_tcp("127.0.0.1", port)
        await stream.send(request_bytes)
        with anyio.fail_after(WAIT_S):
            await there.wait()
            await stream.aclose()
            await gone.wait()
    assert messages[0] == "http.request"


async def test_a_half_closed_client_still_gets_its_answer():
    async with serving(echo) as (port, _):
        got = await talk(port, b"GET /half HTTP/1.1\r\nHost: x\r\n\r\n", half_close=True)
    assert got.endswith(b"GET /half? ")


async def test_a_failing_application_gives_500_and_only_that(caplog):
    async def app(scope, receive, send):
        if scope["path"] == "/fails":
            raise RuntimeError("secret detail")
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
            raise RuntimeError("too late")
        if scope["path"] == "/bad-header":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]})
        if scope["path"] != "/silent":
            await reply(send, b"fine")

    counters = Counter()
    async with serving(app, counters=counters) as (port, _):
        for path in ("/fails", "/silent", "/bad-header"):
            response, body = await fetch(port, "GET", path)
            assert response.status == 500, path
            assert json.loads(body)["type"] == "urn:atoll:problem:internal"
            assert b"secret" not in body
        got = await talk(port, b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"part" in got
        assert not got.endswith(b"0\r\n\r\n"), "a reply cut short must not look whole"
        response, body = await fetch(port, "GET", "/fine")
        assert body == b"fine"
    assert counters["errors"] == 3
    assert "too late" in caplog.text


async def test_the_application_can_take_the_connection_over():
    """Docker's attach: 101, then bytes both ways, also those that came before the 101."""

    async def app(scope, receive, send):
        await body_of(receive)
        headers = [(b"connection", b"Upgrade"), (b"upgrade", b"tcp")]
        stream, early = await scope["extensions"]["atoll.hijack"]["take"](101, headers)
        await stream.send(b"early:" + early)
        while True:
            try:
                data = await stream.receive()
            except anyio.EndOfStream:
                await stream.send(b"bye")
                return
            await stream.send(data.upper())

    head = b"POST /attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}"
    async with serving(app) as (port, _), await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(head + b"soon")
        got = await read_until(stream, b"early:soon")
        assert got.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"upgrade: tcp\r\n" in got.lower()
        assert b"content-length" not in got.lower()
        await stream.send(b"hello")
        await read_until(stream, b"HELLO")
        await stream.send_eof()
        with anyio.fail_after(WAIT_S):
            assert (await until_closed(stream)).endswith(b"bye")


async def test_an_unanswered_upgrade_is_an_ordinary_request():
    async with serving(echo) as (port, _):
        got = await talk(
            port,
            b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
            b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
    assert got.count(b"HTTP/1.1 200") == 2


async def test_a_stop_lets_requests_in_flight_finish_and_lets_nobody_in():
    inside, go = anyio.Event(), anyio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/slow":
            inside.set()
            await go.wait()
        await reply(send, b"done")

    async with serving(app) as (port, stopping):
        slow = await anyio.connect_tcp("127.0.0.1", port)
        idle = await anyio.connect_tcp("127.0.0.1", port)
        await idle.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_until(idle, b"done")
        await slow.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        with anyio.fail_after(WAIT_S):
            await inside.wait()
            stopping.set()
            assert await until_closed(idle) == b""
            with pytest.raises(OSError):
                await anyio.connect_tcp("127.0.0.1", port)
            go.set()
            got = await until_closed(slow)
        assert got.endswith(b"done")
        assert b"connection: close" in got.lower()
        await slow.aclose()
        await idle.aclose()


async def test_a_stop_waits_only_so_long():
    inside = anyio.Event()

    async def app(scope, receive, send):
        inside.set()
        await anyio.sleep_forever()

    async with (
        serving(app, limits=Limits(drain_s=0.05)) as (port, stopping),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with anyio.fail_after(WAIT_S):
            await inside.wait()
            stopping.set()
            assert await until_closed(stream) == b""


async def test_a_port_in_use_is_named_with_what_to_do():
    first = await bind_tcp("127.0.0.1", 0)
    with pytest.raises(AddressInUse, match=rf"port {first.port} on 127\.0\.0\.1 .*--set gateway\.port=PORT"):
        await bind_tcp("127.0.0.1", first.port)
    await first.aclose()


async def test_an_address_of_another_host_is_refused_in_words():
    with pytest.raises(WorldError, match=r"192\.0\.2\.1"):
        await bind_tcp("192.0.2.1", 0)


async def test_a_unix_socket_is_its_owners_only_and_goes_away(tmp_path):
    path = tmp_path / "run" / "gateway.sock"
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["extensions"]["atoll.peer"]["peer"])
        await reply(send, b"hi")

    async with serving(app, listening=[await bind_unix(path)]) as (_, stopping):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        _, body = await fetch(path, "GET", "/")
        assert body == b"hi"
        stopping.set()
        await until(lambda: not path.exists())
    assert seen[0].transport == "unix"
    assert seen[0].user_id in {os.getuid(), None}


async def test_a_socket_file_is_replaced_only_when_nobody_listens(tmp_path):
    path = tmp_path / "gateway.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    living = await bind_unix(path)
    with pytest.raises(AddressInUse, match=r"gateway\.sock"):
        await bind_unix(path)
    assert path.exists()
    # Another node took the place meanwhile: its file must survive our closing.
    path.unlink()
    other = await bind_unix(path)
    await living.aclose()
    assert path.exists()
    await other.aclose()
    assert not path.exists()
    path.write_text("not a socket")
    with pytest.raises(UsageError, match="is no socket"):
        await bind_unix(path)
    with pytest.raises(UsageError, match="too long"):
        await bind_unix(tmp_path / ("x" * 110))


async def test_unix_and_tcp_are_served_by_one_server(tmp_path):
    path = tmp_path / "gateway.sock"
    kinds = []

    async def app(scope, receive, send):
        kinds.append(scope["extensions"]["atoll.peer"]["peer"].transport)
        await reply(send, b"hi")

    async with serving(app, listening=[await bind_tcp("127.0.0.1", 0), await bind_unix(path)]) as (port, _):
        await fetch(port, "GET", "/")
        await fetch(path, "GET", "/")
    assert kinds == ["tcp", "unix"]
