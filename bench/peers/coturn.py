"""coturn: a TURN server with TCP allocations (RFC 6062), after whose handshake bytes pass as they are."""

import socket

from atoll.bench.peers import stun
from atoll.bench.peers.peer import PASS_S, Peer
from atoll.bench.sockets import HOST


class Coturn(Peer):
    """Without accounts: what is measured is its relaying."""

    name = "coturn"
    programs = ("turnserver",)
    install = "apt install coturn"
    half_closes = False

    def __init__(self) -> None:
        super().__init__()
        self._controls: list[socket.socket] = []

    def configure(self) -> None:
        self.run(
            *("turnserver", "-n", "--no-auth", "--no-cli", "--no-udp", "--no-tls", "--no-dtls", "--no-stun-backward"),
            *("--listening-ip", HOST, "--relay-ip", HOST, "--listening-port", str(self.port), "--relay-threads", "1"),
            *("--allow-loopback-peers", "--log-file", "stdout", "--simple-log", "--pidfile", str(self.folder / "pid")),
            *("--userdb", str(self.folder / "users")),
        )

    def prepare(self, near: socket.socket) -> None:
        peer = {stun.XOR_PEER_ADDRESS: stun.peer_address(HOST, self.target)}
        control = socket.create_connection((HOST, self.port), PASS_S)
        # An allocation lives as long as the connection it was asked for on.
        self._controls.append(control)
        stun.ask(control, stun.ALLOCATE, {stun.REQUESTED_TRANSPORT: stun.TCP})
        stun.ask(control, stun.CREATE_PERMISSION, peer)
        connection = stun.ask(control, stun.CONNECT, peer)[stun.CONNECTION_ID]
        stun.ask(near, stun.CONNECTION_BIND, {stun.CONNECTION_ID: connection})

    def finish(self) -> None:
        for control in self._controls:
            control.close()
        self._controls.clear()

    def close(self) -> None:
        self.finish()
        super().close()
