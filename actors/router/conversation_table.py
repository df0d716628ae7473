"""Looking up the sessions of one node: by peer, by the ways they use, by what they wait for."""

from collections import OrderedDict
from dataclasses import dataclass, field

from atoll.actors.router.conversation import RANKS, Conversation
from atoll.actors.router.routes import Way
from atoll.transport.identity import NodeId


@dataclass(slots=True)
class ConversationTable:
    """Sessions by their ids; the one that was used last stands behind."""

    _by_id: OrderedDict[bytes, Conversation] = field(default_factory=OrderedDict, init=False)

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[Conversation]:
        """Give them all, those used last behind."""
        return list(self._by_id.values())

    def with_peer(self, peer: NodeId, way: Way | None = None) -> Conversation | None:
        """Give the best conversation with a peer: established before under way, the best path, newest first."""
        found = [
            each
            for each in reversed(self._by_id.values())
            if each.peer == peer and each.paths and (way is None or each.way is way)
        ]
        return max(found, key=lambda each: (each.established, -RANKS[each.way]), default=None)

    def all_with(self, peer: NodeId) -> list[Conversation]:
        """Give those with a peer, whoever dialled, in whichever state."""
        return [each for each in self._by_id.values() if each.peer == peer]

    def has_path(self, peer: NodeId, way: Way) -> bool:
        """Tell whether any connection of a kind leads to a peer."""
        return any(path.way is way for each in self.all_with(peer) for path in each.paths)

    def has_streams(self, peer: NodeId) -> bool:
        """Tell whether the session with a peer has carried streams: the next one may come at any time."""
        return any(each.session.streams.used for each in self.all_with(peer))

    def goes_over_bearer(self, peer: NodeId) -> bool:
        """Tell whether our session with a peer stands and goes over a bearer: then a better path is worth a try."""
        talk = self.with_peer(peer)
        return talk is not None and talk.established and talk.dialled and talk.way is Way.BEP

    def orphan_of(self, peer: NodeId) -> Conversation | None:
        """Give a conversation with a peer that waits for a path, if we may give it one."""
        orphans = [each for each in self.all_with(peer) if each.orphaned_at is not None]
        return max(orphans, key=lambda each: (each.dialled, each.opened_at), default=None)
