"""Who is where: sites announce their nodes under a lease, and callers look them up.

    absent --AnnounceSite--> alive --lease_s without another--> absent

A site may only speak for itself: the announcing key must be enrolled for that site, and a record is kept only if it is
of an enrolled node of it. Nothing here is believed because it was announced once.
"""

from collections.abc import Callable

from atoll.actors.cloud.messages import AnnounceSite, Found, ListNodes, LookUp, NodeList, NodeRecord, SiteAnnounced
from atoll.actors.cloud.signaling import Signaling
from atoll.actors.cloud.store import LEASE_S_MAX, CloudStore, Enrolled
from atoll.transport.errors import Refused, Unreachable, UsageError
from atoll.transport.identity import NodeId

NODE_LEASE_S = LEASE_S_MAX
"""Three missed announcements of 5 s; a site that lost its uplink is found absent soon enough to say so."""
NODES_PER_SITE_MAX = 1024
LABELS_PER_NODE_MAX = 4
"""A site has two relays, and for a moment four while it moves from one pair to another."""
WANTED_CHARACTERS_MAX = 200
LABEL_BYTES = 16
LEFT_OUT_MAX = 16
"""Reasons that are told at once."""
OFFERS_PER_NODE_MAX = 512
TEXT_CHARACTERS_MAX = 200
LIST_MAX = 1000
ROUTES_MAX = 2
"""A caller holds both relays of a site; more would only cost tickets."""
NODE_ID_CHARACTERS = 52


class Directory:
    """Keeps node records and answers look-ups; without I/O but for its store."""

    def __init__(self, store: CloudStore, signaling: Signaling, clock: Callable[[], float]) -> None:
        self._store = store
        self._signaling = signaling
        self._clock = clock

    def announce(self, sender: Enrolled, message: AnnounceSite) -> SiteAnnounced:
        """Keep a site's records.

        Raises:
            Refused: The sender is not enrolled for that site, or a label belongs to no node (its fault).
        """
        if message.site != sender.site:
            raise Refused(f"{sender.name} is enrolled for site {sender.site!r} and cannot announce {message.site!r}")
        if len(message.nodes) > NODES_PER_SITE_MAX:
            raise Refused(f"a site announces at most {NODES_PER_SITE_MAX} nodes, this one {len(message.nodes)}")
        if len(message.labels) > LABELS_PER_NODE_MAX * len(message.nodes):
            raise Refused(
                f"a site announces at most {LABELS_PER_NODE_MAX} labels a node: {len(message.labels)} labels for "
                f"{len(message.nodes)} nodes are too many"
            )
        faults = {record.node: self._fault(sender, record) for record in message.nodes}
        kept = tuple(record for record in message.nodes if not faults[record.node])
        for label in message.labels:
            if label.node not in faults or len(label.label) != LABEL_BYTES:
                raise Refused(f"a label of {LABEL_BYTES} bytes belongs to a node of the same announcement")
        labels = tuple(label for label in message.labels if not faults[label.node])
        now = self._clock()
        self._store.heard(now)
        self._store.keep_nodes(kept, labels, now + NODE_LEASE_S)
        self._store.sweep(now)
        return SiteAnnounced(NODE_LEASE_S, tuple(fault for fault in faults.values() if fault)[:LEFT_OUT_MAX])

    def _fault(self, sender: Enrolled, record: NodeRecord) -> str:
        """Say why a record is not kept; empty for one that is."""
        enrolled = self._store.enrolled(record.node)
        if enrolled is None or enrolled.kind != "node" or enrolled.site != sender.site or record.site != sender.site:
            return f"{record.node.short} is not enrolled as a node of site {sender.site!r}"
        if record.name != enrolled.name:
            return f"{record.node.short} is enrolled as {enrolled.name!r}, not as {record.name!r}"
        listed = (
            record.version,
            *record.actors,
            *(text for each in record.services for text in (each.name, each.path)),
        )
        if len(listed) > OFFERS_PER_NODE_MAX or not all(
            len(each) <= TEXT_CHARACTERS_MAX and each.isprintable() for each in listed
        ):
            return f"{enrolled.name} offers more than {OFFERS_PER_NODE_MAX} things, or a name that is none"
        return ""

    def look_up(self, message: LookUp) -> Found:
        """Give the node and a complete route for each fresh key, over different relays.

        Raises:
            Unreachable: No living record has that id or name.
            Refused: The name fits several nodes, or is none.
        """
        if len(message.wanted) > WANTED_CHARACTERS_MAX:
            raise Refused(f"a node's name has at most {WANTED_CHARACTERS_MAX} characters, not {len(message.wanted)}")
        self._store.heard(self._clock())
        record = self._find(message.wanted)
        held = self._store.labels(record.node, self._clock())
        routes = tuple(
            self._signaling.reach(record.site, relay, label, holder)
            for (relay, label), holder in zip(held[:ROUTES_MAX], message.holders, strict=False)
        )
        return Found(record, routes, int(self._clock()))

    def _find(self, wanted: str) -> NodeRecord:
        now = self._clock()
        found: tuple[NodeRecord, ...]
        if len(wanted) == NODE_ID_CHARACTERS and "/" not in wanted:
            try:
                record = self._store.node_by_id(NodeId.parse(wanted), now)
            except UsageError as error:
                raise Refused(str(error)) from error
            found = () if record is None else (record,)
        else:
            site, _, name = wanted.rpartition("/")
            found = self._store.nodes_by_name(site, name, now)
        if not found:
            raise Unreachable(f"the directory knows no node {wanted!r} that is alive: is it running, and enrolled?")
        if len(found) > 1:
            names = ", ".join(f"{record.site}/{record.name}" for record in found)
            raise Refused(f"{wanted!r} fits several nodes: say which of {names}")
        return found[0]

    def list_nodes(self, message: ListNodes) -> NodeList:
        """Give the living nodes, at most `LIST_MAX`."""
        return NodeList(self._store.nodes(self._clock(), max(0, min(message.limit, LIST_MAX))))
