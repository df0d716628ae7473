"""Remembers what the Directory told of nodes of other sites, so that not every call across waits for the cloud.

A record is fresh for `FRESH_S`; an older one still serves while the cloud is away. A wrong one does no harm: sessions
prove the key of whoever answers, and a call that finds nobody forgets it.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from atoll.actors.cloud.messages import NodeRecord
from atoll.transport.identity import SHORT_CHARACTERS, NodeId

FRESH_S = 10.0
FAR_NODES_MAX = 1024
"""Beyond this the one told longest ago is forgotten."""


def fits(name: str, node: str, node_name: str, site: str) -> bool:
    """Tell whether users may mean a node by `name`: its id or a long enough beginning of it, `name`, or `site/name`."""
    return (len(name) >= SHORT_CHARACTERS and node.startswith(name)) or name in (node_name, f"{site}/{node_name}")


@dataclass(slots=True)
class FarNodes:
    """Nodes of other sites that this gateway has looked up."""

    _told: OrderedDict[NodeId, tuple[NodeRecord, float]] = field(default_factory=OrderedDict)

    def remember(self, record: NodeRecord, now: float) -> None:
        """Keep what the Directory told just now."""
        self._told[record.node] = (record, now)
        self._told.move_to_end(record.node)
        while len(self._told) > FAR_NODES_MAX:
            self._told.popitem(last=False)

    def forget(self, node: NodeId) -> None:
        """Ask the Directory again next time."""
        self._told.pop(node, None)

    def called(self, name: str) -> list[NodeRecord]:
        """List those that `name` fits."""
        return [record for record, _ in self._told.values() if fits(name, str(record.node), record.name, record.site)]

    def fresh(self, name: str, now: float) -> NodeRecord | None:
        """Give the one that `name` fits, if there is one only and it was told lately."""
        known = self.called(name)
        return known[0] if len(known) == 1 and now - self._told[known[0].node][1] < FRESH_S else None

    def names(self) -> dict[NodeId, str]:
        """Give `site/name` of each."""
        return {node: f"{record.site}/{record.name}" for node, (record, _) in self._told.items()}
