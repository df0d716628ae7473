"""Paths over signaling: a caller's way to a label, and a callee's way back on a circuit."""

from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.actors.router.routes import Way
from atoll.actors.tunnel_relay.frames import RECORD_BYTES_MAX
from atoll.actors.tunnel_relay.sep_client import SepClient


@dataclass(slots=True, eq=False)
class LabelPath:
    """To whoever is behind a label at a relay; it has its connection for itself."""

    relay: str
    label: bytes
    client: SepClient = field(repr=False)
    on_close: Callable[[], None] = field(repr=False)
    through: str = ""
    going: bool = False
    """Its relay is being drained."""
    way: Way = Way.SEP
    record_bytes_max: int = RECORD_BYTES_MAX
    takes_more: bool = True
    """Streams keep little on their way over signaling: nobody between tells when it is full."""

    def send(self, record: bytes) -> None:
        """Call the label; raises as `Path.send` says."""
        self.client.call(self.label, record)

    def close(self) -> None:
        """Hang up at the relay."""
        self.on_close()

    def abandon(self) -> None:
        """Hang up."""
        self.on_close()


@dataclass(slots=True, eq=False)
class CircuitPath:
    """Back to a caller, on a circuit of a registration that this node holds."""

    relay: str
    circuit: bytes
    client: SepClient = field(repr=False)
    through: str = ""
    way: Way = Way.SEP
    record_bytes_max: int = RECORD_BYTES_MAX
    takes_more: bool = True
    """Streams keep little on their way over signaling: nobody between tells when it is full."""

    def send(self, record: bytes) -> None:
        """Answer on the circuit; raises as `Path.send` says."""
        self.client.answer(self.circuit, record)

    def close(self) -> None:
        """The registration stays; circuits are the relay's."""

    def abandon(self) -> None:
        """The registration stays; its own link says whether the relay is lost."""
