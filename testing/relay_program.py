"""The relay program in a process of its own, and tickets for it.

with relay_program(state_dir, "drain_s=1") as relay:
    one, other = relay.tunnel()
"""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from atoll.actors.tunnel_relay.sep_client import FreshKey, SepClient
from atoll.actors.tunnel_relay.tickets import SEP_ROLES, SUBJECT_BYTES, Role, issue
from atoll.transport.bearer import OK, encode_preamble
from atoll.transport.errors import Unreachable
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey

COMMAND = [sys.executable, "-c", "from atoll.cli import main; main()", "relay", "run"]
HOST = "127.0.0.1"
PATIENCE_S = 20.0
"""Far beyond what anything here takes."""
TICKET_S = 3600


@dataclass(slots=True)
class RelayProgram:
    """`atoll relay run` on free ports; what it logs is in `log`."""

    process: "subprocess.Popen[str]"
    issuer: NodeKey
    node: NodeId
    sep_port: int
    port: int
    log: list[str] = field(default_factory=list)

    def ticket(self, role: Role, subject: bytes, key: FreshKey | None = None, **fields: Any) -> bytes:
        """Issue a ticket that it takes."""
        said: dict[str, Any] = {
            "role": role,
            "subject": subject,
            "relay": self.node,
            "expires_at": int(time.time()) + TICKET_S,
        }
        bound = {"holder": key.public} if key is not None and role in SEP_ROLES else {}
        return issue(self.issuer, **(said | bound | fields))

    def tickets(self, **fields: Any) -> list[bytes]:
        """Issue both halves of a new tunnel."""
        subject = os.urandom(SUBJECT_BYTES)
        return [self.ticket(role, subject, **fields) for role in (Role.OFFER, Role.CALL)]

    def show(self, ticket: bytes) -> socket.socket:
        """Dial the bearer port and show a ticket."""
        sock = socket.create_connection((HOST, self.port), PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(encode_preamble(ticket))
        return sock

    def tunnel(self, **fields: Any) -> list[socket.socket]:
        """Make a tunnel, and give both ends, past their OK.

        Raises:
            Unreachable: The relay says no.
        """
        ends = [self.show(ticket) for ticket in self.tickets(**fields)]
        for end in ends:
            if (said := end.recv(len(OK))) != OK:
                raise Unreachable(f"the relay refused a tunnel: {said + end.recv(300)!r}")
        return ends

    def sep(self, role: Role, registration: bytes) -> SepClient:
        """Make a client for its SEP port, with a fresh key and ticket."""
        key = FreshKey.generate()
        return SepClient(HOST, self.sep_port, self.node, self.ticket(role, registration, key), key, dial_s=PATIENCE_S)

    @property
    def metrics_port(self) -> int:
        """Where its metrics are; the setting `metrics.port=0` opens one."""
        return int(next(found[1] for line in self.log if (found := re.search(r"metrics at http://\S+:(\d+)/", line))))

    def status(self) -> dict[str, Any]:
        """Ask how it is doing."""
        connection = http.client.HTTPConnection(HOST, self.metrics_port, timeout=PATIENCE_S)
        try:
            connection.request("GET", "/status")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return found

    def cpu_s(self) -> float:
        """CPU seconds of all its threads since its start."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def rss_mb(self) -> float:
        """Memory that is resident now."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6


@contextmanager
def relay_program(
    state_dir: Path,
    *settings: str,
    environment: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    issuer: NodeKey | None = None,
) -> Iterator[RelayProgram]:
    """Run it, and kill it in the end; `settings` are as for `--set`, `before` are words in front of the command.

    Raises:
        Unreachable: It did not start; with what it said.
    """
    issuer = issuer or NodeKey.generate()
    own = ("sep_port=0", "bearer_port=0", f"listen={HOST}", f"state_dir={state_dir}", f"run_dir={state_dir}/run")
    words = [word for each in (*own, *settings) for word in ("--set", each)]
    process = subprocess.Popen(  # noqa: S603 - our own program
        [*before, *COMMAND, "--issuer", str(issuer.node_id), *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    reader: threading.Thread | None = None
    log: list[str] = []
    stderr = process.stderr
    try:
        while stderr is not None and "SEP on" not in (line := stderr.readline()):
            if not line:
                raise Unreachable("the relay did not start: " + "".join(log))
            log.append(line)
        log.append(line)
        found = re.search(r"relay (\w{52}): SEP on \S+:(\d+), bearers on \S+:(\d+)", line)
        if found is None:
            raise Unreachable(f"the relay says {line!r} instead of where it is")
        program = RelayProgram(process, issuer, NodeId.parse(found[1]), int(found[2]), int(found[3]), log)
        # Somebody must read: a relay whose log fills the pipe would stand still.
        reader = threading.Thread(target=lambda: log.extend(stderr or ()), name="relay's log", daemon=True)
        reader.start()
        yield program
    finally:
        process.kill()
        process.wait()
        if reader is not None:
            reader.join(PATIENCE_S)
        if stderr is not None:
            stderr.close()
