"""The cloud's actors: the doors through which enrolled nodes and relays reach Directory, Signaling and enrolment.

    message --its sender's key enrolled?--> Directory | Signaling | a grant --> the answer
            --not, or its records make no sense--> declined, with the reason; nothing changed
            --too many of its sender wait already--> declined at once

Senders take turns: whoever asks without end waits behind its own questions, and nobody else does.
Whose message it is was proved by the link; what that key may say stands in the store.
"""

import abc
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import anyio
import anyio.lowlevel

from atoll.actors.cloud.directory import Directory
from atoll.actors.cloud.messages import (
    GRANT_AUDIENCE,
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
from atoll.actors.runtime.actor import LATER, Actor, Delivery, ReplyTo
from atoll.actors.runtime.errors import AskDeclined, Declined
from atoll.transport.base import Standing
from atoll.transport.errors import PeerError, UsageError, WorldError
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey
from atoll.transport.tokens import issue_grant

log = logging.getLogger("atoll.cloud")

GRANT_LIFE_S = 24 * 3600.0
"""A node that was cut off for a day must show itself to the cloud again; revocation lists come with accounts."""
GRANT_SCOPES = ("atoll:call",)
WAITING_PER_SENDER_MAX = 32
"""Questions of one key that wait in one actor; a node in order has one or two."""


class CloudActor(Actor, abc.ABC):
    """Base: knows who sends, and says every refusal to the asker."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.GRANTED})

    takes: ClassVar[tuple[type, ...]] = ()
    """The messages it answers."""

    def __init__(self, store: CloudStore) -> None:
        self._store = store
        self._waiting: dict[NodeId, deque[Delivery]] = {}
        """By sender, in the order of their turns."""
        self._asked = anyio.Event()

    async def started(self) -> None:
        """Begin to answer."""
        self.tasks.start_soon(self._answer_in_turn)

    async def receive(self, delivery: Delivery) -> Any:
        """Put a question behind the others of its sender.

        Raises:
            Declined: Too many of them wait already.
        """
        if delivery.sender is None or delivery.standing is None or not isinstance(delivery.message, self.takes):
            return await super().receive(delivery)
        mine = self._waiting.setdefault(delivery.sender.address.node, deque())
        if len(mine) >= WAITING_PER_SENDER_MAX:
            raise Declined(f"{WAITING_PER_SENDER_MAX} of your questions wait here already; ask fewer at once")
        mine.append(delivery)
        self._asked.set()
        return LATER

    async def _answer_in_turn(self) -> None:
        while True:
            await self._asked.wait()
            while self._waiting:
                sender = next(iter(self._waiting))
                mine = self._waiting.pop(sender)
                self._answer_to(sender, mine.popleft())
                if mine:
                    self._waiting[sender] = mine
                # So that others get their questions in between those of a flood.
                await anyio.lowlevel.checkpoint()
            self._asked = anyio.Event()

    def _answer_to(self, sender: NodeId, delivery: Delivery) -> None:
        try:
            enrolled = self._store.enrolled(sender)
            if enrolled is None:
                raise Declined("your key is not enrolled here")  # noqa: TRY301 - told like every other refusal
            answer = self.answer(enrolled, delivery.message)
        except (Declined, PeerError, WorldError) as error:
            if delivery.reply_to is not None:
                delivery.reply_to.fail(AskDeclined(str(error)))
        else:
            self._tell(delivery.reply_to, answer)

    def _tell(self, reply_to: ReplyTo | None, answer: Any) -> None:
        if reply_to is None:
            return
        try:
            reply_to.answer(answer)
        except UsageError as error:
            # How long it is depends on what others have announced: no reason to end an actor that all depend on.
            log.warning("an answer could not be sent: %s", error)
            reply_to.fail(AskDeclined(f"the answer cannot be sent: {error}"))

    @abc.abstractmethod
    def answer(self, sender: Enrolled, message: Any) -> Any:
        """Answer one of the messages in `takes`."""


class DirectoryDoor(CloudActor):
    """Who is where."""

    takes: ClassVar[tuple[type, ...]] = (AnnounceSite, LookUp, ListNodes)

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

    takes: ClassVar[tuple[type, ...]] = (RelayReport, PlaceSep, TunnelRequest)

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

    takes: ClassVar[tuple[type, ...]] = (GrantRequest,)

    def __init__(self, store: CloudStore, key: NodeKey, clock: Callable[[], float] = time.time) -> None:
        super().__init__(store)
        self._key = key
        self._clock = clock

    def answer(self, sender: Enrolled, message: Any) -> Any:
        """Issue the sender's grant."""
        del message
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
