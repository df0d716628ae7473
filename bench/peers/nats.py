"""NATS: a broker that switches messages by subject; the ends speak its protocol (`nats_ends.py`)."""

import socket

from atoll.bench.nats_ends import greet, subscribe
from atoll.bench.peers.peer import PASS_S, Peer
from atoll.bench.sockets import HOST
from atoll.bench.way import Pair
from atoll.transport.bearer import make_bearer_ready


class Nats(Peer):
    """Each record is a message of its own to one subscriber."""

    name = "NATS"
    programs = ("nats-server",)
    install = "apt install nats-server"
    ends = "nats_"

    def configure(self) -> None:
        self.run("nats-server", "-a", HOST, "-p", str(self.port))

    def pair(self) -> Pair:
        socks: list[socket.socket] = []
        try:
            for own in ("far", "near"):
                socks.append(socket.create_connection((HOST, self.port), PASS_S))
                make_bearer_ready(socks[-1])
                greet(socks[-1])
                subscribe(socks[-1], own)
        except BaseException:
            for sock in socks:
                sock.close()
            raise
        # What goes in at the near end is published to the far one's subject, and the other way round.
        return socks[1], socks[0]
