"""The ways back to callers that this site's proxy holds on another node: what a member without relays answers over.

none --a record comes from the proxy--> held --the link to the proxy goes down, or too many others--> none
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from atoll.actors.router.messages import SepAnswer, SepDelivery
from atoll.actors.router.routes import Way
from atoll.actors.runtime.machine import Address
from atoll.actors.tunnel_relay.messages import PATH as TUNNEL_RELAY
from atoll.transport.identity import NodeId

CIRCUITS_MAX = 1024
RECORD_BYTES_MAX = 48 * 1024
"""On SEP; what a relay switches."""

Tell = Callable[[Address, Any], None]


@dataclass(slots=True, eq=False)
class CircuitThere:
    """A way back to one caller, held by the proxy."""

    proxy: NodeId
    relay_id: NodeId
    relay: str
    circuit: bytes
    tell: Tell = field(repr=False)
    through: str = ""
    way: Way = Way.SEP
    record_bytes_max: int = RECORD_BYTES_MAX
    takes_more: bool = True
    """Nobody tells when the proxy's way is full; streams keep little on their way over signaling."""

    def send(self, record: bytes) -> None:
        """Hand the record to the proxy."""
        self.tell(Address(self.proxy, TUNNEL_RELAY), SepAnswer(self.circuit, self.relay_id, record))

    def close(self) -> None:
        """Nothing is held here."""

    def abandon(self) -> None:
        """Nothing is held here."""


class CircuitsThere:
    """Those of one node; the one made first gives way."""

    def __init__(self) -> None:
        self._held: dict[tuple[NodeId, NodeId, bytes], CircuitThere] = {}

    def __len__(self) -> int:
        return len(self._held)

    def of(self, proxy: NodeId, message: SepDelivery, tell: Tell) -> CircuitThere:
        """Give the circuit that a record came in on."""
        # With the relay, because two relays count their circuits each for itself.
        key = (proxy, message.relay, message.circuit)
        circuit = self._held.get(key)
        if circuit is None:
            if len(self._held) >= CIRCUITS_MAX:
                self._held.pop(next(iter(self._held)))
            name = message.relay_name or message.relay.short
            circuit = self._held[key] = CircuitThere(proxy, message.relay, name, message.circuit, tell)
        return circuit

    def drop(self, proxy: NodeId) -> list[CircuitThere]:
        """Forget all that a proxy held, and give them."""
        gone = [key for key in self._held if key[0] == proxy]
        return [self._held.pop(key) for key in gone]
