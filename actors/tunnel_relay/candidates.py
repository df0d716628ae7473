"""Where two nodes behind NAT may find each other: what each shows of itself, and which of the other's it dials. Pure.

What relays see of one local port tells what the NAT in front of it does (RFC 5382 and RFC 4787, section 4.1): the same
address for every destination can be told to a peer; another one for each cannot. What a peer shows may be a lie, so
that this node would knock where it should not: at its own services, its own network, or at somebody who never asked.
"""

import enum
import ipaddress
from collections.abc import Iterable

import msgspec

from atoll.transport.tcp_address import TcpAddress

CANDIDATES_MAX = 4
"""Addresses of one end: what two relays have seen, and two of its own network."""
PORT_MIN = 1024
"""Ports below are of services, which nobody punches from."""
_PRIVATE = tuple(
    ipaddress.ip_network(each)
    # RFC 1918, RFC 6598 (between a carrier and its customers), RFC 4193.
    for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
_RESERVED = ipaddress.ip_network("240.0.0.0/4")


class NatMapping(enum.IntEnum):
    """What the NAT in front of a node does with one port of it."""

    UNKNOWN = 0
    """Fewer than two relays have told what they see."""
    NONE = 1
    """There is none: relays see the node's own address."""
    INDEPENDENT = 2
    """Every destination sees the same address and port."""
    DEPENDENT = 3
    """Each destination sees another: it is called symmetric, too."""


class View(msgspec.Struct, frozen=True):
    """One end of an attempt, as it shows itself to the other."""

    mapping: NatMapping
    candidates: tuple[TcpAddress, ...]
    """What relays have seen first; no relay has told anything when there is none."""

    @classmethod
    def of(cls, own: TcpAddress, seen: Iterable[TcpAddress], *, show_private: bool) -> "View":
        """Make this node's: from its own address and what relays have seen of it, one after the other."""
        told = list(seen)
        mapped = tuple(dict.fromkeys(told))
        if len(mapped) > 1:
            mapping = NatMapping.DEPENDENT
        elif own in mapped:
            mapping = NatMapping.NONE
        else:
            mapping = NatMapping.INDEPENDENT if len(told) > 1 else NatMapping.UNKNOWN
        others = (own,) if show_private and own not in mapped else ()
        return cls(mapping, (mapped + others)[:CANDIDATES_MAX])

    @property
    def outside(self) -> frozenset[str]:
        """Its public addresses, without ports."""
        return frozenset(each.host for each in self.candidates if not is_private(each))


class Policy(msgspec.Struct, frozen=True):
    """What this node does not dial, whoever says so."""

    own: frozenset[TcpAddress]
    """Its own addresses and what relays see of it: a port that dials itself is connected."""
    relays: frozenset[TcpAddress] = frozenset()
    private: bool = False
    """The owner allows addresses of this network, where the peer shows the same address outside."""

    def objection(self, address: TcpAddress, *, same_outside: bool) -> str:
        """Say why an address is not dialled; empty: it may be."""
        ip = address.ip
        elsewhere = ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_link_local or ip in _RESERVED
        allowed = self._is_inside or (same_outside and self.private)
        rules = (
            (ip.version not in {each.ip.version for each in self.own}, "another version of IP"),
            (elsewhere, "no address of a host elsewhere"),
            (address.port < PORT_MIN, "a port of a service"),
            (address in self.own, "this node itself"),
            (address in self.relays, "a relay"),
            (is_private(address) and not allowed, "an address of a private network"),
        )
        return next((why for broken, why in rules if broken), "")

    def admitted(self, peer: View, own: View) -> list[TcpAddress]:
        """Give those of the peer's addresses that are dialled, at most `CANDIDATES_MAX`."""
        same_outside = bool(peer.outside & own.outside)
        shown = dict.fromkeys(peer.candidates[:CANDIDATES_MAX])
        return [each for each in shown if not self.objection(each, same_outside=same_outside)]

    @property
    def _is_inside(self) -> bool:
        """Tell whether all this happens in one private network: even the relays see private addresses only."""
        return bool(self.own) and all(is_private(each) for each in self.own)


def is_private(address: TcpAddress) -> bool:
    """Tell whether an address means something on its own network only."""
    return any(address.ip in network for network in _PRIVATE)
