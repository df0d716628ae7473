"""Notices when this host's network changes: an interface, an address, a wake after sleep.

    rtnetlink says something, or the lease clock jumped, or a look finds other addresses --a moment of quiet--> told

On Linux the kernel says it (rtnetlink, RFC 3549); elsewhere, and where that socket cannot be had, the addresses are
looked at every `POLL_S`. A change of several messages is told once. Nothing here decides what follows from a change.
"""

import logging
import socket
import sys
import time
from collections.abc import Callable, Iterable

import anyio
import anyio.lowlevel
import ifaddr
import msgspec

from atoll.transport.naps import beat

log = logging.getLogger("atoll.transport")

POLL_S = 1.0
QUIET_S = 0.05
"""The kernel tells one change in several messages; they come together."""
WAKE_LOOK_S = 0.5
WAKE_GAP_S = 2.0
"""A clock that went on for so much longer than we slept: the host was suspended, or this process stood still."""
_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV6_IFADDR = 0x100
_MESSAGE_BYTES_MAX = 65536
_READS_MAX = 64


class NetworkChanged(msgspec.Struct, frozen=True):
    """Fact: this host's addresses are others now, or it has just woken."""

    addresses: frozenset[str]
    """All there are now."""
    gone: frozenset[str]
    """Those that were there before."""
    why: str


def addresses_of(adapters: Iterable[ifaddr.Adapter]) -> frozenset[str]:
    """Give every address of this host, without scopes."""
    texts = (ip.ip if isinstance(ip.ip, str) else ip.ip[0] for adapter in adapters for ip in adapter.ips)
    return frozenset(text.partition("%")[0].lower() for text in texts)


def _clock() -> float:
    # It goes on while the host sleeps, and the loop's does not.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()


def open_netlink() -> socket.socket | None:
    """Open a socket on which the kernel tells of links and addresses; None where it cannot be had."""
    if sys.platform != "linux" or not hasattr(socket, "AF_NETLINK"):
        return None
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        sock.setblocking(False)
        sock.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
    except OSError as error:
        sock.close()
        log.info("changes of addresses are polled, because the kernel does not tell them: %s", error)
        return None
    return sock


class NetworkWatch:
    """Calls `told` for every change, in the task that runs it."""

    def __init__(
        self,
        told: Callable[[NetworkChanged], None],
        *,
        adapters: Callable[[], Iterable[ifaddr.Adapter]] = ifaddr.get_adapters,
        netlink: Callable[[], socket.socket | None] = open_netlink,
        clock: Callable[[], float] = _clock,
    ) -> None:
        self._told, self._adapters, self._netlink, self._clock = told, adapters, netlink, clock
        self._before: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Watch until cancelled."""
        self._before = self._now() or frozenset()
        sock = self._netlink()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._wait_for_wakes)
                if sock is None:
                    await self._poll()
                else:
                    await self._listen(sock)
        finally:
            if sock is not None:
                sock.close()

    async def _poll(self) -> None:
        while True:
            await beat(POLL_S)
            self._look("")

    async def _listen(self, sock: socket.socket) -> None:
        while True:
            await anyio.wait_readable(sock)
            await anyio.sleep(QUIET_S)
            for _ in range(_READS_MAX):
                try:
                    sock.recv(_MESSAGE_BYTES_MAX)
                except BlockingIOError:
                    break
                except OSError as error:
                    # ENOBUFS: it told more than we read. Looking at the addresses is all that follows anyhow.
                    log.debug("rtnetlink: %s", error)
            self._look("an interface changed")

    async def _wait_for_wakes(self) -> None:
        while True:
            began = self._clock()
            await beat(WAKE_LOOK_S)
            slept_s = self._clock() - began
            if slept_s - WAKE_LOOK_S > WAKE_GAP_S:
                self._look(f"awake after {slept_s:.0f} s")

    def _look(self, why: str) -> None:
        """Tell if something is different, or if there is a reason all the same."""
        now = self._now()
        if now is None or (now == self._before and not why):
            return
        gone, self._before = self._before - now, now
        self._told(NetworkChanged(now, gone, why or "other addresses"))

    def _now(self) -> frozenset[str] | None:
        try:
            return addresses_of(self._adapters())
        except OSError as error:
            log.warning("the addresses of this host cannot be listed: %s", error)
            return None
