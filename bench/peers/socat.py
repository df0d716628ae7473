"""socat: one process a connection, bytes copied through user space."""

from atoll.bench.peers.peer import Peer
from atoll.bench.sockets import HOST

BUFFER_BYTES = 65_536
"""Its default of 8 KiB makes it three times slower."""


class Socat(Peer):
    """Forks for each connection."""

    name = "socat"
    programs = ("socat",)
    install = "apt install socat"

    def configure(self) -> None:
        listen = f"TCP-LISTEN:{self.port},bind={HOST},reuseaddr,fork,nodelay,backlog=64"
        # -t: how long the other direction may go on after one has ended.
        self.run("socat", "-b", str(BUFFER_BYTES), "-t", "20", listen, f"TCP:{HOST}:{self.target},nodelay")
