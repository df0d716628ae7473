"""The limit of new connections that docs/operations.md has for the host of a relay, in a network namespace."""

import shutil
import subprocess
import sys

import pytest
from documents import fenced

TOOLS = ("unshare", "ip", "nft")
DIALS = 600
PATIENCE_S = 150
RULES = next(text for language, _, text in fenced("docs/operations.md") if language == "nft")
INSIDE = """
import select, socket, subprocess, sys
rules, host, dials = sys.argv[1], sys.argv[2], int(sys.argv[3])
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
family = socket.AF_INET6 if ":" in host else socket.AF_INET
listener = socket.create_server((host, 8088), family=family, backlog=4 * dials)
there = socket.create_connection((host, 8088))
here, _ = listener.accept()
dialling = [socket.socket(family) for _ in range(dials)]
for each in dialling:
    each.setblocking(False)
    each.connect_ex((host, 8088))
came = []
while select.select([listener], [], [], 0.5)[0]:
    came.append(listener.accept())
there.sendall(b"still here")
print(len(came), here.recv(100).decode())
"""
"""Before the kernel sends what it dropped again, after a second."""

pytestmark = pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_one_source_opens_so_many_connections_to_a_relay_and_keeps_those_it_has(host):
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-c", INSIDE, RULES, host, str(DIALS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    count, _, rest = done.stdout.partition(" ")
    assert rest == "still here\n"
    # A burst of 200, and 50 a second.
    assert 150 < int(count) < DIALS - 100
