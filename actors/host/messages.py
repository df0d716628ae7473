"""What a node says of its host. Every part has a limit: a record beyond one is malformed, and refused as such."""

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from atoll.transport.codec import Message

PATH = "host_facts"
INTERFACES_MAX = 16
ADDRESSES_MAX = 4
ACCELERATORS_MAX = 16
TEXT_CHARACTERS_MAX = 96

Text: TypeAlias = Annotated[str, Meta(max_length=TEXT_CHARACTERS_MAX)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Percent: TypeAlias = Annotated[float, Meta(ge=-1.0, le=100.0)]


class Interface(msgspec.Struct, frozen=True, array_like=True):
    """One network interface that is up, but loopback."""

    name: Text
    wired: bool
    speed_mbps: Count
    """0 where nobody knows."""
    addresses: Annotated[tuple[Text, ...], Meta(max_length=ADDRESSES_MAX)] = ()


class DescribeHost(Message, frozen=True, array_like=True, tag="host.describe"):
    """Ask a node what its host is like; answered with `HostDetails`, to its own node and to members."""


class HostDetails(Message, frozen=True, array_like=True, tag="host.details"):
    """What one node's host is like."""

    system: Text
    """Such as `Linux 6.18.0`."""
    machine: Text
    """Such as `x86_64`."""
    processor: Text
    cores: Count
    """Logical ones that this process may use."""
    processors_idle: Annotated[float, Meta(ge=0.0, le=65536.0)]
    """Idle cores: four that are half busy are 2.0."""
    memory_bytes: Count
    memory_free_bytes: Count
    storage_bytes: Count
    """Of the file system with the node's state."""
    storage_free_bytes: Count
    on_mains: bool
    battery_percent: Percent
    """-1 for none."""
    interfaces: Annotated[tuple[Interface, ...], Meta(max_length=INTERFACES_MAX)] = ()
    accelerators: Annotated[tuple[Text, ...], Meta(max_length=ACCELERATORS_MAX)] = ()
    """Such as `nvidia0: NVIDIA RTX A2000`, by the names of their devices."""
    up_s: Count = 0
    """Since the host booted."""


MESSAGES: tuple[type[Message], ...] = (DescribeHost, HostDetails)


def showable(details: HostDetails) -> bool:
    """Tell whether all its texts can be shown; one with others is refused by whoever asked."""
    texts = [details.system, details.machine, details.processor, *details.accelerators]
    texts += [text for each in details.interfaces for text in (each.name, *each.addresses)]
    return all(text.isprintable() for text in texts)
