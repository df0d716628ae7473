"""The relay under measurement, alone in its process.

    python -m atoll.bench.relay_process

prints the SEP port and the bearer port, and serves until whoever started it is gone.
"""

import os
import socket
import time
from typing import TypeAlias

import anyio

from atoll.actors.tunnel_relay.relay import Relay
from atoll.actors.tunnel_relay.tickets import NO_HOLDER, Role, issue
from atoll.bench.processes import ANSWER_TIMEOUT_S, Process, end_with_parent
from atoll.transport.bearer import encode_preamble, make_bearer_ready
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey

HOST = "127.0.0.1"
ISSUER, RELAY = NodeKey(b"bench issuer".ljust(32)), NodeKey(b"bench relay".ljust(32))
TICKET_S = 600

Pair: TypeAlias = tuple[socket.socket, socket.socket]


def ticket(role: Role, subject: bytes, *, holder: bytes = NO_HOLDER) -> bytes:
    """Issue a ticket that the relay takes."""
    expires_at = int(time.time()) + TICKET_S
    return issue(ISSUER, role=role, subject=subject, relay=RELAY.node_id, expires_at=expires_at, holder=holder)


class RelayProcess(Process):
    """A relay of our own; `sep_port` and `port` are open when this is made."""

    def __init__(self) -> None:
        super().__init__("atoll.bench.relay_process")
        try:
            self.sep_port, self.port = map(int, self.line().split())
        except BaseException:
            self.close()
            raise

    def pair(self) -> Pair:
        """Make a tunnel, from fresh tickets to OK at both ends."""
        tunnel = os.urandom(16)
        socks: list[socket.socket] = []
        try:
            for role in (Role.OFFER, Role.CALL):
                socks.append(socket.create_connection((HOST, self.port), ANSWER_TIMEOUT_S))
                make_bearer_ready(socks[-1])
                socks[-1].sendall(encode_preamble(ticket(role, tunnel)))
            for sock in socks:
                _read_ok(sock)
        except BaseException:
            for sock in socks:
                sock.close()
            raise
        return socks[0], socks[1]


def _read_ok(sock: socket.socket) -> None:
    if (answer := sock.recv(2)) != b"OK":
        raise Unreachable(f"the relay refused a tunnel of the benchmark: {answer + sock.recv(300)!r}")


def direct_pair() -> Pair:
    """Connect two sockets over loopback TCP with nothing between."""
    with socket.create_server((HOST, 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for sock in (one, other):
        make_bearer_ready(sock)
    return one, other


async def _serve() -> None:
    async with Relay(RELAY, ISSUER.node_id, sep_port=0, bearer_port=0, host=HOST) as relay:
        print(relay.sep_port, relay.bearer_port, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    end_with_parent()
    anyio.run(_serve, backend_options={"use_uvloop": True})
