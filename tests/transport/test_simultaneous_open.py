"""One local port that is dialled from and listened at, over real sockets on each loop.

Loopback loses no SYN, so that two never meet there; `lab/test_punched_sites.py` has real simultaneous opens.
"""

import contextlib
import socket
import threading

import anyio
import pytest

from atoll.transport import simultaneous_open, stun
from atoll.transport.errors import Expired, MalformedFrame, Unreachable
from atoll.transport.simultaneous_open import PunchPort, receive, resolved, send_all
from atoll.transport.tcp_address import TcpAddress

pytestmark = pytest.mark.anyio
HOST = "127.0.0.1"


@contextlib.contextmanager
def server(answer):
    """Something that listens; what it answers is made from what it hears, or nothing is said."""
    with socket.create_server((HOST, 0)) as listener:
        taken = []

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    sock, peer = listener.accept()
                    taken.append(sock)
                    request = sock.recv(100)
                    if (data := answer(request, TcpAddress.of(peer))) is not None:
                        sock.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield TcpAddress(HOST, listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for each in taken:
                each.close()


@pytest.fixture
def port():
    made = PunchPort.open(4)
    yield made
    made.close()


async def test_two_servers_are_asked_from_one_port_and_both_see_it(port):
    with server(stun.encode_response) as one, server(stun.encode_response) as two:
        seen = [await port.ask(one), await port.ask(two)]
    assert seen == [TcpAddress(HOST, port.port)] * 2
    assert (port.local, port.version) == (TcpAddress(HOST, port.port), 4)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda request, _: stun.encode_response(request[:8] + bytes(12), TcpAddress(HOST, 1)), MalformedFrame),
        (lambda *_: b"HTTP/1.1 400 Bad Request\r\n", MalformedFrame),
        (lambda *_: None, Expired),
    ],
    ids=["to another question", "no answer of STUN", "silence"],
)
async def test_a_server_that_does_not_answer_as_it_should_is_named(port, monkeypatch, answer, error):
    monkeypatch.setattr(simultaneous_open, "ASK_S", 0.3 if error is Expired else 20.0)
    with server(answer) as liar, pytest.raises(error):
        await port.ask(liar)


async def test_a_port_where_nobody_is_refuses_and_can_be_dialled_again_and_again(port):
    with socket.create_server((HOST, 0)) as free:
        nobody = TcpAddress(HOST, free.getsockname()[1])
    for _ in range(5):
        with pytest.raises(Unreachable, match="refused"):
            await port.connect(nobody)
    with pytest.raises(Unreachable, match="refused"):
        await port.ask(nobody)


async def test_two_ports_that_dial_each_other_get_connections_that_carry_bytes(port):
    other = PunchPort.open(4)
    try:
        there, here = TcpAddress(HOST, other.port), TcpAddress(HOST, port.port)
        one = await port.connect(there)
        two = await other.came()
        # The other way is this very connection.
        with pytest.raises(Unreachable):
            await other.connect(here)
        with one, two:
            await send_all(one, b"there")
            assert await receive(two, 100) == b"there"
            data = bytes(5_000_000)
            got = bytearray()

            async def read():
                while len(got) < len(data):
                    got.extend(await receive(one, 65_536))

            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    group.start_soon(read)
                    await send_all(two, data)
            two.close()
            with pytest.raises(OSError, match="closed"):
                await receive(one, 1)
    finally:
        other.close()


async def test_a_port_that_is_taken_is_said(port):
    with socket.create_server((HOST, 0)) as taken, pytest.raises(Unreachable, match="no port to punch from"):
        PunchPort.open(4, taken.getsockname()[1])


async def test_names_are_looked_up_and_ipv4_comes_first():
    assert next(await resolved(HOST, 5)) == TcpAddress(HOST, 5)
    assert next(await resolved("localhost", 5)).ip.is_loopback
    with pytest.raises(Unreachable, match="cannot be looked up"):
        await resolved("no.such.host.invalid", 5)
