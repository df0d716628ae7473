"""Every command block of the documents runs, on nodes and clusters of real processes.

Blocks are told apart by the word behind the language: `sh` runs by itself, `sh node` on each of two hosts, `sh left`
and `sh right` beside those nodes, `sh up` starts a cluster, `sh cluster` runs beside it, `sh serve` runs until it is
interrupted. A stage is one test, so that its processes are started once however the tests are spread.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from documents import PAGES, fenced, is_make, shell
from ports import free_port
from waiting import block_until

WAIT_S = 60.0


@pytest.fixture(scope="module")
def host():
    """A directory with an `atoll` of its own, whose running clusters are nobody else's."""
    root = Path(tempfile.mkdtemp(prefix="atoll-docs-"))
    atoll, python = root / "bin" / "atoll", root / "bin" / "python"
    atoll.parent.mkdir()
    atoll.write_text(
        f"#!{sys.executable} -P\n"
        "from pathlib import Path\n"
        "from atoll.cluster_specs import config\n"
        f"config.default_run_dir = lambda: Path({str(root / 'rt')!r})\n"
        "from atoll.cli import main\n"
        "main()\n"
    )
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -P "$@"\n')
    atoll.chmod(0o700)
    python.chmod(0o700)
    yield root
    shutil.rmtree(root)


def environment(host, *, name="", beacon_port=0, **more):
    """The environment of a host of its own; without a name, one without settings."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("ATOLL_")}
    plain |= {"PATH": f"{host / 'bin'}:{os.environ['PATH']}", "HOME": str(host), **more}
    if name:
        settings = {
            "NAME": name,
            "STATE_DIR": host / name,
            "RUN_DIR": host / name / "run",
            "GATEWAY_PORT": -1,
            "LINKS_PORT": 0,
            "BEACON_PORT": beacon_port or free_port(socket.SOCK_DGRAM),
        }
        plain |= {f"ATOLL_{key}": str(value) for key, value in settings.items()}
    return plain


def run(text, host, env, page):
    done = subprocess.run(
        ["sh", "-euc", text], cwd=host, env=env, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, f"{page}: {text}\n{done.stdout}{done.stderr}"
    return done


@contextmanager
def running(text, host, env):
    """Run a block in the background and end it with Ctrl-C, as a person would."""
    log = (host / f"{secrets.token_hex(4)}.log").open("w+b")
    child = subprocess.Popen(
        ["sh", "-euc", f"exec {text}"], cwd=host, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield child, lambda: Path(log.name).read_text()
        child.send_signal(signal.SIGINT)
        assert child.wait(WAIT_S) == 0, Path(log.name).read_text()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        log.close()


def succeeds(command, host, env):
    done = subprocess.run(["sh", "-c", command], cwd=host, env=env, capture_output=True, timeout=WAIT_S, check=False)
    return done.returncode == 0


def test_commands_that_need_nothing_run(host):
    for page, text in [each for each in shell("") if not is_make(each[1])]:
        run(text, host, environment(host, name="alone"), page)


def test_commands_that_serve_start_and_end(host):
    for page, text in shell("serve"):
        with running(text, host, environment(host, name="served")) as (child, said):
            block_until(lambda said=said: said().strip(), lambda page=page, text=text: f"{page}: {text} says nothing")
            assert child.poll() is None, said()


def test_two_nodes_on_one_network_as_the_readme_says(host):
    ((page, start),) = shell("node")
    shared = {"beacon_port": free_port(socket.SOCK_DGRAM), "SECRET": secrets.token_hex(32)}
    left, right = (environment(host, name=name, **shared) for name in ("left", "right"))
    with running(start.strip(), host, left) as (_, said), running(start.strip(), host, right):
        met = "atoll node show right | grep -q '^by *direct'"
        block_until(lambda: succeeds(met, host, left), said)
        blocks = [(where, text) for language, where, text in fenced(page) if where in {"left", "right"}]
        assert {where for where, _ in blocks} == {"left", "right"}
        for where, text in blocks:
            run(text, host, {"left": left, "right": right}[where], page)


def test_a_cluster_as_the_documents_say(host):
    ((_, up),) = shell("up")
    env = environment(host)
    with running(f"{up.strip()} --loopback", host, env) as (_, said):
        block_until(lambda: "until Ctrl-C" in said(), said)
        # The first routes come about a moment after the first supernodes.
        called = "atoll --at home/phone call echo@office/server /"
        block_until(lambda: succeeds(called, host, env), said)
        for page, text in shell("cluster"):
            run(text, host, env, page)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("README.md", "21.0\n"),
        ("docs/migratable-actors.md", "ann has 500\n"),
        ("docs/publish-subscribe.md", "sensors/kitchen/temperature 21.5\n"),
    ],
)
def test_the_examples_run(host, page, said):
    assert {each for each in PAGES if "python" in [language for language, *_ in fenced(each)]} == {
        "README.md",
        "docs/migratable-actors.md",
        "docs/publish-subscribe.md",
    }
    (example,) = [text for language, _, text in fenced(page) if language == "python"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", example],
        env=environment(host, name="example"),
        cwd=host,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.stdout, done.returncode) == (said, 0), done.stderr
