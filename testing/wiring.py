"""Draws the networks of a lab from a cluster spec: who sits at which switch, with which address, behind which NAT.

    cloud, relays ──┐
                    ├── internet (203.0.113.0/24)
    router of a site┘      │ nat: none | masquerade | symmetric | full-cone | firewall | …
           └── switch of the site (10.N.0.0/16) ── one namespace per node

It is a drawing only: nothing here touches the system. A router with NAT drops what nobody inside asked for, as home
routers do. With nat `carrier` another such router stands between it and the internet. Switches carry multicast; routers
do not. Every place is a namespace, even a switch, so that nothing of the lab is ever seen by the host.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from atoll.cluster_specs import ClusterSpec, SiteSpec
from atoll.testing.errors import UnknownName

INTERNET = "switch of the internet"
PUBLIC = "203.0.113."
"""TEST-NET-3 of RFC 5737: nobody's addresses."""
PUBLIC_SITES_FROM = 128
"""First number of the addresses of sites without NAT but with a firewall: the lab's own internet has them all."""
RELAYS_MAX = 80

# On a switch, by the ports' names: `muted` sends nothing, `deaf` gets nothing, `apart` are pairs, in one direction.
# Who has which address is still told, or else nothing could be lost in one direction alone. `chance` loses anything.
FAULT_TABLE = """\
table bridge faults {
  set muted { type ifname; }
  set deaf { type ifname; }
  set apart { type ifname . ifname; }
  chain forward {
    type filter hook forward priority 0; policy accept;
    ether type arp accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    iifname @muted drop
    oifname @deaf drop
    iifname . oifname @apart drop
  }
  chain chance {
    type filter hook forward priority 1; policy accept;
  }
}
"""

WALL_TABLE = """\
table inet wall {
  chain through {
    type filter hook forward priority 0; policy accept;
    iifname "wan" ct state established,related accept
    iifname "wan" ct status dnat accept
    iifname "wan" drop
  }
  chain router_itself {
    type filter hook input priority 0; policy accept;
    iifname "wan" ct state established,related accept
%s    iifname "wan" meta l4proto != icmp drop
  }
}
"""
RESET = """\
    iifname "wan" meta l4proto tcp reject with tcp reset
"""
NAT_TABLE = """\
table ip nat {
  chain leaving {
    type nat hook postrouting priority 100; policy accept;
    oifname "wan" masquerade%s
  }
}
"""
LET_IN = """\
table ip let_in {
  chain coming {
    type nat hook prerouting priority -100; policy accept;
    iifname "wan" tcp dport 1024-65535 dnat to %s
  }
}
"""
FIREWALL_TABLE = """\
table inet fence {
  chain out {
    type filter hook forward priority -1; policy accept;
    iifname "lan" ct state established,related accept
    iifname "lan" tcp dport 443 accept
    iifname "lan" drop
  }
}
"""
HOW = {"symmetric": " fully-random"}
"""Plain masquerade keeps the port where it can; with `fully-random` nobody can tell the next port from the last."""
ROUTED = ("none", "firewall")
"""Kinds of NAT that are none: the others know the way to the site's own addresses."""

QUIET = {"ipv6/conf/default/disable_ipv6": "1"}
"""A switch has no addresses of its own."""
AT_ONCE = {
    # Without asking whether somebody else has it, a link-local address can be used at once and not after a second.
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/dad_transmits": "0",
    "ipv6/conf/default/accept_ra": "0",
}


@dataclass(frozen=True, slots=True)
class Plug:
    """Where something is plugged in: which port of which switch."""

    switch: str
    port: str
    host: str
    interface: str
    address: str
    prefix_length: int


