"""frp: a server in the middle and a client as the agent, all connections in one multiplexed one (its default)."""

from atoll.bench.peers.peer import Peer
from atoll.bench.sockets import HOST, free_port

SERVER = 'bindAddr = "{host}"\nbindPort = {control}\nproxyBindAddr = "{host}"\nlog.to = "console"\nlog.level = "warn"\n'
CLIENT = """\
serverAddr = "{host}"
serverPort = {control}
log.to = "console"
log.level = "warn"
[[proxies]]
name = "bench"
type = "tcp"
localIP = "{host}"
localPort = {target}
remotePort = {port}
"""


class Frp(Peer):
    """Configured after its manual of 0.52 and later (TOML)."""

    name = "frp"
    programs = ("frps", "frpc")
    install = "releases of github.com/fatedier/frp, into the PATH"

    def configure(self) -> None:
        control = free_port()
        (self.folder / "frps.toml").write_text(SERVER.format(host=HOST, control=control))
        text = CLIENT.format(host=HOST, control=control, target=self.target, port=self.port)
        (self.folder / "frpc.toml").write_text(text)
        self.run("frps", "-c", "frps.toml")
        self.run("frpc", "-c", "frpc.toml", agent=True)
