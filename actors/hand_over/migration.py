"""The actors of a node that keep, host and call migratable actors, as one branch; it lives by the network's."""

from pathlib import Path

from atoll.actors.hand_over.applications import HELD
from atoll.actors.hand_over.callers_actor import CallersActor
from atoll.actors.hand_over.hosting_actor import HostingActor
from atoll.actors.hand_over.log_store_actor import LogStoreActor
from atoll.actors.hand_over.messages import CALLERS, HOSTING, LOG_STORE
from atoll.actors.hand_over.relocation_actor import RelocationActor
from atoll.actors.hand_over.repertoire import Repertoire
from atoll.actors.hand_over.site_messages import RELOCATION
from atoll.actors.runtime import ChildSpec, Strategy, SupervisorSpec
from atoll.transport.identity import NodeId


def migration(own: NodeId, repertoire: Repertoire, folder: Path) -> SupervisorSpec:
    """Say which they are; logs and arriving states are kept below `folder`."""
    return SupervisorSpec(
        name="migration",
        children=(
            ChildSpec(name=LOG_STORE, factory=lambda: LogStoreActor(own, journal=folder / "logs")),
            # Before hosting, which tells it what is hosted here.
            ChildSpec(name=RELOCATION, factory=lambda: RelocationActor(own)),
            # Together, the place for soft ones first: what is hosted ends with its host.
            SupervisorSpec(
                name="hosts",
                strategy=Strategy.ONE_FOR_ALL,
                children=(
                    SupervisorSpec(name=HELD),
                    ChildSpec(name=HOSTING, factory=lambda: HostingActor(own, repertoire, journal=folder / "arrivals")),
                ),
            ),
            ChildSpec(name=CALLERS, factory=lambda: CallersActor(own)),
        ),
    )
