"""What this node offers to others, told to its Duties when it changes: addresses of services, names of actors."""

from collections.abc import Iterable

from atoll.actors.cloud.messages import OfferedService
from atoll.actors.duties.messages import OwnRecordChanged
from atoll.actors.runtime.system import ActorSystem


class Offer:
    """The offer of one node."""

    def __init__(self, system: ActorSystem) -> None:
        self._system = system
        self._services: tuple[OfferedService, ...] = ()
        self._actors: tuple[str, ...] = ()

    def set_services(self, services: Iterable[OfferedService]) -> None:
        """Offer these services and no others."""
        self._set(tuple(sorted(services, key=lambda each: (each.name, each.path))), self._actors)

    def set_actors(self, names: Iterable[str]) -> None:
        """Offer these actors and no others."""
        self._set(self._services, tuple(sorted(names)))

    def _set(self, services: tuple[OfferedService, ...], actors: tuple[str, ...]) -> None:
        if (services, actors) != (self._services, self._actors):
            self._services, self._actors = services, actors
            self._system.announce(OwnRecordChanged(services, actors))