@dataclass(slots=True)
class Wiring:
    """The whole drawing."""

    spec: ClusterSpec
    plugs: dict[str, Plug] = field(default_factory=dict)
    """By what a fault calls them: a process (`home/tv`, `relay-1`), or `uplink of home`."""
    plug_of_router: dict[str, Plug] = field(default_factory=dict)
    """The inner side of each site's router, by site."""
    plug_of_carrier: dict[str, Plug] = field(default_factory=dict)
    """The inner side of its carrier's router, where it has one, and below the outer side of its own."""
    plug_to_carrier: dict[str, Plug] = field(default_factory=dict)
    _used: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: ClusterSpec) -> "Wiring":
        """Draw it.

        Raises:
            UnknownName: The spec is too large for a lab.
        """
        wiring = cls(spec)
        if len(spec.relay) > RELAYS_MAX:
            raise UnknownName(f"{len(spec.relay)} relays; a lab has addresses for {RELAYS_MAX}")
        for number, cloud in enumerate(spec.cloud):
            wiring._plug(cloud.name, INTERNET, f"{PUBLIC}{2 + number}", 24)
        for number, relay in enumerate(spec.relay):
            wiring._plug(relay.name, INTERNET, f"{PUBLIC}{10 + number}", 24)
        for number, site in enumerate(spec.site, 1):
            router, switch = f"router of {site.name}", f"switch of {site.name}"
            outermost = router
            if site.nat == "carrier":
                outermost, between = f"carrier of {site.name}", f"switch between {site.name} and its carrier"
                wiring.plug_of_carrier[site.name] = wiring._made(between, outermost, "lan", f"100.64.{number}.1", 24)
                wiring.plug_to_carrier[site.name] = wiring._made(between, router, "wan", f"100.64.{number}.2", 24)
            uplink = wiring._made(INTERNET, outermost, "wan", f"{PUBLIC}{99 + number}", 24)
            wiring.plugs[f"uplink of {site.name}"] = uplink
            wiring.plug_of_router[site.name] = wiring._made(switch, router, "lan", f"{_network(number, site)}0.1", 16)
            for place, node in enumerate(site.node, 11):
                name = f"{site.name}/{node.name}"
                wiring._plug(name, switch, f"{_network(number, site)}{place // 256}.{place % 256}", 16)
        return wiring

    def _plug(self, name: str, switch: str, address: str, prefix_length: int) -> None:
        self.plugs[name] = self._made(switch, name, "eth0", address, prefix_length)

    def _made(self, switch: str, host: str, interface: str, address: str, prefix_length: int) -> Plug:
        number = self._used.get(switch, 0)
        self._used[switch] = number + 1
        return Plug(switch, f"port{number}", host, interface, address, prefix_length)

    @property
    def all_plugs(self) -> list[Plug]:
        """Every plug, routers' inner sides too."""
        routers = (self.plug_of_router, self.plug_of_carrier, self.plug_to_carrier)
        return [*self.plugs.values(), *(plug for plugs in routers for plug in plugs.values())]

    @property
    def namespaces(self) -> list[str]:
        """Every place."""
        return list(dict.fromkeys(place for plug in self.all_plugs for place in (plug.switch, plug.host)))

    def plug(self, name: str) -> Plug:
        """Give where `name` is plugged in.

        Raises:
            UnknownName: Nothing is called so.
        """
        try:
            return self.plugs[name]
        except KeyError:
            known = ", ".join(list(self.plugs)[:12])
            raise UnknownName(f"the lab has nothing called {name!r}; it has {known}") from None

    def jobs(self, ip: str, nft: str, files: dict[str, str]) -> list[dict[str, Any]]:
        """Say what is to be done in which namespace, in order; `files` are the namespaces as paths."""
        switches = list(dict.fromkeys(plug.switch for plug in self.all_plugs))
        batch = [ip, "-batch", "-"]
        settings = [
            {"in": place, "settings": QUIET if place in switches else AT_ONCE | self._forwarding(place)}
            for place in self.namespaces
        ]
        links = [
            {"in": switch, "argv": batch, "input": "\n".join(self._switch_lines(switch, files))} for switch in switches
        ]
        faults = [{"in": switch, "argv": [nft, "-f", "-"], "input": FAULT_TABLE} for switch in switches]
        hosts = [
            {"in": place, "argv": batch, "input": "\n".join(self._host_lines(place))}
            for place in self.namespaces
            if place not in switches
        ]
        walls = [
            {"in": router, "argv": [nft, "-f", "-"], "input": self._tables(site)}
            for site in self.spec.site
            if site.nat != "none"
            for router in (f"router of {site.name}", f"carrier of {site.name}")
            if router in self.namespaces
        ]
        fences = [
            {"in": f"router of {site.name}", "argv": [nft, "-f", "-"], "input": FIREWALL_TABLE}
            for site in self.spec.site
            if site.egress == "https"
        ]
        return [*settings, *links, *faults, *hosts, *walls, *fences]

    def _forwarding(self, place: str) -> dict[str, str]:
        return {"ipv4/ip_forward": "1"} if place.startswith(("router of ", "carrier of ")) else {}

    def _tables(self, site: SiteSpec) -> str:
        """Write what the routers of a site do with what passes."""
        tables = WALL_TABLE % (RESET if site.nat == "rejecting" else "")
        if site.nat not in ROUTED:
            tables += NAT_TABLE % HOW.get(site.nat, "")
        if site.nat == "full-cone":
            tables += LET_IN % self.plugs[f"{site.name}/{site.node[0].name}"].address
        return tables

    def _switch_lines(self, switch: str, files: dict[str, str]) -> Iterator[str]:
        # Snooping would want a querier, and drop multicast after some minutes without one.
        yield "link add br0 type bridge mcast_snooping 0"
        yield "link set br0 up"
        for plug in self.all_plugs:
            if plug.switch == switch:
                yield f"link add {plug.port} type veth peer name {plug.interface} netns {files[plug.host]}"
                yield f"link set {plug.port} master br0 up"

    def _host_lines(self, place: str) -> Iterator[str]:
        yield "link set lo up"
        for plug in self.all_plugs:
            if plug.host == place:
                yield f"addr add {plug.address}/{plug.prefix_length} dev {plug.interface}"
                yield f"link set {plug.interface} up"
        yield from self.route_lines(place)

    def route_lines(self, place: str) -> Iterator[str]:
        """Give the routes of a place as lines for `ip -batch`."""
        for site in self.spec.site:
            if place.startswith(f"{site.name}/"):
                yield f"route add default via {self.plug_of_router[site.name].address}"
                return
            if place == f"router of {site.name}" and site.nat == "carrier":
                yield f"route add default via {self.plug_of_carrier[site.name].address}"
                return
        for number, site in enumerate(self.spec.site, 1):
            if site.nat in ROUTED and place != f"router of {site.name}":
                yield f"route add {_network(number, site)}0.0/16 via {self.plugs[f'uplink of {site.name}'].address}"


def _network(number: int, site: SiteSpec) -> str:
    """Give how the addresses of a site begin: behind a firewall they are public ones, elsewhere private ones."""
    return f"{PUBLIC_SITES_FROM + number}.18." if site.nat == "firewall" else f"10.{number}."
