"""Real namespaces and real NAT. Skipped, loudly, where the host cannot have them."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from waiting import block_until_gone

import atoll
from atoll.cluster_specs import read_spec
from atoll.cluster_specs.spec import parse_spec
from atoll.testing import lab as lab_module
from atoll.testing import warden as warden_module
from atoll.testing import warden_main
from atoll.testing.errors import LabUnavailable, UnknownName
from atoll.testing.lab import Lab, obstacle
from atoll.testing.loopback import Loopback
from atoll.testing.warden_main import born
from atoll.testing.wiring import Wiring

pytestmark = [pytest.mark.anyio, pytest.mark.lab]

WAIT_S = 60.0
SILENCE_S = 0.25
"""How long nothing must come where nothing may come."""
SPEC = parse_spec(
    """
name = "three-sites"
[[cloud]]
name = "cloud"
[[relay]]
name = "relay-1"
[[site]]
name = "home"
nat = "masquerade"
  [[site.node]]
  name = "tv"
  [[site.node]]
  name = "phone"
[[site]]
name = "office"
nat = "symmetric"
  [[site.node]]
  name = "desk"
[[site]]
name = "street"
  [[site.node]]
  name = "lamp"
""",
    "three-sites.toml",
)

# Every line of input is a command; every answer is a line. One such program sits in each place of the lab.
PROBE = """
import select, socket, struct, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("0.0.0.0", 5000))
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); six.bind(("::", 5001))
index = socket.if_nametoindex("eth0")
group = socket.inet_aton("239.1.2.3")
udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4si", group, bytes(4), index))
udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", bytes(4), bytes(4), index))
group = socket.inet_pton(socket.AF_INET6, "ff02::1234") + struct.pack("@I", index)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
print("ready", flush=True)
for line in sys.stdin:
    verb, *rest = line.split()
    try:
        if verb == "send":
            port = 5001 if ":" in rest[0] else 5000
            at = (rest[0], port, 0, index) if port == 5001 else (rest[0], int(rest[2]) if len(rest) > 2 else port)
            print((six if port == 5001 else udp).sendto(rest[1].encode(), at), flush=True)
        elif verb == "hear":
            ready = select.select([udp, six], [], [], float(rest[0]))[0]
            data, at = ready[0].recvfrom(1000) if ready else (b"", ("", 0))
            print(data.decode() or "nothing", at[0].partition("%")[0] or "-", at[1], flush=True)
    except OSError as error:
        print("error", error, flush=True)
