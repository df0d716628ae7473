"""What two relays see of calls, a stream and a file between two sites: no plaintext, no name, no long-term key.

Everything is captured twice: the packets in the relays' own networks, and the frames behind the CURVE of their SEP
ports. A plain connection in the same capture shows that what is searched for would be found.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from random import Random

import anyio
import pytest

from atoll.actors.tunnel_relay.frames import LABELS, TICKET
from atoll.cluster_specs import CallCheck
from atoll.testing import runs
from atoll.testing.bulk import chunks
from atoll.testing.capture import flows, found_in
from atoll.testing.cluster import RUN, Cluster, atoll_command
from atoll.testing.eavesdropper import Eavesdropper
from atoll.testing.errors import NoAnswer
from atoll.testing.key_thief import Recorded
from atoll.testing.lab import Lab, obstacle
from atoll.testing.relay_deaths import FAR, NEAR, RelayDeaths, spec_of_two_sites
from atoll.testing.relay_tap import seen
from atoll.testing.service_calls import ServiceCalls
from atoll.testing.wholeness import Wholeness
from atoll.transport.errors import PeerError

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"], indirect=True),
]
WAIT_S = 150
RELAYS = ("relay-1", "relay-2")
CALLS = 10
SAID, WRITTEN, TITLE = b"said-in-a-call-9f3b71c2", b"written-in-a-file-5d20aa81", b"a-title-4c7e19d0.txt"
LISTENER = """
import socket
server = socket.create_server(("", 9999))
print("ready", flush=True)
connection, _ = server.accept()
while connection.recv(4096):
    pass
