"""A cloud as its own process, met over its sockets by those it should serve and by those it should not."""

import contextlib
import os
import queue
import re
import resource
import signal
import subprocess
import sys
import threading

import anyio
import pytest

from atoll.actors.cloud.directory import LABELS_PER_NODE_MAX, NODES_PER_SITE_MAX
from atoll.actors.cloud.doors import WAITING_PER_SENDER_MAX
from atoll.actors.cloud.messages import (
    DIRECTORY,
    ENROLMENT,
    SIGNALING,
    AnnounceSite,
    GrantIssued,
    GrantRequest,
    ListNodes,
    LookUp,
    NodeList,
    NodeRecord,
    PlaceSep,
    RelayKnown,
    RelayReport,
    SepLabel,
    SiteAnnounced,
    TunnelRequest,
)
from atoll.actors.cloud.store import CloudStore
from atoll.actors.router import messages as router_messages
from atoll.actors.router.cloud_address import CloudAddress
from atoll.actors.router.router import Router
from atoll.actors.runtime import ActorSystem, Address, AskFailed
from atoll.actors.runtime.errors import AskCongested
from atoll.actors.tunnel_relay.tickets import Role, check
from atoll.actors.uplink import messages as uplink_messages
from atoll.actors.uplink.messages import AskCloud
from atoll.actors.uplink.uplink import Uplink
from atoll.node import codec
from atoll.transport.admission import SiteAdmission
from atoll.transport.errors import Refused, TransportError
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.zeromq import ZeroMqTransport

RUN = "from atoll.cli import main; main(prog_name='atoll')"
WITHIN_S = 60
"""Far beyond what an answer takes: a busy host is slow, a wrong one never ends."""
QUESTIONS = (
    (DIRECTORY, ListNodes()),
    (DIRECTORY, LookUp("tv", (b"k" * 32,))),
    (DIRECTORY, AnnounceSite("home", ())),
    (SIGNALING, PlaceSep("home", (b"k" * 32,))),
    (SIGNALING, TunnelRequest()),
    (SIGNALING, RelayReport("evil.example", 1, 2, 0.0)),
    (ENROLMENT, GrantRequest()),
)


class CloudProcess:
    """One cloud process on a free port."""

    def __init__(self, folder):
        self.folder = folder
        self.secrets = {}
        self.id = self.port = self.process = None
        self.said = []

    def invite(self, name, *, site="home", kind="node"):
        """Write an enrolment into the config; before the start."""
        self.secrets[name] = (os.urandom(32), kind, site if kind == "node" else "")

    def write_config(self):
        lines = [
            f'state_dir = "{self.folder}/state"',
            'name = "cloud"',
            'listen = "127.0.0.1"',
            f"port = {self.port or 0}",
        ]
        for name, (secret, kind, site) in self.secrets.items():
            lines += ["[[enrolments]]", f'name = "{name}"', f'kind = "{kind}"', f'site = "{site}"']
            lines.append(f'secret = "{secret.hex()}"')
        path = self.folder / "atoll.toml"
        path.write_text("\n".join(lines))
        path.chmod(0o600)
        return path

    def start(self):
        """Start it and wait until it says where it is; gives whether it does."""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", RUN, "cloud", "run", "--config", str(self.write_config())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("ATOLL_")},
        )
        lines = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, lines), daemon=True).start()
        while (line := lines.get(timeout=WITHIN_S)) is not None:
            if found := re.search(r"^cloud (\w+) on \S+:(\d+)", line):
                self.id, self.port = NodeId.parse(found[1]), int(found[2])
                return True
        return False

    def _read(self, stream, lines):
        with stream:
            for line in stream:
                self.said.append(line)
                lines.put(line)
        lines.put(None)

    def stop(self, number=signal.SIGTERM):
        """End it; gives the exit code."""
        if self.process is None:
            return None
        self.process.send_signal(number)
        code = self.process.wait(WITHIN_S)
        self.process = None
        return code