"""


class Probe:
    """The program in one place."""

    def __init__(self, process):
        self.process = process

    @classmethod
    def start(cls, lab, name):
        argv = lab.command(name, [sys.executable, "-I", "-S", "-c", PROBE])
        return cls(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))

    def ask(self, *words):
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        return self.process.stdout.readline().split()

    def send(self, address, text, port=5000):
        assert self.ask("send", address, text, port)[0] != "error"

    def hear(self, wait_s=5.0):
        text, address, port = self.ask("hear", wait_s)
        return None if text == "nothing" else (text, address, int(port))

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Laid:
    """A lab with probes in it, for tests without a loop of their own."""

    def __init__(self, lab, portal):
        self.lab, self.portal = lab, portal
        self.probes = {name: Probe.start(lab, name) for name in SPEC.process_names()}
        for probe in self.probes.values():
            assert probe.answer() == ["ready"]

    def do(self, fault, *arguments):
        """Have the lab do something: `do("cut", "home/tv")`."""
        self.portal.call(getattr(self.lab, fault), *arguments)

    def passes(self, sender, receiver, *, address=None, wait_s=5.0, text="hello"):
        """Give the address and port from which it came, or None."""
        self.probes[sender].send(address or self.lab.address_of(receiver), text)
        heard = self.probes[receiver].hear(wait_s)
        assert heard is None or heard[0] == text
        return heard and heard[1:]

    def passes_soon(self, sender, receiver):
        """Send again where the first may be too early: the kernel looks at cables at most once a second."""
        return next(filter(None, (self.passes(sender, receiver, wait_s=0.5) for _ in range(10))), None)

    def lost(self, sender, receiver, **options):
        return self.passes(sender, receiver, wait_s=SILENCE_S, **options) is None


@pytest.fixture(scope="module")
def possible():
    found = anyio.run(obstacle)
    if found is not None:
        pytest.skip(f"NO LAB HERE, SO NOTHING IS SHOWN ABOUT NAT: {found}")


@pytest.fixture(scope="module")
def world(possible):
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Lab(SPEC)) as lab:
        laid = Laid(lab, portal)
        yield laid
        for probe in laid.probes.values():
            probe.end()


@pytest.fixture
def laid(world):
    """The lab that all these tests share, whole and with nothing on its way."""
    yield world
    world.do("heal")
    for probe in world.probes.values():
        while probe.hear(0):
            pass


ONE_LOOP = pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True)


async def test_a_lab_stands_on_every_loop(possible):
    with anyio.fail_after(WAIT_S):
        async with Lab(SPEC) as lab:
            done = await anyio.run_process(lab.command("home/tv", [lab._tools["ip"], "-br", "addr"]))
            text = done.stdout.decode()
            assert lab.address_of("home/tv") in text
            assert "fe80::" in text
            assert "127.0.0.1" in text
            pid = lab.warden.pid
            assert born(pid)
    assert born(pid) is None


def test_nat_lets_answers_in_and_nothing_else(laid):
    public = laid.lab.address_of("uplink of home")
    came_from = laid.passes("home/tv", "relay-1")
    assert came_from == (public, 5000)
    laid.probes["relay-1"].send(public, "answer")
    assert laid.probes["home/tv"].hear()[0] == "answer"
    # The cloud was asked by nobody, not even at the port that is open for the relay; nor is the private address known.
    assert laid.lost("cloud", "home/tv", address=public)
    assert laid.lost("relay-1", "home/phone", address=public)
    reply = laid.probes["relay-1"].ask("send", laid.lab.address_of("home/tv"), "x")
    assert reply[0] == "error"
    assert "unreachable" in reply


def test_symmetric_nat_gives_every_peer_another_port(laid):
    public = laid.lab.address_of("uplink of office")
    ports = {laid.passes("office/desk", peer)[1] for peer in ("cloud", "relay-1", "street/lamp")}
    assert len(ports) > 1
    assert ports != {5000}
    assert laid.passes("office/desk", "cloud")[0] == public


def test_without_nat_a_site_is_reached_from_everywhere(laid):
    lamp = laid.lab.address_of("street/lamp")
    for name in ("cloud", "relay-1"):
        assert laid.passes(name, "street/lamp") == (laid.lab.address_of(name), 5000)
    assert laid.passes("home/tv", "street/lamp")[0] == laid.lab.address_of("uplink of home")
    assert laid.passes("street/lamp", "cloud") == (lamp, 5000)


def test_multicast_and_link_local_ipv6_stay_inside_a_site(laid):
    for group in ("239.1.2.3", "ff02::1234"):
        came_from = laid.passes("home/tv", "home/phone", address=group)
        assert came_from[0].startswith("fe80::" if ":" in group else laid.lab.address_of("home/tv"))
        assert laid.probes["home/tv"].hear()[0] == "hello"  # Its own, looped back.
        for elsewhere in ("office/desk", "street/lamp", "relay-1", "cloud"):
            assert laid.probes[elsewhere].hear(SILENCE_S / 4) is None


def test_a_cut_is_silent_and_heals(laid):
    assert laid.passes("home/tv", "home/phone")
    laid.do("cut", "home/tv")
    assert laid.lost("home/tv", "home/phone")
    assert laid.lost("home/phone", "home/tv")
    laid.do("heal", "home/tv")
    assert laid.passes("home/tv", "home/phone")
    laid.do("cut", "home/tv", "out")
    assert laid.lost("home/tv", "home/phone")
    assert laid.passes("home/phone", "home/tv")
    laid.do("cut", "home/tv", "in")
    laid.do("heal")
    assert laid.passes("home/tv", "home/phone")


def test_an_uplink_can_be_cut_while_the_site_goes_on(laid):
    laid.do("cut", "uplink of home")
    assert laid.lost("home/tv", "relay-1")
    assert laid.passes("home/tv", "home/phone")
    laid.do("heal", "uplink of home")
    assert laid.passes("home/tv", "relay-1")


def test_two_neighbours_can_lose_each_other_alone(laid):
    laid.do("cut_between", "cloud", "relay-1", "out")
    assert laid.lost("cloud", "relay-1")
    assert laid.passes("relay-1", "cloud")
    assert laid.passes("home/tv", "cloud")
    laid.do("cut_between", "cloud", "relay-1")
    assert laid.lost("relay-1", "cloud")
    laid.do("heal", "relay-1")
    assert laid.passes("cloud", "relay-1")
    with pytest.raises(UnknownName, match="no neighbours"):
        laid.do("cut_between", "cloud", "home/tv")


def test_cables_and_addresses_go_and_come_back(laid):
    lab = laid.lab
    assert laid.passes("home/phone", "home/tv")  # So that the address is known, and nothing waits for it.
    laid.do("unplug", "home/tv")
    assert laid.probes["home/phone"].ask("send", lab.address_of("home/tv"), "x")[0] != "error"
    assert laid.probes["home/tv"].hear(SILENCE_S) is None
    laid.do("replug", "home/tv")
    assert laid.passes_soon("home/phone", "home/tv")
    laid.do("drop_address", "home/tv")
    assert "unreachable" in laid.probes["home/tv"].ask("send", lab.address_of("relay-1"), "x")
    laid.do("give_address", "home/tv")
    assert laid.passes("home/tv", "relay-1")


def test_a_node_moves_to_another_address_of_its_site_and_is_gone_from_the_old_one(laid):
    old = laid.lab.address_of("home/tv")
    laid.do("change_address", "home/tv")
    new = laid.lab.address_of("home/tv")
    assert new != old
    assert laid.passes("home/phone", "home/tv")
    assert laid.passes("home/tv", "home/phone")[0] == new
    assert laid.passes("home/tv", "relay-1"), "with a way out of the site"
    assert laid.lost("home/phone", "home/tv", address=old)
    with pytest.raises(UnknownName, match="relay-1 is no node of a site"):
        laid.do("change_address", "relay-1")


def test_a_switch_loses_the_share_that_it_is_told_to_lose(laid):
    assert laid.passes("home/phone", "home/tv")
    laid.do("lose", "switch of home", 1.0)
    assert laid.lost("home/phone", "home/tv")
    laid.do("lose", "switch of home", 0.5)
    answered = sum(laid.passes("home/phone", "home/tv", wait_s=0.02) is not None for _ in range(60))
    laid.do("lose", "switch of home", 0.0)
    assert 0 < answered < 60
    assert all(laid.passes("home/phone", "home/tv") for _ in range(20))
    with pytest.raises(UnknownName, match="no switch 'switch of nowhere'"):
        laid.do("lose", "switch of nowhere", 0.5)


def test_unknown_names_are_told(laid):
    for name in ("home/fridge", "uplink of nowhere", "relay-2"):
        with pytest.raises(UnknownName, match=r"nothing called .* it has "):
            laid.do("cut", name)


@ONE_LOOP
async def test_labs_stand_side_by_side_and_end_with_what_runs_in_them(possible):
    with anyio.fail_after(WAIT_S):
        async with Lab(SPEC) as one, Lab(SPEC) as other:
            first, second = (Probe.start(lab, "home/tv") for lab in (one, other))
            assert first.answer() == second.answer() == ["ready"]
            first.send("239.1.2.3", "hello")
            assert second.hear(SILENCE_S) is None
        for probe in (first, second):
            assert probe.process.wait(WAIT_S) == -signal.SIGKILL
            probe.process.stdin.close()
            probe.process.stdout.close()


@ONE_LOOP
async def test_an_error_in_the_block_ends_the_lab(possible):
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # The block is what is tried.
        async with Lab(SPEC) as lab:
            pid = lab.warden.pid
            _ = 1 / 0
    assert born(pid) is None


CHILD = """
import anyio, sys
from atoll.cluster_specs import read_spec
from atoll.testing.lab import Lab
async def main():
    async with Lab(read_spec("lan-3")) as lab:
        process = await lab.run("lan/one", ["sleep", "600"])
        ip = await anyio.run_process(lab.command("lan/one", [lab._tools["ip"], "-br", "addr"]))
        assert lab.address_of("lan/one") in ip.stdout.decode()
        await lab.cut("lan/one")
        await lab.heal()
        print(lab.warden.pid, process.pid, lab.warden.power, flush=True)
        if "stay" in sys.argv:
            await anyio.sleep_forever()
        process.kill()
        await process.aclose()
