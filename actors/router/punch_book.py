"""Remembers with which peers a connection through NAT was tried, what came of it, and when another try is due. Pure.

    never tried --begun--> under way --open--> open --lost--> due again in a moment
                                     --failed--> tried in vain, due again after a pause that grows

Attempts cost both ends a port and a few SYNs, and mostly fail for reasons that last: so the pauses are long. Another
network ends them all, for what is between may be another NAT.
"""

from collections import OrderedDict
from dataclasses import dataclass

from atoll.transport.identity import NodeId

PEERS_MAX = 1024
PAUSES_S = (20.0, 120.0, 600.0, 1800.0)
"""After as many attempts in vain, one after the other; a lost SYN is likelier than the second time the same."""
LOST_PAUSE_S = 5.0
"""After the loss of a connection that has lived."""
LIVED_S = 60.0
"""One that lives shorter counts as an attempt in vain: some NATs forget at once what they let through."""


@dataclass(slots=True)
class _Peer:
    under_way: bool = False
    opened_at: float | None = None
    failures: int = 0
    due_at: float = 0.0
    reason: str = ""
    lost_at_once: str = ""
    """Why it was lost, if it was before anybody had noted that it is open."""


class PunchBook:
    """What is known of punching to each peer; times are monotonic seconds and come in."""

    def __init__(self) -> None:
        self._peers: OrderedDict[NodeId, _Peer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def due_in_s(self, peer: NodeId, now: float) -> float | None:
        """Tell how long until the next attempt may begin; None while one is under way or a connection is open."""
        entry = self._peers.get(peer)
        if entry is None:
            return 0.0
        return None if entry.under_way or entry.opened_at is not None else max(0.0, entry.due_at - now)

    def begun(self, peer: NodeId) -> None:
        """Note an attempt."""
        entry = self._peers.pop(peer, None) or _Peer()
        if len(self._peers) >= PEERS_MAX:
            idle = (each for each, known in self._peers.items() if not known.under_way and known.opened_at is None)
            self._peers.pop(next(idle, next(iter(self._peers))))
        entry.under_way, entry.lost_at_once = True, ""
        self._peers[peer] = entry

    def opened(self, peer: NodeId, now: float) -> None:
        """Note that it gave a connection."""
        entry = self._peers.get(peer)
        if entry is not None and entry.lost_at_once:
            self._put_off(entry, entry.lost_at_once, now)
        elif entry is not None:
            entry.under_way, entry.opened_at, entry.reason = False, now, ""

    def failed(self, peer: NodeId, reason: str, now: float) -> None:
        """Note that it came to nothing."""
        if (entry := self._peers.get(peer)) is not None:
            self._put_off(entry, reason, now)

    def lost(self, peer: NodeId, reason: str, now: float) -> None:
        """Note that the connection is over."""
        entry, why = self._peers.get(peer), f"the connection was lost: {reason}"
        if entry is not None and entry.under_way:
            entry.lost_at_once = why
        elif entry is not None and entry.opened_at is not None and now < entry.opened_at + LIVED_S:
            self._put_off(entry, why, now)
        elif entry is not None and entry.opened_at is not None:
            entry.opened_at, entry.failures, entry.due_at, entry.reason = None, 0, now + LOST_PAUSE_S, why

    def network_changed(self) -> None:
        """Let everything be tried again."""
        for entry in self._peers.values():
            entry.failures, entry.due_at = 0, 0.0

    def seen(self, peer: NodeId, now: float) -> str:
        """Say for people how things stand; empty: never tried."""
        entry = self._peers.get(peer)
        if entry is None:
            return ""
        if entry.opened_at is not None:
            return "punched through NAT"
        if entry.under_way:
            return "punching through NAT is being tried"
        again = f"again in {max(0.0, entry.due_at - now):.0f} s at the earliest"
        tries = f"{entry.failures} tries in vain, " if entry.failures > 1 else ""
        return f"not punched through NAT: {entry.reason} ({tries}{again})"

    def _put_off(self, entry: _Peer, reason: str, now: float) -> None:
        pause_s = PAUSES_S[min(entry.failures, len(PAUSES_S) - 1)]
        entry.under_way, entry.opened_at, entry.reason = False, None, reason
        entry.failures, entry.due_at = entry.failures + 1, now + pause_s