"""
TALKER = "import socket, sys; socket.create_connection((sys.argv[1], 9999)).sendall(bytes.fromhex(sys.argv[2]))"


def marks_of(cluster):
    """All that a relay must never see, by name."""
    block = next(chunks(65_536))[8:40]
    marks = {
        "call": SAID,
        "stream": block,
        "file": WRITTEN,
        "title": TITLE,
        "service": b"/echo/v1",
        "image": b"echo-v1",
    }
    for name in (NEAR, FAR):
        planned = cluster.planned[name]
        key, node = planned.key, planned.key.node_id
        marks |= {
            f"{name}: {what}": mark
            for what, mark in {
                "name": name.encode(),
                "id": bytes(node),
                "id as text": str(node).encode(),
                "id in capitals": str(node).upper().encode(),
                "id in hex": node.hex().encode(),
                "short id": node.short.encode(),
                "X25519 key": node.curve_key,
                "seed": key.seed,
                "X25519 secret": key.curve_secret,
                "site secret": bytes(planned.config.site.secret),
                "site secret in hex": planned.config.site.secret.hex().encode(),
            }.items()
        }
    return marks


async def said_ready(process):
    assert (await process.stdout.receive()).strip() == b"ready"


async def plain(lab, marks):
    """Say all of it in the clear, from a node to the host of a relay."""
    words = b"|".join(marks.values())
    async with await lab.run("relay-1", [sys.executable, "-c", LISTENER], stdout=subprocess.PIPE) as listener:
        await said_ready(listener)
        talker = [sys.executable, "-c", TALKER, lab.address_of("relay-1"), words.hex()]
        async with await lab.run(NEAR, talker) as process:
            assert await process.wait() == 0
        assert await listener.wait() == 0


async def call(services, times):
    wanted = CallCheck(caller=NEAR, service=f"echo@{FAR}", path="/" + SAID.decode(), status=200)
    while times:
        try:
            answer = await services.make(wanted)
        except NoAnswer:
            await anyio.sleep(0.2)
            continue
        if answer.status == 200:
            times -= 1
        else:
            await anyio.sleep(0.2)


async def send_file(cluster, folder):
    file = folder / TITLE.decode()
    file.write_bytes(WRITTEN * 20_000)

    async def command(node, *words):
        at = str(cluster.planned[node].config.api_socket)
        argv = [sys.executable, "-P", "-c", RUN, "--at", at, *map(str, words)]
        done = await anyio.run_process(argv, env=dict(os.environ), check=False)
        assert done.returncode == 0, done.stderr.decode()

    async with anyio.create_task_group() as tasks:
        (folder / "inbox").mkdir()
        tasks.start_soon(command, FAR, "receive", "--to", folder / "inbox", "--once", "--yes", "--json")
        tasks.start_soon(command, NEAR, "send", file, "desk", "--json")
    assert (folder / "inbox" / file.name).read_bytes() == file.read_bytes()


def overheard(frames, keys):
    """Have somebody with all static keys listen to the sessions that a relay saw: how many, and what he opened."""
    sessions = {}
    for each in frames:
        if (record := each.record) is not None:
            sessions.setdefault(record[:8], []).append((each.is_call, record))
    whole, opened = 0, []
    for records in sessions.values():
        handshake = {record[9]: record for _, record in records if record[8] == 0xFF}
        if set(handshake) != {0, 1, 2}:
            continue
        sealed = [Recorded(by_caller, 0, record, 0.0) for by_caller, record in records if record[8] != 0xFF]
        for dialler, answerer in (keys, keys[::-1]):
            try:
                heard = Eavesdropper(dialler, answerer).listen([handshake[each] for each in range(3)], sealed)
            except PeerError:
                continue  # It was the other one that answered.
            whole += 1
            opened += [heard] if heard.records or heard.grant is not None else []
    return whole, opened


def ids_of(frames):
    """Give what a relay could know clients again by: their CURVE keys, tickets, labels."""
    shown = {each.key for each in frames if each.frame[:1] == bytes([TICKET])}
    tickets = {each.frame for each in frames if each.frame[:1] == bytes([TICKET])}
    labels = [each.frame[1:] for each in frames if each.frame[:1] == bytes([LABELS]) and each.key in shown]
    return shown, tickets, {each[at : at + 16] for each in labels for at in range(0, len(each), 16)}


@pytest.mark.timeout(WAIT_S + 10)
async def test_relays_see_nothing_that_is_said_and_nobody_who_says_it(tmp_path, monkeypatch):
    if (missing := await obstacle()) is not None:
        pytest.skip(f"no namespaces here: {missing}")
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    taps, captures = ({name: tmp_path / f"{name}.{kind}" for name in RELAYS} for kind in ("tap", "capture"))

    def command(planned, config):
        argv = atoll_command(planned, config)
        if planned.name not in taps:
            return argv
        return [*argv[:2], "-m", "atoll.testing.relay_tap", str(taps[planned.name]), *argv[4:]]

    spec = spec_of_two_sites()
    lab = Lab(spec)
    with anyio.fail_after(WAIT_S):
        async with Cluster(spec, lab, command=command) as cluster, AsyncExitStack() as stack:
            running = []
            for name, file in captures.items():
                argv = [sys.executable, "-m", "atoll.testing.capture", str(file)]
                running.append(await stack.enter_async_context(await lab.run(name, argv, stdout=subprocess.PIPE)))
                # Or the block would wait for it for ever when something fails.
                stack.callback(running[-1].terminate)
                await said_ready(running[-1])
            marks, keys = marks_of(cluster), [cluster.planned[name].key for name in (NEAR, FAR)]
            await plain(lab, marks)
            services = ServiceCalls(cluster)
            await services.push("echo", FAR)
            async with RelayDeaths(cluster, lab, Random(1), 0).forwarding():
                await call(services, CALLS)
                await send_file(cluster, tmp_path)
            before = [each for file in taps.values() for each in seen(file)]
            await cluster.kill(NEAR, signal.SIGKILL)
            await cluster.restart(NEAR)
            await call(services, 1)
            await Wholeness(cluster).awaited()
    frames = [each for file in taps.values() for each in seen(file)]
    judge(captures, frames, before, marks, keys)


def judge(captures, frames, before, marks, keys):
    said = {name: flows(file) for name, file in captures.items()}
    plain_port = (9999).to_bytes(2, "big")
    control = [data for flow, data in said["relay-1"].items() if plain_port in (flow[-2:], flow[-4:-2])]
    assert set(found_in(b"".join(control), marks)) == set(marks), "what is searched for would be found"
    for name, by_flow in said.items():
        others = {flow: data for flow, data in by_flow.items() if plain_port not in (flow[-2:], flow[-4:-2])}
        found = {flow.hex(): found_in(data, marks) for flow, data in others.items()}
        assert not {flow: each for flow, each in found.items() if each}, name
    inside = b"\0".join(each.key + each.frame for each in frames)
    assert found_in(inside, marks) == {}
    whole, opened = overheard(frames, keys)
    assert whole >= 1
    assert opened == []
    earlier, later = ids_of(before), ids_of([each for each in frames if each not in set(before)])
    for kind, old, new in zip(("keys", "tickets", "labels"), earlier, later, strict=True):
        assert new, f"no {kind} were shown"
        assert not old & new, f"{kind} of before were shown again"
    sizes = {name: sum(map(len, by_flow.values())) for name, by_flow in said.items()}
    assert sum(sizes.values()) > 2_000_000, "too little was carried to show anything"
    told = {"bytes": sizes, "SEP frames": len(frames), "sessions": whole, "marks": len(marks)}
    sys.stdout.write(json.dumps(told) + "\n")
