"""The relay program in a process of its own, and tickets for it."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

from atoll.actors.tunnel_relay.tickets import Role, issue
from atoll.transport.bearer import encode_preamble
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey

ATOLL = [sys.executable, "-c", "from atoll.cli import main; main()"]
HOST = "127.0.0.1"
PATIENCE_S = 20


@dataclass
class RelayProgram:
    """`atoll relay run` on free ports; what it logs is in `log`."""

    process: subprocess.Popen
    issuer: NodeKey
    node: NodeId
    sep_port: int
    port: int
    log: list[str] = field(default_factory=list)

    def tickets(self, *, life_s=600, **fields):
        """Both halves of a new tunnel."""
        subject, expires_at = os.urandom(16), int(time.time() + life_s)
        fields = {"subject": subject, "relay": self.node, "expires_at": expires_at} | fields
        return [issue(self.issuer, role=role, **fields) for role in (Role.OFFER, Role.CALL)]

    def show(self, ticket):
        """A connection that has shown a ticket at the bearer port."""
        sock = socket.create_connection((HOST, self.port), PATIENCE_S)
        sock.sendall(encode_preamble(ticket))
        return sock

    def tunnel(self, **fields):
        """Both ends of a new tunnel, past their OK."""
        ends = [self.show(ticket) for ticket in self.tickets(**fields)]
        for end in ends:
            assert end.recv(2) == b"OK"
        return ends


@contextlib.contextmanager
def relay_program(state_dir, *settings, environment=None, before=(), **popen):
    """Run it, and kill it in the end; `settings` are as for `--set`, `before` are words in front of the command."""
    issuer = NodeKey.generate()
    free = ("sep_port=0", "bearer_port=0", f"listen={HOST}", f"state_dir={state_dir}", f"run_dir={state_dir}/run")
    command = [*before, *ATOLL, "relay", "run", "--issuer", str(issuer.node_id)]
    for each in (*free, *settings):
        command += ["--set", each]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}, **popen
    )
    reader = None
    try:
        lines = []
        while "SEP on" not in (line := process.stderr.readline()):
            assert line, "".join(lines)
            lines.append(line)
        found = re.search(r"relay (\w{52}): SEP on \S+:(\d+), bearers on \S+:(\d+)", line)
        program = RelayProgram(process, issuer, NodeId.parse(found[1]), int(found[2]), int(found[3]), [*lines, line])
        reader = threading.Thread(target=lambda: program.log.extend(process.stderr), daemon=True)
        reader.start()
        yield program
    finally:
        process.kill()
        process.wait()
        if reader is not None:
            reader.join(PATIENCE_S)
        process.stderr.close()
