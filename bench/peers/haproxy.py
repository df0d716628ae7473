"""HAProxy in TCP mode, one thread, with its kernel splicing allowed."""

from atoll.bench.peers.peer import Peer
from atoll.bench.sockets import HOST

CONFIGURATION = """\
global
  nbthread 1
  maxconn 1000
  stats socket {folder}/stats mode 600
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option splice-auto
listen relay
  bind {host}:{port}
  server target {host}:{target}
"""


class Haproxy(Peer):
    """One process in the foreground."""

    name = "haproxy"
    programs = ("haproxy",)
    install = "apt install haproxy"

    def configure(self) -> None:
        text = CONFIGURATION.format(folder=self.folder, host=HOST, port=self.port, target=self.target)
        (self.folder / "haproxy.cfg").write_text(text)
        self.run("haproxy", "-db", "-f", "haproxy.cfg")