anyio.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_lab_ends_with_its_starter_however_that_ends(possible, number):
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, "stay"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        warden, sleeper, _ = child.stdout.readline().split()
        assert born(int(sleeper))
        child.send_signal(number)
        child.wait(WAIT_S)
        block_until_gone([int(warden), int(sleeper)])


def test_who_is_inside_after_the_lab_has_ended_does_not_stay(monkeypatch):
    """Whoever is on the way in is not there yet when the lab looks for whom to kill."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    monkeypatch.setattr(warden_main, "_call", lambda *_: os.close(own))
    monkeypatch.setattr(os, "execvp", lambda *_: pytest.fail("it was begun all the same"))
    with pytest.raises(SystemExit, match="it has ended"):
        warden_main.enter(f"/proc/self/fd/{own}", "-", ["sleep", "600"])


def test_a_lab_that_ends_lets_nobody_enter_before_it_looks_who_is_inside(monkeypatch):
    warden = warden_main.Warden()
    own = warden.namespaces["lan"] = os.open("/proc/self/ns/net", os.O_RDONLY)
    held_inside = os.open("/proc/self/ns/net", os.O_RDONLY)
    seen = []

    def look(_warden, held):
        seen.append((held, warden_main._is_offered(f"/proc/self/fd/{own}", held_inside)))
        return False

    monkeypatch.setattr(warden_main.Warden, "_kill_inside", look)
    warden.end_all()
    assert seen == [({os.fstat(held_inside).st_ino}, False)]
    os.close(held_inside)


def interpreter_of_everybody():
    """Find a Python that an ordinary user may start and that can load this one's packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for found in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        path = Path(found).resolve()
        if path.exists() and all(each.stat().st_mode & 0o005 == 0o005 for each in (path, *path.parents)):
            return str(path)
    return None