class Guest:
    """Whoever talks to the cloud: a key, a link, and questions."""

    def __init__(self, cloud, key, system):
        self.cloud, self.key, self.system = cloud, key, system
        self.id = key.node_id

    async def ask(self, actor, message):
        asked = AskCloud(actor, message, timeout_s=WITHIN_S)
        return await self.system.ask(Address(self.id, uplink_messages.PATH), asked, timeout_s=WITHIN_S)

    async def refusal(self, actor, message):
        """Ask what must be refused; gives the reason."""
        with pytest.raises(AskFailed) as refused:
            await self.ask(actor, message)
        return str(refused.value)


@contextlib.asynccontextmanager
async def guest(cloud, invited="", *, secret=b"", key=None):
    key = key or NodeKey.generate()
    shown = cloud.secrets[invited][0] if invited else secret
    admission = SiteAdmission(keys=SiteKeys.generate(), own=key.node_id, clouds=frozenset({cloud.id}), enrolment=shown)
    at = CloudAddress(cloud.id, "127.0.0.1", cloud.port)
    async with ActorSystem(key.node_id, codec()) as system:
        await system.spawn(
            lambda: Router(key, lambda: ZeroMqTransport(key, admission, label="guest", host="127.0.0.1"), at),
            router_messages.PATH,
        )
        await system.spawn(lambda: Uplink(key.node_id, cloud.id, None), uplink_messages.PATH)
        yield Guest(cloud, key, system)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """Run one cloud for all loops; each loop has invitations of its own."""
    cloud = CloudProcess(tmp_path_factory.mktemp("cloud"))
    for number in range(60):
        cloud.invite(f"node-{number}", site=f"site-{number}")
    for number in range(6):
        cloud.invite(f"relay-{number}", kind="relay")
    assert cloud.start(), cloud.said
    yield cloud
    assert cloud.stop() == 0, cloud.said


@pytest.fixture
def own_cloud(tmp_path):
    cloud = CloudProcess(tmp_path)
    yield cloud
    cloud.stop(signal.SIGKILL)


@pytest.fixture
def fresh(cloud, request):
    """Give invitations nobody has used yet."""
    unused = cloud.__dict__.setdefault("unused", {"node": list(range(60)), "relay": list(range(6))})
    return lambda kind="node": f"{kind}-{unused[kind].pop()}"


def site_of(cloud, name):
    return cloud.secrets[name][2]


@pytest.mark.anyio
async def test_whoever_is_not_enrolled_gets_no_answer_from_any_actor(cloud):
    async with guest(cloud) as stranger:
        for actor, message in QUESTIONS:
            reason = await stranger.refusal(actor, message)
            assert reason, f"{actor} must say why"


@pytest.mark.anyio
async def test_a_wrong_secret_and_a_spent_one_are_refused_with_the_reason_and_never_repeated(cloud, fresh):
    name = fresh()
    async with guest(cloud, name) as first:
        assert isinstance(await first.ask(ENROLMENT, GrantRequest()), GrantIssued)
        for shown in (os.urandom(32), cloud.secrets[name][0], b"too short", bytes(4096)):
            async with guest(cloud, secret=shown) as thief:
                reason = await thief.refusal(ENROLMENT, GrantRequest())
                assert "another key has spent it" in reason
                assert shown.hex() not in "".join(cloud.said)
        assert isinstance(await first.ask(ENROLMENT, GrantRequest()), GrantIssued)
    async with guest(cloud, key=first.key) as again:
        assert isinstance(await again.ask(ENROLMENT, GrantRequest()), GrantIssued), "its key is enough from now on"


@pytest.mark.anyio
async def test_nobody_speaks_for_another_site_or_for_what_it_is_not(cloud, fresh):
    mine, theirs, relay_name = fresh(), fresh(), fresh("relay")
    site, other = site_of(cloud, mine), site_of(cloud, theirs)
    async with guest(cloud, mine) as node, guest(cloud, theirs) as victim, guest(cloud, relay_name) as relay:
        record = NodeRecord(victim.id, theirs, other)
        await victim.ask(DIRECTORY, AnnounceSite(other, (record,)))
        assert "cannot announce" in await node.refusal(DIRECTORY, AnnounceSite(other, (record,)))
        for forged in (record, NodeRecord(victim.id, theirs, site), NodeRecord(node.id, "another-name", site)):
            answer = await node.ask(DIRECTORY, AnnounceSite(site, (forged,)))
            assert isinstance(answer, SiteAnnounced)
            assert len(answer.left_out) == 1
        found = await node.ask(DIRECTORY, LookUp(f"{other}/{theirs}", ()))
        assert found.record == record
        assert "cannot register it" in await node.refusal(SIGNALING, PlaceSep(other, (b"k" * 32,)))
        assert "not as a relay" in await node.refusal(SIGNALING, RelayReport("evil.example", 1, 2, 0.0))
        assert "only nodes ask for tunnels" in await relay.refusal(SIGNALING, TunnelRequest())
        assert "cannot announce" in await relay.refusal(DIRECTORY, AnnounceSite(site, ()))


