"""Makes a spec's networks for real: network namespaces, switches and nftables NAT, and breaks them on request.

    Lab(spec)  --async with-->  laid  --faults: cut, unplug, drop_address … heal-->  laid  --end-->  nothing is left

It works as root, and as an ordinary user through a user namespace. Namespaces are held by a warden process and have no
names, so that any number of labs runs at once and nothing outlives them, not even after SIGKILL. This process stays
where it is: files and unix sockets are shared with everything in the lab, networks are not.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import anyio
from anyio.abc import Process

from atoll.cluster_specs import ClusterSpec, NodeSpec, Seat, SiteSpec
from atoll.testing.errors import LabUnavailable, UnknownName
from atoll.testing.ground import Ground
from atoll.testing.warden import Warden, find_tool
from atoll.testing.wiring import Plug, Wiring

Direction: TypeAlias = Literal["both", "out", "in"]

TOOLS = {"ip": "iproute2", "nft": "nftables"}
"""Programs, and the packages that have them (on Debian, Arch and Alpine; Fedora says `iproute`)."""
SITE_PREFIX_LENGTH = 16
MOVED_FROM = 200
"""Third number of the addresses that nodes move to; wirings use lower ones, for at most 1,024 nodes."""


class Lab(Ground):
    """The networks of one spec."""

    def __init__(self, spec: ClusterSpec) -> None:
        super().__init__(spec, "root" if hasattr(os, "geteuid") and os.geteuid() == 0 else "user")
        self.wiring = Wiring.of(spec)
        self._tools: dict[str, str] = {}
        self._broken: dict[str, set[str]] = {}
        """Elements in each switch's fault sets, as `set element`."""
        self._moved: dict[str, str] = {}
        """Addresses of those that have another one than they began with."""
        self._moves = 0

    @property
    def words(self) -> str:
        nats = ", ".join(f"{site.name}: {site.nat}" for site in self.spec.site)
        return f"network namespaces with nftables; NAT of the sites: {nats}"

    async def __aenter__(self) -> Self:
        self._tools = _found_tools()
        if self.warden.power == "root" and not await _may_make_namespaces():
            # Root of a container without CAP_SYS_ADMIN may still be allowed a user namespace of its own.
            self.warden = Warden("user")
        await super().__aenter__()
        return self

    async def _lay(self) -> None:
        places = self.wiring.namespaces
        await self.warden.open_namespaces(places)
        files = {place: self.warden.file_of(place) for place in places}
        await self._jobs(self.wiring.jobs(self._tools["ip"], self._tools["nft"], files))

    def seats(self, directory: Path) -> Mapping[str, Seat]:
        return {
            name: Seat(directory / name, host=self.address_of(name), ports={"gateway": -1})
            for name in self.spec.process_names()
        }

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """Also takes `router of SITE` and `switch of SITE` as a place."""
        if name not in self.wiring.namespaces:
            name = self.wiring.plug(name).host
        return self.warden.command(name, argv)

    def address_of(self, name: str) -> str:
        """Also takes `uplink of SITE`: the public address of its router."""
        return self._moved.get(name, self.wiring.plug(name).address)

    async def run(self, name: str, argv: Sequence[str], **options: Any) -> Process:
        """Start a program in the place of `name`; `options` are those of `anyio.open_process`. The caller ends it."""
        return await anyio.open_process(self.command(name, argv), **options)

    async def cut(self, name: str, direction: Direction = "both") -> None:
        """Lose everything that `name` (a process, or `uplink of SITE`) sends, gets, or both; the cable stays in."""
        plug = self.wiring.plug(name)
        if direction in ("both", "out"):
            await self._break(plug.switch, f'muted "{plug.port}"')
        if direction in ("both", "in"):
            await self._break(plug.switch, f'deaf "{plug.port}"')

    async def cut_between(self, one: str, other: str, direction: Direction = "both") -> None:
        """Lose what two neighbours send to each other (`out`: only what `one` sends), and nothing else.

        Raises:
            UnknownName: They sit at different switches; cut an uplink instead.
        """
        first, second = self.wiring.plug(one), self.wiring.plug(other)
        if first.switch != second.switch:
            raise UnknownName(f"{one} and {other} are no neighbours; cut `uplink of SITE` instead")
        if direction in ("both", "out"):
            await self._break(first.switch, f'apart "{first.port}" . "{second.port}"')
        if direction in ("both", "in"):
            await self._break(first.switch, f'apart "{second.port}" . "{first.port}"')

    async def heal(self, name: str | None = None) -> None:
        """Undo every cut of `name`, or all there are."""
        plug = self.wiring.plug(name) if name is not None else None
        for switch, broken in self._broken.items():
            for element in sorted(broken):
                if plug is None or (plug.switch == switch and f'"{plug.port}"' in element):
                    await self._nft(switch, "delete", element)
                    broken.discard(element)

    async def unplug(self, name: str) -> None:
        """Pull the cable: the other end sees it."""
        await self._ip_switch(self.wiring.plug(name), "down")

    async def replug(self, name: str) -> None:
        """Put the cable back."""
        await self._ip_switch(self.wiring.plug(name), "up")

    async def drop_address(self, name: str) -> None:
        """Take the IPv4 address away, and with it every IPv4 route; IPv6 stays."""
        plug = self.wiring.plug(name)
        await self._ip(plug.host, [f"-4 addr flush dev {plug.interface}"])

    async def give_address(self, name: str) -> None:
        """Give the IPv4 address and the routes back."""
        plug = self.wiring.plug(name)
        address = f"addr add {self.address_of(name)}/{plug.prefix_length} dev {plug.interface}"
        await self._ip(plug.host, [address, *self.wiring.route_lines(plug.host)])

    async def change_address(self, name: str) -> str:
        """Give a node of a site another IPv4 address of its network in place of the one it has; gives the new one.

        Raises:
            UnknownName: It is no node of a site.
        """
        plug = self.wiring.plug(name)
        if plug.prefix_length != SITE_PREFIX_LENGTH:
            raise UnknownName(f"{name} is no node of a site; only those can move to another address")
        self._moves += 1
        network, place = plug.address.split(".")[:2], [str(MOVED_FROM + self._moves // 250), str(self._moves % 250 + 1)]
        await self.drop_address(name)
        self._moved[name] = ".".join(network + place)
        await self.give_address(name)
        return self._moved[name]

    async def lose(self, switch: str, ratio: float) -> None:
        """Lose this share of all that goes through `switch of SITE`, each frame by chance; 0 ends it.

        Raises:
            UnknownName: There is no such switch.
        """
        if switch not in {plug.switch for plug in self.wiring.all_plugs}:
            raise UnknownName(f"the lab has no switch {switch!r}")
        text = "flush chain bridge faults chance\n"
        if ratio:
            # Of a thousand; nft has no word for "always" but none at all.
            chance = f"numgen random mod 1000 < {round(1000 * ratio)} " if ratio < 1 else ""
            text += f"add rule bridge faults chance {chance}drop\n"
        await self._jobs([{"in": switch, "argv": [self._tools["nft"], "-f", "-"], "input": text}])

    async def _break(self, switch: str, element: str) -> None:
        await self._nft(switch, "add", element)
        self._broken.setdefault(switch, set()).add(element)

    async def _nft(self, switch: str, verb: str, element: str) -> None:
        kind, _, ports = element.partition(" ")
        text = f"{verb} element bridge faults {kind} {{ {ports} }}\n"
        await self._jobs([{"in": switch, "argv": [self._tools["nft"], "-f", "-"], "input": text}])

    async def _ip_switch(self, plug: Plug, state: str) -> None:
        await self._ip(plug.switch, [f"link set {plug.port} {state}"])

    async def _ip(self, place: str, lines: Sequence[str]) -> None:
        # `ip -batch` takes no options within a line but these.
        family = ["-4"] if lines[0].startswith("-4 ") else []
        text = "\n".join(line.removeprefix("-4 ") for line in lines)
        await self._jobs([{"in": place, "argv": [self._tools["ip"], *family, "-batch", "-"], "input": text}])

    async def _jobs(self, jobs: Sequence[Mapping[str, Any]]) -> None:
        await self.warden.ask(do="jobs", jobs=list(jobs))


def _found_tools() -> dict[str, str]:
    if sys.platform != "linux":
        raise LabUnavailable("network namespaces exist on Linux only", "use --loopback: no NAT, everything else")
    found = {tool: find_tool(tool) for tool in TOOLS}
    missing = [tool for tool, path in found.items() if path is None]
    if missing:
        packages = " ".join(TOOLS[tool] for tool in missing)
        raise LabUnavailable(
            f"the program {' and '.join(missing)} is missing",
            f"install {packages} (as in `apt-get install {packages}`), or use --loopback",
        )
    return {tool: path for tool, path in found.items() if path is not None}


async def _may_make_namespaces() -> bool:
    warden = Warden("root")
    await warden.open()
    try:
        await warden.open_namespaces(["probe"])
    except LabUnavailable:
        return False
    finally:
        await warden.close()
    return True


async def obstacle() -> LabUnavailable | None:
    """Say what keeps this host from having a lab, by making the smallest one; None: nothing does."""
    smallest = ClusterSpec("probe", (SiteSpec("probe", (NodeSpec("probe"),), nat="symmetric"),))
    try:
        async with Lab(smallest):
            return None
    except LabUnavailable as error:
        return error
