"""The commands as programs: imports, exit codes, full disks, closed pipes, long names."""

import os
import subprocess
import sys

from cli_probe import failed, fine
from gateway_probe import KEY
from http_probe import WAIT_S


def test_help_of_every_command_imports_nothing_heavy():
    code = """
import sys
from atoll.cli import main
for words in ("", "status", "node", "node list", "image push", "container run", "call", "config show"):
    try:
        main([*words.split(), "--help"], standalone_mode=False)
    except SystemExit:
        pass
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WAIT_S)
    modules = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not {"zmq", "starlette", "rich", "anyio", "msgspec", "cryptography", "nacl", "asyncio"} & modules


def test_the_program_is_plain_text_and_exits_0_1_and_2(gate, tmp_path):
    def run(*arguments):
        environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color", "ATOLL_RUN_DIR": str(tmp_path)}
        command = [sys.executable, "-c", "from atoll.cli import main; main()", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_S, env=environment)

    done = run("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert run("node", "show", "nobody").returncode == 1
    assert run("node", "list", "--scope", "x").returncode == 2


def test_a_full_disk_behind_the_output_is_said_and_a_closed_pipe_is_not(gate):
    def run(stdout, *arguments):
        command = [sys.executable, "-c", "from atoll.cli import main; main()", "--at", str(gate.path), *arguments]
        return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=WAIT_S)

    for arguments in (("status",), ("status", "--json"), ("config", "show")):
        with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
            done = run(full, *arguments)
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            "atoll: the output cannot be written: No space left on device",
            "       give it another place, or make room",
        ]
    reading, writing = os.pipe()
    os.close(reading)
    done = run(writing, "status", "--json")
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_name_of_any_length_makes_an_error_of_two_short_lines(gate):
    name = "x" * 3000
    for words in (("node", "show", name), ("container", "logs", name), ("call", "/x@" + name), ("image", "rm", name)):
        done = gate(*words)
        failed(done, "", "")
        assert len(done.stderr) < 2000
    failed(gate("status", at=name), "no running node is called xxx", "atoll up", code=2)


def test_a_folder_stands_for_the_socket_in_it(gate):
    for at in (gate.path.parent, f"unix:{gate.path.parent}"):
        assert fine(gate("status", at=at)).startswith("healthy")
    failed(gate("status", at="unix:"), "names no socket", "unix:/path/to/api.sock", code=2)


def test_tls_to_a_gateway_without_it_is_said(gate):
    done = gate("status", at=f"https://127.0.0.1:{gate.port}", env={"ATOLL_API_KEY": KEY})
    failed(done, "does not speak TLS", "http://")