@pytest.mark.anyio
async def test_tickets_are_the_clouds_own_and_nobody_elses(cloud, fresh):
    async with guest(cloud, fresh()) as node, guest(cloud, fresh("relay")) as relay:
        assert isinstance(await relay.ask(SIGNALING, RelayReport("127.0.0.1", 8088, 8089, 0.0)), RelayKnown)
        pairs = [pair for pair in (await node.ask(SIGNALING, TunnelRequest())).pairs if pair.relay == relay.id]
        for pair in pairs:
            now = pair.expires_at - 10
            ticket = check(pair.offer, issuer=cloud.id, relay=relay.id, roles={Role.OFFER}, holder=None, now=now)
            assert ticket.subject == pair.tunnel
            forged = bytearray(pair.offer)
            forged[len(forged) // 2] ^= 1
            for bad, issuer in ((bytes(forged), cloud.id), (pair.offer, node.id)):
                with pytest.raises((Refused, TransportError)):
                    check(bad, issuer=issuer, relay=relay.id, roles={Role.OFFER}, holder=None, now=now)


@pytest.mark.anyio
async def test_announcements_beyond_their_limits_are_refused_by_name_and_change_nothing(cloud, fresh):
    name = fresh()
    site = site_of(cloud, name)
    async with guest(cloud, name) as node:
        record = NodeRecord(node.id, name, site)
        await node.ask(DIRECTORY, AnnounceSite(site, (record,)))
        many = tuple(NodeRecord(node.id, name, site) for _ in range(NODES_PER_SITE_MAX + 1))
        labels = tuple(SepLabel(node.id, node.id, os.urandom(16)) for _ in range(LABELS_PER_NODE_MAX + 1))
        for message, limit in (
            (AnnounceSite(site, many), f"at most {NODES_PER_SITE_MAX} nodes"),
            (AnnounceSite(site, (record,), labels), f"at most {LABELS_PER_NODE_MAX} labels a node"),
            (AnnounceSite(site, (record,), (SepLabel(node.id, node.id, b"short"),)), "a label of 16 bytes"),
            (LookUp("x" * 10_000, ()), "at most 200 characters"),
        ):
            assert limit in await node.refusal(DIRECTORY, message)
        wordy = NodeRecord(node.id, name, site, "v" * 201)
        answer = await node.ask(DIRECTORY, AnnounceSite(site, (wordy,)))
        assert "or a name that is none" in answer.left_out[0]
        listed = await node.ask(DIRECTORY, ListNodes(-5))
        assert listed == NodeList(())
        assert record in (await node.ask(DIRECTORY, ListNodes(10**9))).nodes


@pytest.mark.anyio
async def test_a_flood_from_one_guest_costs_others_no_more_than_a_second_try(cloud, fresh):
    async with guest(cloud, fresh()) as loud, guest(cloud, fresh()) as quiet:
        await quiet.ask(ENROLMENT, GrantRequest())
        await loud.ask(ENROLMENT, GrantRequest())
        target = Address(cloud.id, DIRECTORY)
        for number in range(3000):
            with contextlib.suppress(TransportError):
                loud.system.tell(target, ListNodes())
            if number % 100 == 0:
                await anyio.lowlevel.checkpoint()
        with anyio.fail_after(WITHIN_S):
            while True:
                try:
                    assert isinstance(await quiet.ask(DIRECTORY, ListNodes()), NodeList)
                    break
                except AskCongested:
                    # A burst that came in one piece filled the mailbox before anybody could sort it.
                    await anyio.lowlevel.checkpoint()
        assert cloud.process.poll() is None


@pytest.mark.anyio
async def test_who_asks_too_much_at_once_is_told_the_limit(cloud, fresh):
    async with guest(cloud, fresh()) as loud:
        await loud.ask(ENROLMENT, GrantRequest())
        answered, refused = [], []
        target = Address(cloud.id, DIRECTORY)

        async def ask():
            try:
                answered.append(await loud.system.ask(target, ListNodes(), timeout_s=WITHIN_S))
            except AskFailed as error:
                refused.append(str(error))

        async with anyio.create_task_group() as asking:
            for _ in range(20 * WAITING_PER_SENDER_MAX):
                asking.start_soon(ask)
        assert len(answered) >= WAITING_PER_SENDER_MAX
        assert refused
        assert all(f"{WAITING_PER_SENDER_MAX} of your questions wait here already" in reason for reason in refused)


def serve(cloud, *, key, secret=b"", ask):
    """Ask one question from outside any test's loop."""

    async def main():
        async with guest(cloud, key=key, secret=secret) as visitor:
            return await ask(visitor)

    return anyio.run(main)


async def grant(visitor):
    return isinstance(await visitor.ask(ENROLMENT, GrantRequest()), GrantIssued)


def test_a_killed_cloud_knows_its_keys_again_and_spent_secrets_stay_spent(own_cloud):
    own_cloud.invite("tv")
    assert own_cloud.start(), own_cloud.said
    key, secret, port = NodeKey.generate(), own_cloud.secrets["tv"][0], own_cloud.port
    assert serve(own_cloud, key=key, secret=secret, ask=grant)
    first = own_cloud.id
    own_cloud.stop(signal.SIGKILL)
    assert own_cloud.start(), own_cloud.said
    assert (own_cloud.id, own_cloud.port) == (first, port)
    assert serve(own_cloud, key=key, ask=grant)

    async def spent(visitor):
        return await visitor.refusal(ENROLMENT, GrantRequest())

    assert "another key has spent it" in serve(own_cloud, key=NodeKey.generate(), secret=secret, ask=spent)
    assert own_cloud.stop() == 0


@pytest.mark.parametrize("ruin", ["header", "page", "folder"])
def test_a_store_that_cannot_be_used_ends_the_start_with_what_to_do(own_cloud, ruin):
    store = own_cloud.folder / "state" / "cloud.sqlite"
    store.parent.mkdir()
    if ruin == "folder":
        store.mkdir()
    else:
        with CloudStore(store) as filled:
            for number in range(200):
                filled.expect(os.urandom(32), kind="node", site="home", name=f"node-{number}")
        data = bytearray(store.read_bytes())
        for page in [0] if ruin == "header" else range(4096, len(data), 4096):
            data[page : page + 64] = b"\xa5" * 64
        store.write_bytes(data)
    assert not own_cloud.start()
    assert own_cloud.process.wait(WITHIN_S) != 0
    said = "".join(own_cloud.said)
    assert "Traceback" not in said
    assert "cannot be used as the cloud's store" in said
    assert ("fix the rights" if ruin == "folder" else "put back a copy") in said
    own_cloud.process = None


def test_a_disk_that_takes_no_more_is_told_to_those_who_ask_and_the_cloud_lives_on(own_cloud):
    own_cloud.invite("tv")
    assert own_cloud.start(), own_cloud.said
    # What a process gets from a disk that is full but for its own logs.
    resource.prlimit(own_cloud.process.pid, resource.RLIMIT_FSIZE, (300_000, 300_000))

    async def fill(visitor):
        record = NodeRecord(visitor.id, "tv", "home", actors=tuple(f"{'a' * 150}-{number}" for number in range(400)))
        with pytest.raises(AskFailed, match="the cloud cannot use its store now"):  # noqa: PT012 - at some announcement
            for _ in range(50):
                await visitor.ask(DIRECTORY, AnnounceSite("home", (record,)))
        assert (await visitor.ask(DIRECTORY, LookUp("tv", ()))).record == record, "what is there can be read"
        return await grant(visitor)

    assert serve(own_cloud, key=NodeKey.generate(), secret=own_cloud.secrets["tv"][0], ask=fill)
    assert own_cloud.process.poll() is None
    said = [line for line in own_cloud.said if "the store" in line and "fails" in line]
    assert len(said) == 1, "once, not at every question"
    assert own_cloud.stop() == 0
