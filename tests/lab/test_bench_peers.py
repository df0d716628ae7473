"""Each other tool that is installed carries our records, and is gone when it is closed; speeds are not judged here."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from waiting import block_until, children

from atoll.bench import peers
from atoll.bench.peers import RELAYS, chosen
from atoll.bench.peers.socat import Socat
from atoll.bench.processes import End
from atoll.bench.relay import run
from atoll.bench.way import spent_s
from atoll.transport.errors import Unreachable, UsageError

MESSAGE_BYTES = 65_000
DURATION_S = 5.0


@pytest.fixture(params=list(RELAYS))
def peer(request):
    make = RELAYS[request.param]
    if (reason := make.absence()) is not None:
        pytest.skip(f"{request.param}: {reason}")
    tool = make()
    tool.start()
    yield tool
    tool.close()


@pytest.fixture
def ends():
    both = End(), End()
    yield both
    for end in both:
        end.close()


def test_a_tool_carries_records_and_its_cpu_is_counted(peer, ends):
    sender, receiver = ends
    pair = peer.pair()
    how = {} if peer.half_closes else {"half_close": False}
    with pair[1].dup():
        before = peer.clocks()
        receiver.begin(f"{peer.ends}drain", pair[1], message_bytes=MESSAGE_BYTES)
        sender.begin(f"{peer.ends}pump", pair[0], message_bytes=MESSAGE_BYTES, duration_s=0.1, **how)
        received = receiver.answer()
        cpu_s = spent_s(before, peer.clocks())
    assert sender.answer()["messages"] == received["messages"] + 1
    peer.finish()
    assert cpu_s > 0
    assert peer.has_agents == (peer.name in {"ssh -R", "frp", "chisel", "rathole"})
    assert peer.cpu_s() > cpu_s
    pair = peer.pair()
    receiver.begin(f"{peer.ends}echo", pair[1])
    assert sender.do(f"{peer.ends}ping", pair[0], message_bytes=64, duration_s=0.05)["round_trips"] > 0
    receiver.answer()


def test_nothing_of_a_tool_is_left_when_it_is_closed(peer):
    left = children()
    assert len(left) >= 2
    folder = peer.folder
    peer.close()
    assert psutil.wait_procs(left, timeout=0)[1] == []
    assert not folder.exists()


def test_a_tool_does_not_outlive_a_killed_benchmark():
    if (reason := Socat.absence()) is not None:
        pytest.skip(reason)
    program = "import time; from atoll.bench.peers.socat import Socat; "
    program += "tool = Socat(); tool.start(); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as bench:
        try:
            bench.stdout.readline()
            others = psutil.Process(bench.pid).children(recursive=True)
            assert {each.name() for each in others} >= {"socat"}
            os.kill(bench.pid, signal.SIGKILL)
            block_until(lambda: not any(each.is_running() for each in others))
        finally:
            bench.kill()


def test_a_run_holds_a_tool_against_our_relay():
    if (reason := Socat.absence()) is not None:
        pytest.skip(reason)
    report = run(DURATION_S, sizes=(65_000, 64), tunnels=2, idle_tunnels=1, peers=["socat"])
    named = {each.name: each for each in report.rows}
    assert named["socat, 65000 B records"].against == "BEP, 65000 B records"
    assert named["socat, 64 B messages, CPU each"].against == "BEP, 64 B messages, CPU each"
    assert named["socat, round trip 64 B p99"].against == "BEP, round trip 64 B p99"
    assert all(each > 0 for each in named["socat, 65000 B records, CPU"].slices)
    ratios = named["BEP to socat, 65000 B records"]
    assert ratios.slices[0] == pytest.approx(
        named["BEP, 65000 B records"].slices[0] / named["socat, 65000 B records"].slices[0]
    )
    assert str(ratios.bar) == "≥ 0.7"


def test_all_takes_those_that_are_here_and_says_how_to_get_the_others(monkeypatch):
    class Here(Socat):
        @classmethod
        def absence(cls):
            return None

    class Gone(Socat):
        name = "gone"
        programs = ("no-such-program-anywhere",)
        install = "apt install gone"

    monkeypatch.setattr(peers, "RELAYS", {"socat": Here, "gone": Gone})
    assert chosen(["all"]) == ([Here], {"gone": "no-such-program-anywhere not installed (apt install gone)"})
    assert chosen([]) == ([], {})
    with pytest.raises(UsageError, match=r"gone cannot be measured: .*apt install gone"):
        chosen(["gone"])
    with pytest.raises(UsageError, match="no peer is called squid; there are socat, gone, and all"):
        chosen(["squid"])


def test_a_tool_that_ends_at_once_is_told_from_one_that_works():
    class Broken(Socat):
        programs = ()

        def configure(self):
            self.run(sys.executable, "-c", "print('my config is wrong'); raise SystemExit(1)")

    tool = Broken()
    with pytest.raises(Unreachable, match=r"socat did not start .*my config is wrong"):
        tool.start()
    assert not tool.folder.exists()


def test_a_tool_that_does_not_start_is_left_out_of_all_and_refused_by_name(monkeypatch):
    class Broken(Socat):
        name = "broken"
        programs = ()

        def configure(self):
            self.run(sys.executable, "-c", "print('no room'); raise SystemExit(1)")

    monkeypatch.setattr(peers, "RELAYS", {"broken": Broken})
    how = {"sizes": (65_000,), "tunnels": 2, "idle_tunnels": 1}
    with pytest.raises(Unreachable, match="broken did not start"):
        run(DURATION_S, peers=["broken"], **how)
    report = run(DURATION_S, peers=["all"], **how)
    assert "no room" in report.notes["absent: broken"]
    assert "peers" not in report.notes
