"""What a relay knows and tells: numbers that are right, in Prometheus' form, and nothing about who."""

import contextlib
import http.client
import json
import logging
import subprocess
import sys

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from relay_world import World
from waiting import until

from atoll.actors.cloud.messages import TunnelRequest
from atoll.actors.router.paths import OpenSep
from atoll.actors.tunnel_relay import relay_metrics
from atoll.actors.tunnel_relay.relay_metrics import telling_metrics
from atoll.cli import main
from atoll.transport.bearer import BearerRefused, dial_bearer
from atoll.transport.errors import WorldError

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1"
PATIENCE_S = 20
CARRIED = b"carried through the tunnel"


@contextlib.asynccontextmanager
async def used_relay():
    """A relay at which a site is registered and called, a tunnel is open, and somebody was refused; and the site."""
    with anyio.fail_after(2 * PATIENCE_S):
        async with anyio.create_task_group() as group:
            world = World(group)
            with world.store:
                await world.relay("relay-1")
                async with world.node("server", "office") as server, world.node("tv") as tv:
                    server.serve()
                    await server.wait_served("relay-1")
                    (path,) = (await tv.ask(OpenSep(server.id))).paths
                    path.send(b"question")
                    await until(lambda: server.router.records)
                    async with tunnel(world, server) as (one, other):
                        await one.send(CARRIED)
                        assert await other.receive() == CARRIED
                        with pytest.raises(BearerRefused):
                            await dial_bearer(HOST, world.relays["relay-1"].bearer_port, bytes(150))
                        yield world, server, tv
            group.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def tunnel(world, node):
    (pair,) = world.signaling.tunnels(world.store.enrolled(node.id), TunnelRequest(1)).pairs
    ends = {}

    async def dial(half):
        ends[half] = await dial_bearer(HOST, pair.bearer_port, half, timeout_s=PATIENCE_S)

    async with anyio.create_task_group() as group:
        for half in (pair.offer, pair.call):
            group.start_soon(dial, half)
    async with ends[pair.offer] as one, ends[pair.call] as other:
        yield one, other


def read(port, path):
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("content-type"), answer.read()
    finally:
        connection.close()


async def test_the_numbers_are_right_and_in_the_form_that_prometheus_reads():
    async with used_relay() as (world, *_):
        relay = world.relays["relay-1"].relay
        async with telling_metrics(relay, host=HOST, port=0) as listening:
            status, kind, text = await anyio.to_thread.run_sync(read, listening.port, "/metrics")
            _, _, said = await anyio.to_thread.run_sync(read, listening.port, "/status")
            missing, _, _ = await anyio.to_thread.run_sync(read, listening.port, "/")
        assert (status, kind, missing) == (200, "text/plain; version=0.0.4; charset=utf-8", 404)
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
        }
        for name, value in {
            ("atoll_relay_bearer_tunnels",): 1,
            ("atoll_relay_bearer_tunnels_joined_total",): 1,
            ("atoll_relay_bearer_forwarded_bytes_total",): len(CARRIED),
            ("atoll_relay_bearer_refused_total", "malformed"): 1,
            ("atoll_relay_sep_registrations",): 1,
            ("atoll_relay_sep_circuits",): 1,
            ("atoll_relay_sep_records_total", "inbound"): 1,
            ("atoll_relay_draining",): 0,
            ("process_max_fds",): found[("atoll_relay_descriptors_max",)],
        }.items():
            assert found[name] == value, name
        # Counted one after the other, and the threads of this process open and close some.
        assert abs(found[("process_open_fds",)] - found[("atoll_relay_descriptors",)]) <= 8
        shown = json.loads(said)
        assert (shown["tunnels"], shown["refusals"], shown["draining"]) == (1, {"malformed": 1}, False)
        assert shown["descriptors"] <= shown["descriptors_max"]


def test_everything_that_is_counted_has_a_name_in_the_metrics():
    async def counted():
        async with used_relay() as (world, *_):
            return relay_metrics.numbers_of(world.relays["relay-1"].relay)

    beginnings = tuple(relay_metrics.BY_REASON)
    named = relay_metrics.GAUGES.keys() | relay_metrics.COUNTERS.keys()
    assert not [name for name in anyio.run(counted) if name not in named and not name.startswith(beginnings)]


async def test_a_port_in_use_is_said_with_the_setting_that_helps():
    async with used_relay() as (world, *_):
        relay = world.relays["relay-1"].relay
        async with telling_metrics(relay, host=HOST, port=0) as listening:
            with pytest.raises(WorldError, match=r"metrics\.port"):
                async with telling_metrics(relay, host=HOST, port=listening.port):
                    pass


async def test_the_command_shows_it_to_a_person():
    command = [sys.executable, "-c", "from atoll.cli import main; main()", "relay", "status", "--url"]
    async with (
        used_relay() as (world, *_),
        telling_metrics(world.relays["relay-1"].relay, host=HOST, port=0) as listening,
    ):
        done = await anyio.to_thread.run_sync(
            lambda: subprocess.run([*command, listening.url], capture_output=True, text=True, check=False)
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("serving\ntunnels")
    assert "malformed  1" in done.stdout


@pytest.mark.parametrize("url", ["x", "http://127.0.0.1:99999", "http://[::1", "http://relay:port", "https://relay"])
def test_what_is_no_url_of_metrics_is_said_and_no_stack_is_shown(url):
    done = CliRunner().invoke(main, ["relay", "status", "--url", url])
    assert (done.exit_code, done.stderr.splitlines()[0]) == (2, f"atoll: {url} is no URL of a relay's metrics")


# What it knows


def texts_in(thing, seen):
    """Every text and bytes that hang together with a thing, in whatever it is kept."""
    if id(thing) in seen:
        return
    seen[id(thing)] = thing
    if isinstance(thing, str):
        yield thing.encode()
    elif isinstance(thing, bytes | bytearray):
        yield bytes(thing)
    elif isinstance(thing, dict):
        for key, value in list(thing.items()):
            yield from texts_in(key, seen)
            yield from texts_in(value, seen)
    elif isinstance(thing, list | tuple | set | frozenset) or type(thing).__name__ == "deque":
        for each in list(thing):
            yield from texts_in(each, seen)
    elif type(thing).__module__.startswith("atoll."):
        names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        for each in [*vars(thing).values()] if hasattr(thing, "__dict__") else []:
            yield from texts_in(each, seen)
        for name in names:
            yield from texts_in(getattr(thing, name, None), seen)


async def test_in_its_state_and_its_log_there_is_no_node_no_site_and_no_account(caplog):
    caplog.set_level(logging.DEBUG)
    async with used_relay() as (world, server, tv):
        relay = world.relays["relay-1"].relay
        relay.drain(5)
        found = list(texts_in(relay, {}))
        async with telling_metrics(relay, host=HOST, port=0) as listening:
            found += [
                (await anyio.to_thread.run_sync(read, listening.port, each))[2] for each in ("/metrics", "/status")
            ]
        found += [record.getMessage().encode() for record in caplog.records if record.name == "atoll.relay"]
        # The walk sees what is there: the label of the site's node, which is random, and both ends of the tunnel.
        assert server.labels[server.id] in found
        (tunnel_id,) = relay._bearers.pairing._tunnels
        assert tunnel_id in found
        long_term = [each for node in (server.id, tv.id) for each in (bytes(node), node.curve_key, str(node).encode())]
        long_term += [node.short.encode() for node in (server.id, tv.id)]
        for secret in [*long_term, *(each.hex().encode() for each in long_term), b"office", b"server"]:
            assert not [text for text in found if secret in text], secret
