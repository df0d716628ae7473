"""Erlang: compiles its program into this folder, starts two nodes, and becomes the first.

The nodes find each other without epmd, which would stay behind: each has an address of loopback to itself, and both
the same port. The far one reads a pipe that only the near one holds open, so it ends with it, however that ends.
"""

import os
import subprocess
import sys
from pathlib import Path

from atoll.bench.peers.peer import program
from atoll.bench.sockets import free_port

NEAR, FAR = "127.0.0.1", "127.0.0.2"
PROGRAM = Path(__file__).with_suffix(".erl")


def _command(host: str, port: int, cookie: str, function: str, *arguments: str) -> list[str]:
    interface = "{" + host.replace(".", ",") + "}"
    return [
        *(program("erl") or "erl", "-noshell", "-name", f"bench@{host}", "-setcookie", cookie),
        *("-start_epmd", "false", "-erl_epmd_port", str(port), "-kernel", "inet_dist_use_interface", interface),
        *("-s", "erlang_actors", function, "-extra", *arguments),
    ]


def main() -> None:
    """Start the far node, and turn into the near one."""
    subprocess.run([program("erlc") or "erlc", str(PROGRAM)], check=True, stdout=sys.stderr)  # noqa: S603 - our own
    port, cookie = free_port(), os.urandom(16).hex()
    reader, writer = os.pipe()
    far = _command(FAR, port, cookie, "far")
    subprocess.Popen(far, stdin=reader, stdout=sys.stderr)  # noqa: S603 - our own
    os.close(reader)
    os.set_inheritable(writer, True)
    near = _command(NEAR, port, cookie, "main", f"bench@{FAR}")
    os.execv(near[0], near)  # noqa: S606 - our own


if __name__ == "__main__":
    main()
