"""What a node says of its host: measured, bounded, shown; and hostile records refused."""

from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest
from waiting import until

from atoll.actors.elector.host_facts import HostFacts, StatedFacts
from atoll.actors.elector.messages import ScoreChanged
from atoll.actors.gateway.picture import host_view
from atoll.actors.host import details as module
from atoll.actors.host.details import accelerators, measure_host, wired
from atoll.actors.host.messages import (
    ACCELERATORS_MAX,
    INTERFACES_MAX,
    MESSAGES,
    PATH,
    TEXT_CHARACTERS_MAX,
    DescribeHost,
    HostDetails,
    Interface,
    showable,
)
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem
from atoll.transport.codec import Codec
from atoll.transport.errors import MalformedFrame
from atoll.transport.keys import NodeKey
from atoll.transport.network_watch import NetworkChanged

CODEC = Codec([*RUNTIME_MESSAGES, *MESSAGES])
GOLDEN = Path(__file__).parent.parent / "golden" / "host.txt"
DETAILS = HostDetails(
    system="Linux 6.18.0",
    machine="x86_64",
    processor="a processor",
    cores=4,
    processors_idle=3.5,
    memory_bytes=2**33,
    memory_free_bytes=2**32,
    storage_bytes=2**40,
    storage_free_bytes=2**39,
    on_mains=False,
    battery_percent=63.0,
    interfaces=(Interface("wlan0", False, 866, ("192.0.2.7", "fe80::1")),),
    accelerators=("renderD128: 8086:9a49",),
    up_s=3600,
)
EXAMPLES = (DescribeHost(), DETAILS)


def test_the_bytes_of_the_messages_stay():
    golden = dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())
    assert {type(message) for message in EXAMPLES} == set(MESSAGES)
    assert {type(message).__name__: CODEC.encode(message).hex() for message in EXAMPLES} == golden
    assert [CODEC.decode(CODEC.encode(message)) for message in EXAMPLES] == list(EXAMPLES)


def test_this_host_is_measured_within_the_limits(tmp_path):
    details = measure_host(tmp_path / "not" / "there" / "yet")
    assert CODEC.decode(CODEC.encode(details)) == details
    assert showable(details)
    assert details.cores >= 1
    assert 0 < details.memory_free_bytes <= details.memory_bytes
    assert 0 < details.storage_free_bytes <= details.storage_bytes
    assert details.system.startswith(module.platform.system())
    assert len(CODEC.encode(details)) < 8192


def test_what_a_host_does_not_have_is_no_error(tmp_path, monkeypatch):
    def broken(*_arguments):
        raise OSError("not on this host")

    for name in ("disk_usage", "net_if_stats", "net_if_addrs", "sensors_battery"):
        monkeypatch.setattr(psutil, name, broken, raising=False)
    details = measure_host(tmp_path, root=tmp_path)
    assert (details.storage_bytes, details.interfaces, details.on_mains) == (0, (), True)
    assert (details.battery_percent, details.accelerators) == (-1.0, ())
    assert wired(details)


def test_batteries_and_radios_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(
        psutil, "sensors_battery", lambda: SimpleNamespace(percent=163.2, power_plugged=False), raising=False
    )
    stats = {"lo": (True, 0), "wlan0": (True, 866), "eth0": (False, 1000), "bad\x1bname": (True, -1)}
    monkeypatch.setattr(
        psutil,
        "net_if_stats",
        lambda: {name: SimpleNamespace(isup=up, speed=mbps) for name, (up, mbps) in stats.items()},
    )
    monkeypatch.setattr(psutil, "net_if_addrs", dict)
    (tmp_path / "sys/class/net/wlan0/wireless").mkdir(parents=True)
    details = measure_host(tmp_path, root=tmp_path)
    assert (details.on_mains, details.battery_percent) == (False, 100.0)
    assert [(each.name, each.wired, each.speed_mbps) for each in details.interfaces] == [
        ("bad name", True, 0),
        ("wlan0", False, 866),
    ]
    only_radio = msgspec.structs.replace(details, interfaces=details.interfaces[1:])
    assert wired(details)
    assert not wired(only_radio)


def test_accelerators_are_named_and_bounded(tmp_path):
    for name in ("dri/renderD128", "dri/card0", "nvidia0", "nvidiactl", "accel/accel0", "apex_0", "kfd", "null"):
        (tmp_path / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / name).touch()
    device = tmp_path / "sys/class/drm/renderD128/device"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x8086\n")
    (device / "device").write_text("0x9a49\n")
    card = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t NVIDIA RTX\x1b A2000\nIRQ: 1\n")
    assert accelerators(tmp_path) == [
        "renderD128: 8086:9a49",
        "accel0",
        "apex_0",
        "nvidia0: NVIDIA RTX  A2000",
        "kfd: AMD compute",
    ]
    for number in range(40):
        (tmp_path / f"dev/nvidia{number}").touch()
    assert len(accelerators(tmp_path)) == ACCELERATORS_MAX


@pytest.mark.parametrize(
    "change",
    [
        {"system": "x" * (TEXT_CHARACTERS_MAX + 1)},
        {"accelerators": ("gpu",) * (ACCELERATORS_MAX + 1)},
        {"interfaces": (Interface("eth0", True, 0),) * (INTERFACES_MAX + 1)},
        {"interfaces": (Interface("eth0", True, 0, ("192.0.2.1",) * 5),)},
        {"memory_bytes": -1},
        {"memory_bytes": 2**60},
        {"battery_percent": 101.0},
        {"processors_idle": -1.0},
    ],
)
def test_a_record_beyond_the_limits_is_malformed(change):
    hostile = CODEC.encode(msgspec.structs.replace(DETAILS, **change))
    with pytest.raises(MalformedFrame):
        CODEC.decode(hostile)


def test_a_record_that_would_move_a_terminal_is_not_shown():
    assert showable(DETAILS)
    assert not showable(msgspec.structs.replace(DETAILS, accelerators=("\x1b[2J",)))
    assert not showable(msgspec.structs.replace(DETAILS, interfaces=(Interface("a\nb", True, 0),)))


def test_a_view_says_the_same():
    view = host_view(DETAILS)
    assert (view.battery_percent, view.interfaces[0].addresses) == (63.0, ["192.0.2.7", "fe80::1"])
    assert host_view(msgspec.structs.replace(DETAILS, battery_percent=-1.0)).battery_percent is None


class Witness(Actor):
    def __init__(self):
        self.scores = []

    async def started(self):
        self.system.subscribe(ScoreChanged, self.ref)

    async def receive(self, delivery):
        self.scores.append(delivery.message.score)


@pytest.mark.anyio
async def test_election_and_people_are_told_from_one_measurement_and_anew_when_the_network_changes(tmp_path):
    own, measured = NodeKey.generate().node_id, []

    def host(_storage):
        measured.append(msgspec.structs.replace(DETAILS, on_mains=len(measured) > 1))
        return measured[-1]

    async with ActorSystem(own, CODEC) as system:
        await system.spawn(Witness, "witness")
        witness = system._cells["witness"].actor
        await system.spawn(lambda: HostFacts(StatedFacts(memory_free_bytes=2**30), tmp_path, host), PATH)
        await until(lambda: witness.scores)
        assert not witness.scores[0].mains
        assert not witness.scores[0].wired
        assert await system.ask(system.find(PATH), DescribeHost()) == measured[-1]
        system.announce(NetworkChanged(frozenset(), frozenset(), "an interface changed"))
        await until(lambda: witness.scores[-1].mains)
        assert (await system.ask(system.find(PATH), DescribeHost())).on_mains
