"""One worker of a relay, a process of its own: the tunnels of some purses, on one core.

    python -m atoll.actors.tunnel_relay.bearer_worker FD

FD is a unix socket of whole messages (SOCK_SEQPACKET) that leads to the door, which `bearer_workers.py` holds:

    door   -> worker   settings (JSON), once;  then "T" ticket, with a descriptor;  "D" drain
    worker -> door     statistics (JSON), when they have changed

It judges every ticket itself and trusts the door with nothing but to send connections. When the door is gone, so is it.
"""

import contextlib
import json
import signal
import socket
import sys
import threading
from typing import Any

from msgspec.structs import asdict

from atoll.actors.tunnel_relay.bearer_server import BearerLimits, BearerServer
from atoll.transport.identity import NodeId

MESSAGE_BYTES_MAX = 4096
TICKET, DRAIN = b"T", b"D"
DRAINING = "draining"
"""Beside the statistics: 1 when the worker takes nobody any more."""
TELL_S = 0.2
"""Between two messages with statistics."""
TURN_S = 0.0005
"""As the door's: one thread may not keep the interpreter for longer, while another one wants it."""


def settings_of(relay: NodeId, issuer: NodeId, limits: BearerLimits) -> bytes:
    """Write what a worker is told first."""
    return json.dumps({"relay": relay.hex(), "issuer": issuer.hex(), "limits": asdict(limits)}).encode()


def serve(control: socket.socket) -> None:
    """Serve until the door is gone."""
    settings: dict[str, Any] = json.loads(control.recv(MESSAGE_BYTES_MAX))
    server = BearerServer(
        relay=NodeId(bytes.fromhex(settings["relay"])),
        issuer=NodeId(bytes.fromhex(settings["issuer"])),
        host="",
        port=None,
        limits=BearerLimits(**settings["limits"]),
    )
    ended = threading.Event()
    threads = [
        threading.Thread(target=_listen, args=(control, server), name="door"),
        threading.Thread(target=_tell, args=(control, server, ended), name="statistics"),
    ]
    for thread in threads:
        thread.start()
    try:
        server.run()
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            control.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        server.close()


def _listen(control: socket.socket, server: BearerServer) -> None:
    with contextlib.suppress(OSError):
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES_MAX, 1)
            if not message:
                break
            if message[:1] == TICKET and descriptors:
                server.adopt(socket.socket(fileno=descriptors[0]), message[1:])
            elif message[:1] == DRAIN:
                server.drain()
    server.stop()


def _tell(control: socket.socket, server: BearerServer, ended: threading.Event) -> None:
    told: dict[str, int] = {}
    while True:
        # In this order: what is told together with the drain was counted when it had begun.
        draining = int(server.pairing.draining)
        found = {**server.statistics(), DRAINING: draining}
        if found != told:
            told = found
            with contextlib.suppress(OSError):
                control.send(json.dumps(found).encode())
        if ended.wait(TELL_S):
            return


def main() -> None:
    """Serve the socket that is named on the command line."""
    # A signal of the terminal goes to all of a group; the door decides when a worker ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.setswitchinterval(TURN_S)
    with socket.socket(fileno=int(sys.argv[1])) as control:
        serve(control)


if __name__ == "__main__":
    main()
