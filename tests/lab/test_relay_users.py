"""The relay program as an ordinary user: idle tunnels are cheap, and slow readers leave pipes to the others."""

import contextlib
import select
import socket
import threading

import pytest
from waiting import block_until

from atoll.testing.idle_tunnels_main import as_ordinary_user, measure
from atoll.testing.relay_program import relay_program

TUNNELS = 400
KB_EACH_MAX = 4.0
"""1.4 are seen; a pipe or a task for each would be a multiple."""


@pytest.fixture(params=["this user", "ordinary user"])
def words(request, tmp_path):
    tmp_path.chmod(0o777)
    if request.param == "this user":
        return []
    # Of this run, of all runs of this user, and where several processes run tests, of this process.
    for folder in tmp_path.parents[:3]:
        folder.chmod(folder.stat().st_mode | 0o011)
    return as_ordinary_user() or pytest.skip("only root can become another user, with setpriv")


def test_idle_tunnels_take_little_and_work(words, tmp_path):
    with relay_program(tmp_path, before=words) as relay:
        cost = measure(relay, TUNNELS, 1.0)
    print(cost.line())  # noqa: T201 - shown with `-s`
    assert (cost.rss_mb - cost.rss_mb_before) * 1e3 / TUNNELS < KB_EACH_MAX
    assert cost.cpu < 0.2


def test_readers_that_stop_leave_pipes_to_the_others(words, tmp_path):
    with relay_program(tmp_path, "metrics.port=0", before=words) as relay, contextlib.ExitStack() as stack:
        for _ in range(40):
            one, _ = (stack.enter_context(end) for end in relay.tunnel())
            one.setblocking(False)
            while select.select([], [one], [], 0.05)[1]:
                one.send(bytes(1 << 20))
        block_until(lambda: relay.status()["pipes"] >= 40)
        one, other = (stack.enter_context(end) for end in relay.tunnel())
        data = bytes(4 << 20)
        writer = threading.Thread(target=lambda: (one.sendall(data), one.shutdown(socket.SHUT_WR)))
        writer.start()
        received = 0
        while piece := other.recv(1 << 16):
            received += len(piece)
        writer.join()
        assert received == len(data)
