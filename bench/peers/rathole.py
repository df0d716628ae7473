"""rathole: a server in the middle and a client as the agent, plain TCP between them (its default)."""

from atoll.bench.peers.peer import Peer
from atoll.bench.sockets import HOST, free_port

SERVER = """\
[server]
bind_addr = "{host}:{control}"
[server.services.bench]
token = "bench"
bind_addr = "{host}:{port}"
"""
CLIENT = """\
[client]
remote_addr = "{host}:{control}"
[client.services.bench]
token = "bench"
local_addr = "{host}:{target}"
"""


class Rathole(Peer):
    """Configured after its manual of 0.4 and later."""

    name = "rathole"
    programs = ("rathole",)
    install = "cargo install rathole, or releases of github.com/rapiz1/rathole, into the PATH"

    def configure(self) -> None:
        control = free_port()
        (self.folder / "server.toml").write_text(SERVER.format(host=HOST, control=control, port=self.port))
        (self.folder / "client.toml").write_text(CLIENT.format(host=HOST, control=control, target=self.target))
        self.run("rathole", "--server", "server.toml")
        self.run("rathole", "--client", "client.toml", agent=True)
