"""The cloud's actors: the doors through which enrolled nodes and relays reach Directory, Signaling and enrolment.

    message --its sender's key enrolled?--> Directory | Signaling | a grant --> the answer
            --not, or its records make no sense--> declined, with the reason; nothing changed

Whose message it is was proved by the link; what that key may say stands in the store.
"""

import time
from collections.abc import Callable
from typing import Any, ClassVar

from atoll.actors.cloud.directory import Directory
from atoll.actors.cloud.messages import (
    AnnounceSite,
    GrantIssued,
    GrantRequest,
    ListNodes,
    LookUp,
    PlaceSep,
    RelayReport,
    TunnelRequest,
)
from atoll.actors.cloud.signaling import Signaling
from atoll.actors.cloud.store import CloudStore, Enrolled
from atoll.actors.runtime.actor import Actor, Delivery
from atoll.actors.runtime.errors import Declined
from atoll.transport.base import Standing
from atoll.transport.errors import PeerError, WorldError
from atoll.transport.keys import NodeKey
from atoll.transport.tokens import issue_grant

DIRECTORY, SIGNALING, ENROLMENT = "directory", "signaling", "enrolment"
GRANT_LIFE_S = 24 * 3600.0
"""A node that was cut off for a day must show itself to the cloud again; revocation lists come with accounts."""
GRANT_AUDIENCE = "atoll"
GRANT_SCOPES = ("atoll:call",)


class CloudActor(Actor):
    """Base: knows who sends, and says every refusal to the asker."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.GRANTED})

    def __init__(self, store: CloudStore) -> None:
        self._store = store

    async def receive(self, delivery: Delivery) -> Any:
        """Answer one message.

        Raises:
            Declined: The sender is not enrolled, or may not say this; the text says which.
        """
        if delivery.sender is None or delivery.standing is None:
            return await super().receive(delivery)
        enrolled = self._store.enrolled(delivery.sender.address.node)
        if enrolled is None:
            raise Declined("your key is not enrolled here")
        try:
            answer = self.answer(enrolled, delivery.message)
        except (PeerError, WorldError) as error:
            raise Declined(str(error)) from error
        return answer if answer is not None else await super().receive(delivery)

    def answer(self, sender: Enrolled, message: Any) -> Any:
        """Answer, or give None for a message that this actor does not take."""
        raise NotImplementedError


class DirectoryDoor(CloudActor):
    """Who is where."""

    def __init__(self, store: CloudStore, directory: Directory) -> None:
        super().__init__(store)
        self._directory = directory

    def answer(self, sender: Enrolled, message: Any) -> Any:
        """Keep announcements and answer look-ups."""
        match message:
            case AnnounceSite():
                return self._directory.announce(sender, message)
            case LookUp():
                return self._directory.look_up(message)
            case ListNodes():
                return self._directory.list_nodes(message)
        return None


class SignalingDoor(CloudActor):
    """Which relay carries what."""

    def __init__(self, store: CloudStore, signaling: Signaling) -> None:
        super().__init__(store)
        self._signaling = signaling

    def answer(self, sender: Enrolled, message: Any) -> Any:
        """Keep relays' reports, place sites, issue tunnels."""
        match message:
            case RelayReport():
                return self._signaling.report(sender, message)
            case PlaceSep():
                return self._signaling.place(sender, message)
            case TunnelRequest():
                return self._signaling.tunnels(sender, message)
        return None


class EnrolmentDoor(CloudActor):
    """Grants for keys that are enrolled; enrolling itself happens at the link, by the secret that is shown there."""

    def __init__(self, store: CloudStore, key: NodeKey, clock: Callable[[], float] = time.time) -> None:
        super().__init__(store)
        self._key = key
        self._clock = clock

    def answer(self, sender: Enrolled, message: Any) -> Any:
        """Issue the sender's grant."""
        if not isinstance(message, GrantRequest):
            return None
        now = self._clock()
        grant = issue_grant(
            self._key,
            subject=sender.node,
            audience=GRANT_AUDIENCE,
            scopes=GRANT_SCOPES,
            site=sender.site,
            life_s=GRANT_LIFE_S,
            now=now,
        )
        return GrantIssued(grant, int(now + GRANT_LIFE_S))
