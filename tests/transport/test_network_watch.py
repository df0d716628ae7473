"""Changes of addresses and wakes are noticed, once each, with a kernel that tells them and without."""

import itertools
import socket
from types import SimpleNamespace

import anyio
import pytest
from waiting import until

from atoll.transport import network_watch
from atoll.transport.network_watch import NetworkWatch, addresses_of, open_netlink

pytestmark = pytest.mark.anyio


def adapter(*addresses):
    ips = [SimpleNamespace(ip=(each, 0, 2) if ":" in each else each) for each in addresses]
    return SimpleNamespace(ips=ips)


class Host:
    """Addresses that a test sets, and a kernel that tells when it is asked to."""

    def __init__(self):
        self.addresses = ["127.0.0.1", "192.0.2.7", "FE80::1%eth0"]
        self.told = []
        self.hears, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.hears.setblocking(False)
        self.broken = False

    def adapters(self):
        if self.broken:
            raise OSError("no list today")
        return [adapter(*self.addresses)]

    def watch(self, **options):
        return NetworkWatch(self.told.append, **{"adapters": self.adapters, "netlink": lambda: None, **options})


@pytest.fixture
def host():
    made = Host()
    yield made
    made.hears.close()
    made.kernel.close()


def test_addresses_are_given_without_scopes():
    assert addresses_of([adapter("192.0.2.7", "FE80::1%eth0")]) == {"192.0.2.7", "fe80::1"}


async def test_what_the_kernel_tells_is_told_once_with_what_is_gone(host):
    async with anyio.create_task_group() as group:
        group.start_soon(host.watch(netlink=lambda: host.hears).run)
        await anyio.wait_all_tasks_blocked()
        host.addresses[1] = "192.0.2.8"
        for _ in range(20):
            host.kernel.send(b"RTM_NEWADDR and the like")
        await until(lambda: host.told)
        group.cancel_scope.cancel()
    (change,) = host.told
    assert change.gone == {"192.0.2.7"}
    assert change.addresses == {"127.0.0.1", "192.0.2.8", "fe80::1"}


async def test_without_a_kernel_that_tells_the_addresses_are_looked_at(host, monkeypatch):
    monkeypatch.setattr(network_watch, "POLL_S", 0.01)
    async with anyio.create_task_group() as group:
        group.start_soon(host.watch().run)
        await anyio.wait_all_tasks_blocked()
        host.broken = True
        await anyio.sleep(0.03)
        host.broken = False
        host.addresses.pop()
        await until(lambda: host.told)
        group.cancel_scope.cancel()
    (change,) = host.told
    assert (change.gone, change.why) == ({"fe80::1"}, "other addresses")


async def test_a_wake_is_told_though_the_addresses_are_the_same(host, monkeypatch):
    monkeypatch.setattr(network_watch, "WAKE_LOOK_S", 0.01)
    times = itertools.chain([0.0, 0.01, 1.0, 3601.0], itertools.repeat(3601.0))
    async with anyio.create_task_group() as group:
        group.start_soon(host.watch(clock=lambda: next(times)).run)
        await until(lambda: host.told)
        group.cancel_scope.cancel()
    (change,) = host.told
    assert (change.gone, change.why) == (frozenset(), "awake after 3600 s")


async def test_the_kernel_s_socket_can_be_had_or_its_lack_is_no_error():
    sock = open_netlink()
    if sock is not None:
        sock.close()
    network_watch.sys.platform, before = "darwin", network_watch.sys.platform
    try:
        assert open_netlink() is None
    finally:
        network_watch.sys.platform = before