def test_an_ordinary_user_can_have_a_lab(possible):
    python, setpriv = interpreter_of_everybody(), shutil.which("setpriv")
    command = [sys.executable]
    environment = dict(os.environ)
    if os.geteuid() == 0:
        if python is None or setpriv is None:
            pytest.skip("NO LAB OF AN ORDINARY USER IS SHOWN: no Python, or no setpriv, that such a user may start")
        command = [setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set=-all", python]
        packages = [str(Path(anyio.__file__).parents[1]), str(Path(atoll.__path__[0]).parent)]
        environment |= {"PYTHONPATH": os.pathsep.join(packages), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"}
    done = subprocess.run(
        [*command, "-c", CHILD], env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    if done.returncode and "LabUnavailable: no user namespace" in done.stderr:
        pytest.skip(f"NO LAB OF AN ORDINARY USER IS SHOWN: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[2] == "user"


@ONE_LOOP
async def test_a_missing_tool_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(lab_module, "find_tool", lambda name: None if name == "nft" else f"/sbin/{name}")
    found = await obstacle()
    assert found.what == "the program nft is missing"
    assert "apt-get install nftables" in found.remedy
    monkeypatch.setattr(lab_module.sys, "platform", "darwin")
    assert "Linux only" in (await obstacle()).what


@ONE_LOOP
async def test_what_a_tool_says_is_passed_on(possible, monkeypatch):
    monkeypatch.setattr(Wiring, "route_lines", lambda *_: ["route add default via 192.0.2.1"])
    with pytest.raises(LabUnavailable, match=r"ip -batch -: .*(unreachable|invalid gateway)"):
        async with Lab(SPEC):
            pytest.fail("that route cannot be")


@pytest.mark.parametrize(
    ("file", "value", "words"),
    [
        ("apparmor_restrict_unprivileged_userns", "1", "AppArmor restricts"),
        ("unprivileged_userns_clone", "0", "kept for root"),
        ("max_user_namespaces", "0", "limited to none"),
    ],
)
def test_what_forbids_user_namespaces_is_named(tmp_path, monkeypatch, file, value, words):
    (tmp_path / file).write_text(value + "\n")
    monkeypatch.setattr(warden_module, "Path", lambda path: tmp_path / Path(path).name)
    assert words in warden_module.userns_remedy()
    (tmp_path / file).write_text("7\n")
    assert warden_module.userns_remedy().startswith("run as root")


def test_every_address_is_given_once_and_every_port_name_is_short():
    wiring = Wiring.of(read_spec("campus-200"))
    addresses = [plug.address for plug in wiring.all_plugs]
    assert len(set(addresses)) == len(addresses) == 202
    assert len({(plug.switch, plug.port) for plug in wiring.all_plugs}) == 202
    assert max(len(plug.port) for plug in wiring.all_plugs) <= 15
    assert wiring.plugs["campus/tablet-60"].address == "10.1.0.210"


def test_loopback_says_what_it_is_not_and_gives_no_port_twice(tmp_path):
    ground = Loopback(SPEC)
    assert ground.words.startswith("no NAT here")
    seats = ground.seats(tmp_path)
    assert seats["home/tv"].ports["beacon"] == seats["home/phone"].ports["beacon"]
    assert seats["home/tv"].ports["beacon"] != seats["office/desk"].ports["beacon"]
    tcp = [port for seat in seats.values() for name, port in seat.ports.items() if name not in ("beacon", "gateway")]
    assert len(set(tcp)) == len(tcp) == 7
    with pytest.raises(UnknownName, match="no process 'home/fridge'"):
        ground.command("home/fridge", ["true"])
