"""chisel: SSH inside a WebSocket; a server in the middle and a client as the agent."""

from atoll.bench.peers.peer import Peer
from atoll.bench.sockets import HOST, free_port


class Chisel(Peer):
    """Reverse port forwarding, as its manual has it."""

    name = "chisel"
    programs = ("chisel",)
    install = "releases of github.com/jpillora/chisel, into the PATH"

    def configure(self) -> None:
        control = free_port()
        self.run("chisel", "server", "--host", HOST, "--port", str(control), "--reverse")
        forward = f"R:{HOST}:{self.port}:{HOST}:{self.target}"
        self.run("chisel", "client", "--max-retry-interval", "1s", f"{HOST}:{control}", forward, agent=True)
