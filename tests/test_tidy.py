"""Rules that keep the house in order: layers, pure machines, names, unique tags, what the wheel holds."""

import ast
import importlib
import pkgutil
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

import atoll
from atoll.transport.codec import Codec, Message

ROOT = Path(__file__).parent.parent
FOLDERS = ["actors", "transport", "cli", "testing", "bench", "cluster_specs"]
SOURCES = [*sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")), ROOT / "node.py"]
IO_MODULES = {"anyio", "asyncio", "trio", "zmq", "socket", "sqlite3", "threading", "subprocess", "time", "random"}
MACHINES = [
    "actors/blobs/manifest.py",
    "actors/blobs/names.py",
    "actors/blobs/receiving.py",
    "actors/blobs/sending.py",
    "actors/discoverer/addresses.py",
    "actors/discoverer/anti_entropy.py",
    "actors/discoverer/belief.py",
    "actors/discoverer/gossip.py",
    "actors/discoverer/introductions.py",
    "actors/discoverer/local_health.py",
    "actors/discoverer/membership.py",
    "actors/discoverer/probe_turns.py",
    "actors/discoverer/relayed_pings.py",
    "actors/discoverer/suspicion.py",
    "actors/discoverer/suspicion_settings.py",
    "actors/discoverer/talks.py",
    "actors/discoverer/unheard.py",
    "actors/elector/election.py",
    "actors/hand_over/client.py",
    "actors/hand_over/durable.py",
    "actors/hand_over/hosting.py",
    "actors/hand_over/inquiry.py",
    "actors/hand_over/log.py",
    "actors/hand_over/log_store.py",
    "actors/hand_over/move.py",
    "actors/hand_over/reception.py",
    "actors/hand_over/soft.py",
    "actors/hand_over/state.py",
    "actors/hand_over/tenures.py",
    "actors/elector/voter.py",
    "actors/elector/reign.py",
    "actors/elector/outlook.py",
    "actors/elector/roster.py",
    "actors/image_exchange/offers.py",
    "actors/image_exchange/shelf.py",
    "actors/image_exchange/transfer.py",
    "actors/placement/leadership.py",
    "actors/placement/placement.py",
    "actors/placement/register.py",
    "actors/placement/table.py",
    "actors/router/punch_book.py",
    "actors/router/routes.py",
    "actors/runtime/machine.py",
    "actors/runtime/supervisor.py",
    "actors/topics/exchange.py",
    "actors/topics/filters.py",
    "actors/topics/gates.py",
    "actors/topics/ring.py",
    "actors/topics/seen.py",
    "actors/topics/visit.py",
    "actors/tunnel_relay/bucket.py",
    "actors/tunnel_relay/candidates.py",
    "actors/tunnel_relay/circuits.py",
    "actors/tunnel_relay/pairing.py",
    "actors/tunnel_relay/punching.py",
    "actors/tunnel_relay/tickets.py",
    "transport/multipath.py",
    "transport/noise.py",
    "transport/path_set.py",
    "transport/record_stream.py",
    "transport/records.py",
    "transport/rehandshake.py",
    "transport/session.py",
    "transport/session_events.py",
    "transport/session_opening.py",
    "transport/stream_answers.py",
    "transport/stream_credit.py",
    "transport/stream_frames.py",
    "transport/stream_halves.py",
    "transport/streams.py",
    "transport/stun.py",
    "transport/tcp_address.py",
]


def name_of(path):
    return str(path.relative_to(ROOT))


BODIES = ("body", "orelse", "finalbody", "handlers", "cases")
"""Where statements hold other statements."""


@cache
def syntax(path):
    """Give all statements of a file: to go through its expressions, too, takes longer than to parse it."""
    found, left = [], [ast.parse(path.read_text())]
    while left:
        node = left.pop()
        found.append(node)
        for name in BODIES:
            left += getattr(node, name, ())
    return found


def imports(path):
    """Everything a file imports when it runs, as dotted names."""
    for node in syntax(path):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            yield node.module


def must_not_import(name):
    """Give the beginnings of names that a file must not import."""
    if name.startswith("transport/"):
        return ("atoll.actors", "atoll.node", "atoll.cli", "atoll.testing")
    if name.startswith("actors/"):
        return ("atoll.node", "atoll.cli", "atoll.testing")
    return ()


def test_nothing_points_upward():
    for path in SOURCES:
        name, found = name_of(path), set(imports(path))
        assert not [each for each in found if each.startswith(must_not_import(name))], name
        if name.startswith("actors/runtime/"):
            others = [each for each in found if each.startswith("atoll.actors.")]
            assert all(each.startswith("atoll.actors.runtime") for each in others), name
        assert not {each.split(".")[0] for each in found} & set(FOLDERS), f"{name}: import it as atoll.…"


@pytest.mark.parametrize("name", MACHINES)
def test_machines_import_no_io(name):
    found = {each.split(".")[0] for each in imports(ROOT / name)}
    allowed = {"random"} if {"discoverer", "elector", "placement", "hand_over"} & set(name.split("/")) else set()
    assert not (found & IO_MODULES) - allowed


def test_names_say_what_things_are():
    for path in SOURCES:
        for node in syntax(path):
            if isinstance(node, ast.ClassDef) and node.name != "ContainerManager":
                assert not node.name.endswith(("Manager", "Helper", "Utils", "Util")), f"{name_of(path)}: {node.name}"


def modules():
    return [
        importlib.import_module(each.name)
        for each in pkgutil.walk_packages(atoll.__path__, "atoll.")
        if each.name.endswith(".messages")
    ]


def test_every_message_of_every_actor_has_a_tag_of_its_own():
    messages = [message for module in modules() for message in getattr(module, "MESSAGES", ())]
    assert len(Codec(messages).messages) == len(messages) > 30


def test_every_message_that_is_defined_is_handed_to_the_codec():
    for module in modules():
        defined = {
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, Message)
            and value.__module__ == module.__name__
            and value.__struct_config__.tag
        }
        listed = set(getattr(module, "MESSAGES", ())) | set(getattr(module, "RECORDS", ()))
        assert defined <= listed, f"{module.__name__}: {defined - listed}"


def test_the_links_of_the_package_are_links():
    for name in [*FOLDERS, "node.py"]:
        link = ROOT / "src" / "atoll" / name
        assert link.is_symlink(), f"{link} is no link: clone with core.symlinks=true"
        assert link.resolve() == ROOT / name


@pytest.mark.deep
def test_the_wheel_holds_exactly_the_folders(tmp_path):
    shutil.copytree(
        ROOT,
        tmp_path / "copy",
        symlinks=True,
        ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", "build", ".*_cache", ".hypothesis"),
    )
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(tmp_path / "copy")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("atoll/")}
    own = {
        f"atoll/{path.name}" for path in (ROOT / "src" / "atoll").iterdir() if path.is_file() and not path.is_symlink()
    }
    wanted = {f"atoll/{name_of(path)}" for path in SOURCES} | own
    wanted |= {"atoll/actors/container_manager/runtimes/javascript_prelude.js"}
    wanted |= {"atoll/bench/peers/actors/erlang_actors.erl"}
    wanted |= {f"atoll/cluster_specs/{path.name}" for path in (ROOT / "cluster_specs").glob("*.toml")}
    assert held == wanted


def test_the_readme_fits_a_screen_or_three():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100
