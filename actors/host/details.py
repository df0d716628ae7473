"""Measures this host. What cannot be measured is 0, empty, or the better case on a machine without a battery.

Nothing here is slow: the slowest part asks for a few files below /sys. Texts of the system are cut and cleaned, because
a record with any other is refused by those who read it.
"""

import os
import platform
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

from atoll.actors.host.messages import (
    ACCELERATORS_MAX,
    ADDRESSES_MAX,
    INTERFACES_MAX,
    TEXT_CHARACTERS_MAX,
    HostDetails,
    Interface,
)
from atoll.transport.printable import printable

ROOT = Path("/")
_NUMBERED = re.compile(r"renderD\d+|nvidia\d+|accel\d+|apex_\d+")
_FOLDERS = ("dev/dri", "dev/accel", "dev")

T = TypeVar("T")


def measure_host(storage: Path, root: Path = ROOT) -> HostDetails:
    """Measure everything; `storage` is where the node keeps its state."""
    memory = psutil.virtual_memory()
    disk: Any = _tried(lambda: psutil.disk_usage(str(_existing(storage))), None)
    battery: Any = _tried(lambda: psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None, None)
    cores = _cores()
    return HostDetails(
        system=_text(f"{platform.system()} {platform.release()}"),
        machine=_text(platform.machine()),
        processor=_text(_processor(root)),
        cores=cores,
        processors_idle=max(0.0, round(cores * (1 - psutil.cpu_percent(interval=None) / 100), 2)),
        memory_bytes=memory.total,
        memory_free_bytes=memory.available,
        storage_bytes=disk.total if disk else 0,
        storage_free_bytes=disk.free if disk else 0,
        on_mains=battery is None or bool(battery.power_plugged),
        battery_percent=-1.0 if battery is None else min(100.0, max(0.0, round(float(battery.percent), 1))),
        interfaces=tuple(_interfaces(root)),
        accelerators=tuple(accelerators(root)),
        up_s=max(0, int(time.time() - psutil.boot_time())),
    )


def wired(details: HostDetails) -> bool:
    """Tell whether an interface that is up is no radio; a host without any counts as wired."""
    return not details.interfaces or any(each.wired for each in details.interfaces)


def accelerators(root: Path = ROOT) -> list[str]:
    """Name devices that compute: GPUs, NPUs and the like, by the nodes that drivers make for them."""
    found = []
    for folder in _FOLDERS:
        names = sorted(each.name for each in _entries(root / folder, "*"))
        found += [_described(root, name) for name in names if _NUMBERED.fullmatch(name)]
    if (root / "dev/kfd").exists():
        found.append("kfd: AMD compute")
    return [_text(each) for each in found[:ACCELERATORS_MAX]]


def _described(root: Path, name: str) -> str:
    if name.startswith("renderD"):
        device = root / "sys/class/drm" / name / "device"
        ids = [_read(device / each).removeprefix("0x") for each in ("vendor", "device")]
        return f"{name}: {':'.join(ids)}" if all(ids) else name
    if name.startswith("nvidia"):
        cards = sorted(_entries(root / "proc/driver/nvidia/gpus", "*/information"))
        number = int(name.removeprefix("nvidia"))
        model = re.search(r"Model:\s*(.+)", _read(cards[number])) if number < len(cards) else None
        return f"{name}: {model[1]}" if model else name
    return name


def _interfaces(root: Path) -> list[Interface]:
    stats: dict[str, Any] = _tried(psutil.net_if_stats, {})
    addresses: dict[str, Any] = _tried(psutil.net_if_addrs, {})
    found: list[Interface] = []
    for name in sorted(stats):
        if not stats[name].isup or name == "lo" or len(found) >= INTERFACES_MAX:
            continue
        own = [
            each.address.partition("%")[0]
            for each in addresses.get(name, ())
            if each.family in (socket.AF_INET, socket.AF_INET6)
        ]
        radio = (root / "sys/class/net" / name / "wireless").exists()
        speed = max(0, int(stats[name].speed))
        found.append(Interface(_text(name), not radio, speed, tuple(map(_text, own[:ADDRESSES_MAX]))))
    return found


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


def _processor(root: Path) -> str:
    said = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    return said[1] if said else platform.processor()


def _read(path: Path) -> str:
    def read() -> str:
        with path.open(errors="replace") as file:
            return file.read(65536).strip()

    return _tried(read, "")


def _entries(folder: Path, pattern: str) -> list[Path]:
    found: list[Path] = []
    return _tried(lambda: list(folder.glob(pattern)), found)


def _existing(path: Path) -> Path:
    return next((each for each in (path, *path.parents) if each.exists()), ROOT)


def _text(text: str) -> str:
    return printable(text, " ").strip()[:TEXT_CHARACTERS_MAX]


def _tried(measure: Callable[[], T], otherwise: T) -> T:
    """Measure; what a system does not have must not keep a node from starting."""
    try:
        return measure()
    except (OSError, RuntimeError, NotImplementedError, ValueError, AttributeError):
        return otherwise
