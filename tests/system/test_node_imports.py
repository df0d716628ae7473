"""What a node at rest loads: nothing that only its sessions, its cloud, its workers or its users want."""

import signal
import subprocess
import sys
from itertools import takewhile

from http_probe import WAIT_S

from atoll.transport import ciphers

UNWANTED = {
    "cryptography": "sessions load it when the first one begins (transport/ciphers.py)",
    "joserfc": "grants are checked where there is a cloud (transport/tokens.py)",
    "sqlite3": "the cloud keeps its store in it (node.open_cloud)",
    "atoll.actors.cloud.cloud": "a node runs no cloud",
    "atoll.cli.connection": "commands talk to nodes; a node does not",
    "importlib.metadata": "the version is a constant (composition/version.py)",
    "zipfile": "comes with importlib.metadata",
    "unicodedata": "names of files that come are checked with its tables (blobs/names.py)",
    "websockets": "only the way to relays through proxies wants it (tunnel_relay/doors.py)",
    "prometheus_client": "relays have metrics",
    "quickjs_rs": "runs in workers",
    "wasmtime": "runs in workers",
    "zeroconf": "an extra, loaded where the config wants DNS-SD",
    "trio": "an extra",
    "atoll.testing": "no program that is shipped for use wants it",
    "atoll.bench": "a command of its own",
}
"""What must not be there, and who loads it when."""

PROGRAM = """
import gc, os, signal, sys
from atoll.cli import main

def look(*_):
    print(gc.isenabled(), gc.get_freeze_count(), *sys.modules, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGUSR1, look)
main(["node", "run", *sys.argv[1:]])
"""
SETTINGS = ("links.host=127.0.0.1", "links.port=0", "gateway.port=0", "beacon.enabled=false")
AT_REST = "holds the duty cache"
"""What a node alone does last when it has started: it has elected itself, and has taken the duties of its site."""


def test_a_node_at_rest_has_loaded_nothing_that_it_does_not_use(tmp_path):
    settings = (f"state_dir={tmp_path}", f"run_dir={tmp_path}", *SETTINGS)
    command = [sys.executable, "-c", PROGRAM, *(word for each in settings for word in ("--set", each))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        said = list(takewhile(lambda line: AT_REST not in line, running.stderr))
        running.send_signal(signal.SIGUSR1)
        printed, rest = running.communicate(timeout=WAIT_S)
    assert running.returncode == 0, "".join(said) + rest
    collecting, left_out, *modules = printed.split()
    loaded = set(modules)
    assert {"atoll.node", "atoll.actors.router.router", "zmq", "uvloop", "starlette"} <= loaded, "it is a whole node"
    assert {each: why for each, why in UNWANTED.items() if each in loaded} == {}
    assert collecting == "True"
    assert int(left_out) > 10_000, "the collector never looks through the modules"


def test_what_encrypts_sessions_is_loaded_when_it_is_asked_for_and_not_by_looking():
    program = """
import sys
from atoll.transport import ciphers, session
assert not hasattr(ciphers, "__path__")
print("cryptography" in sys.modules)
ciphers.AESGCM
print("cryptography" in sys.modules, *sorted(set(ciphers.__all__) - set(vars(ciphers))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert done.stdout.split() == ["False", "True"]
    assert all(getattr(ciphers, each).__module__.startswith("cryptography.") for each in ciphers.__all__)
