"""nginx's stream proxy, one worker."""

import subprocess
from pathlib import Path

from atoll.bench.peers.peer import Peer, program
from atoll.bench.sockets import HOST

MODULES = (
    Path("/usr/lib/nginx/modules/ngx_stream_module.so"),
    Path("/usr/lib64/nginx/modules/ngx_stream_module.so"),
    Path("/usr/local/nginx/modules/ngx_stream_module.so"),
)
CONFIGURATION = """\
{load}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 1000; }}
stream {{
  server {{
    listen {host}:{port};
    tcp_nodelay on;
    proxy_buffer_size 64k;
    proxy_pass {host}:{target};
  }}
}}
"""


class Nginx(Peer):
    """A master and one worker; the stream module is built in or loaded."""

    name = "nginx"
    programs = ("nginx",)
    install = "apt install nginx-light libnginx-mod-stream"

    @classmethod
    def absence(cls) -> str | None:
        if (absence := super().absence()) is not None:
            return absence
        if _module() is None and not _built_in():
            return f"nginx is there, its stream module is not ({cls.install})"
        return None

    def configure(self) -> None:
        module = None if _built_in() else _module()
        text = CONFIGURATION.format(
            load=f"load_module {module};" if module else "",
            folder=self.folder,
            host=HOST,
            port=self.port,
            target=self.target,
        )
        (self.folder / "nginx.conf").write_text(text)
        self.run("nginx", "-e", "stderr", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"))


def _module() -> Path | None:
    return next((each for each in MODULES if each.exists()), None)


def _built_in() -> bool:
    done = subprocess.run(  # noqa: S603 - asks only for its version
        [program("nginx") or "nginx", "-V"], capture_output=True, text=True, check=False
    )
    return "--with-stream " in f"{done.stderr} "
