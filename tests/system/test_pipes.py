"""Pipes are few for an ordinary user: what a pool lends then, and that tunnels go on."""

import fcntl
import os
import select
import socket
import threading

import pytest

from atoll.actors.tunnel_relay.pipes import PIPE_BYTES, PIPES_IDLE_MAX, PipePool
from atoll.actors.tunnel_relay.splice import Splices
from atoll.transport.errors import UsageError

ORDINARY_USER = 65_534
PATIENCE_S = 10


def test_the_last_pipe_is_never_kept():
    pool = PipePool(pipes_max=2)
    first = pool.take()
    assert not pool.last()
    second = pool.take()
    assert pool.last()
    pool.give(second)
    assert not pool.last()
    pool.discard(first)
    pool.close()
    assert pool.made == 0


def test_free_pipes_beyond_what_is_useful_are_closed():
    pool = PipePool(pipes_max=PIPES_IDLE_MAX * 2)
    lent = []
    while not pool.last():
        lent.append(pool.take())
    for pipe in lent:
        pool.give(pipe)
    assert pool.made == PIPES_IDLE_MAX
    pool.close()


def test_a_pool_without_a_single_pipe_says_what_to_do():
    with pytest.raises(UsageError, match="ulimit"):
        PipePool(pipes_max=0)


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname(), PATIENCE_S)
        other, _ = listener.accept()
    return one, other


def carry_through_dwarves():
    """As an ordinary user whose pipes are used up: carry bytes through what the kernel still gives."""
    # Before the change of user: the interpreter's files may be out of reach after it.
    (sender, source), (target, receiver) = tcp_pair(), tcp_pair()
    os.setgid(ORDINARY_USER)
    os.setuid(ORDINARY_USER)
    hoard = []
    while not hoard or fcntl.fcntl(hoard[-1][1], fcntl.F_GETPIPE_SZ) == PIPE_BYTES:
        hoard.append(os.pipe())
    pool = PipePool(pipes_max=4)
    pipe = pool.take()
    assert pipe.capacity_bytes < PIPE_BYTES
    pool.give(pipe)
    data = os.urandom(3_000_000)
    ended = []
    with select.epoll() as epoll:
        splices = Splices(epoll, pool, lambda *end: ended.append(end))
        for sock in (source, target):
            sock.setblocking(False)
            epoll.register(sock, 0)
        splices.join(b"t", source, target, len(data))
        writer = threading.Thread(target=lambda: (sender.sendall(data), sender.shutdown(socket.SHUT_WR)))
        reader = threading.Thread(target=lambda: (receive_all(receiver, data), receiver.close()))
        writer.start()
        reader.start()
        while not ended:
            for descriptor, mask in epoll.poll(0 if splices.busy else PATIENCE_S):
                splices.event(descriptor, mask)
            splices.work()
        writer.join(PATIENCE_S)
        reader.join(PATIENCE_S)
        assert ended == [(b"t", len(data), None)]
        splices.close()


def receive_all(receiver, expected):
    received = bytearray()
    while piece := receiver.recv(65_536):
        received += piece
    assert received == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user to try this")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_an_ordinary_user_out_of_pipe_pages_still_carries_tunnels():
    child = os.fork()
    if child == 0:
        try:
            carry_through_dwarves()
        except BaseException as error:  # noqa: BLE001 - a forked child must not run pytest's own end
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
