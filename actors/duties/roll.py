"""Who belongs to the site now, as its supernode keeps it. Without I/O.

absent --MemberHere--> present --RECORD_S without another, or it died, or left--> absent
"""

from atoll.actors.cloud.messages import NodeRecord
from atoll.transport.identity import NodeId

RECORD_S = 15.0
"""Three missed reports of 5 s."""
MEMBERS_MAX = 1024
SERVICES_MAX = 256
NAME_CHARACTERS_MAX = 200


class Roll:
    """The records of a site's members; times are monotonic seconds and come in."""

    def __init__(self) -> None:
        self._records: dict[NodeId, tuple[NodeRecord, float]] = {}

    def take(self, record: NodeRecord, now: float) -> bool:
        """Keep a member's record; True when something in it is new."""
        known = self._records.get(record.node)
        if known is None and len(self._records) >= MEMBERS_MAX:
            return False
        self._records[record.node] = (record, now + RECORD_S)
        return known is None or known[0] != record

    def has(self, node: NodeId) -> bool:
        """Tell whether a member is on it."""
        return node in self._records

    def lost(self, node: NodeId) -> bool:
        """Strike a member off that died or said goodbye; a suspected one stays."""
        return self._records.pop(node, None) is not None

    def sweep(self, now: float) -> bool:
        """Strike off those who said nothing for too long."""
        late = [node for node, (_, until) in self._records.items() if until <= now]
        for node in late:
            del self._records[node]
        return bool(late)

    def records(self) -> tuple[NodeRecord, ...]:
        """Give all records, by name."""
        return tuple(sorted((record for record, _ in self._records.values()), key=lambda each: (each.name, each.node)))


def sane(record: NodeRecord) -> bool:
    """Tell whether a record keeps the limits; one that does not is counted and dropped."""
    listed = (*record.actors, *(text for each in record.services for text in (each.name, each.path)))
    return (
        len(record.services) <= SERVICES_MAX
        and len(record.actors) <= SERVICES_MAX
        and all(0 < len(each) <= NAME_CHARACTERS_MAX and each.isprintable() for each in (record.name, *listed))
        and len(record.version) <= NAME_CHARACTERS_MAX
        and record.version.isprintable()
    )
