"""Keeps a node's connection to its cloud: asks it for others, and holds the grant that it issued.

    ask --a link stands?--> asked --> answered, if with a no       the cloud is reachable
        --no--> the Router dials --> asked, or failed with why     it is not
    nothing asked for IDLE_S --> the link is let go, so that a site costs its cloud one link, not one a node

The grant is kept on disk: a node that starts without the internet can still prove itself to others. Nothing else of the
cloud is needed to go on.
"""

import logging
import time
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import anyio
import anyio.to_thread

from atoll.actors.cloud.messages import ENROLMENT, GRANT_AUDIENCE, GrantIssued, GrantRequest
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import LetGo, Reach
from atoll.actors.runtime.actor import LATER, Actor, Delivery, ReplyTo
from atoll.actors.runtime.errors import AskCongested, AskDeclined, AskFailed, AskTimedOut, AskUnreachable
from atoll.actors.runtime.machine import Address
from atoll.actors.uplink.messages import LINK_S, AskCloud, CloudSeen, GrantWanted
from atoll.transport.base import Standing
from atoll.transport.errors import Congested, Expired, PeerError
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.uplink")

RENEW_BEFORE_S = 600.0
"""A grant that ends sooner is renewed when it is needed; until its last second it is still shown if that fails."""
ENROL_AGAIN_S_MIN = 0.5
ENROL_AGAIN_S_MAX = 30.0
ASKS_MAX = 256
"""Questions to the cloud under way; more means that it does not answer."""
IDLE_S = 30.0
"""A supernode announces its site every 5 s and never comes here; the others ask now and then."""


class Uplink(Actor):
    """Asks the cloud; local only."""

    open_to: ClassVar[frozenset[Standing]] = frozenset()

    def __init__(self, own: NodeId, cloud: NodeId | None, grant_file: Path | None, rng: Random | None = None) -> None:
        """Take who we are and our cloud, and where the grant is kept; a relay has none and wants none."""
        self._wants_grant = grant_file is not None
        self._own = own
        self._cloud = cloud
        self._grant_file = grant_file
        self._grant = b""
        self._grant_until = 0.0
        self._seen: bool | None = None
        self._asks = 0
        self._rng = rng or Random()
        self._linked = False
        """A link was there when it was needed last."""
        self._used_at = 0.0

    async def started(self) -> None:
        """Read the grant of an earlier life, if it is still good."""
        if self._cloud is None:
            return
        if self._grant_file is not None:
            self._read(self._grant_file)
        if self._wants_grant:
            self.tasks.start_soon(self._enrol)
        self.tasks.start_soon(self._let_go_when_idle, self._cloud)

    def _read(self, grant_file: Path) -> None:
        """Use the grant on disk if it can be read and is good; a new one replaces it otherwise."""
        from atoll.transport.tokens import GRANT_BYTES_MAX  # noqa: PLC0415 - see `_keep`

        try:
            with grant_file.open("rb") as file:
                grant = file.read(GRANT_BYTES_MAX + 1)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("the grant in %s cannot be read: %s; the cloud is asked for another", grant_file, error)
            return
        self._keep(grant)

    async def _let_go_when_idle(self, cloud: NodeId) -> None:
        while True:
            await anyio.sleep(IDLE_S / 4)
            if not self._linked or self._asks or self.system.clock() < self._used_at + IDLE_S:
                continue
            try:
                self.system.tell(Address(self._own, ROUTER), LetGo(cloud, f"nothing was asked for {IDLE_S:g} s"))
            except Congested:
                # The Router has more to do than this; it is told again.
                continue
            self._linked = False

    async def _enrol(self) -> None:
        """Show ourselves to the cloud once: only who is enrolled can be found by others, and prove itself to them."""
        wait_s = ENROL_AGAIN_S_MIN
        while time.time() >= self._grant_until - RENEW_BEFORE_S:
            try:
                await self._current_grant()
            except AskFailed as error:
                log.info("no grant yet: %s", error)
            await anyio.sleep(wait_s * self._rng.uniform(0.75, 1.25))
            wait_s = min(2 * wait_s, ENROL_AGAIN_S_MAX)

    async def receive(self, delivery: Delivery) -> Any:
        """Answer beside the mailbox: one slow answer holds up nobody."""
        message, reply_to = delivery.message, delivery.reply_to
        if not isinstance(message, AskCloud | GrantWanted) or reply_to is None:
            return await super().receive(delivery)
        if self._asks >= ASKS_MAX:
            reply_to.fail(AskDeclined(f"{ASKS_MAX} questions to the cloud are under way already"))
        else:
            self._asks += 1
            self.tasks.start_soon(self._answer, message, reply_to)
        return LATER

    async def _answer(self, message: AskCloud | GrantWanted, reply_to: ReplyTo) -> None:
        try:
            if isinstance(message, AskCloud):
                reply_to.answer(await self._ask(message))
            else:
                reply_to.answer(await self._current_grant())
        except AskFailed as error:
            reply_to.fail(error)
        finally:
            self._asks -= 1

    async def _ask(self, asked: AskCloud) -> Any:
        cloud = self._cloud
        if cloud is None:
            raise AskUnreachable("this node has no cloud: name one in its config, below [cloud]")
        try:
            await self.system.ask(Address(self._own, ROUTER), Reach(cloud), timeout_s=LINK_S)
        except AskFailed as error:
            self._note(reachable=False, reason=str(error))
            raise AskUnreachable(str(error)) from error
        self._linked, self._used_at = True, self.system.clock()
        try:
            answer = await self.system.ask(
                Address(cloud, asked.actor), asked.message, timeout_s=asked.timeout_s, reply_type=asked.reply_type
            )
        except (AskUnreachable, AskTimedOut) as error:
            self._note(reachable=False, reason=str(error))
            raise
        except AskCongested:
            # Too much on this side; that says nothing of the cloud.
            raise
        except AskFailed as error:
            self._note(reachable=True, reason=f"it answered: {error}")
            raise
        finally:
            self._used_at = self.system.clock()
        self._note(reachable=True, reason="it answered")
        return answer

    def _note(self, *, reachable: bool, reason: str) -> None:
        if reachable is not self._seen:
            self._seen = reachable
            log.info("the cloud is %s: %s", "reachable" if reachable else "out of reach", reason)
            self.system.announce(CloudSeen(reachable, reason))

    async def _current_grant(self) -> bytes:
        if time.time() < self._grant_until - RENEW_BEFORE_S:
            return self._grant
        try:
            issued: GrantIssued = await self._ask(AskCloud(ENROLMENT, GrantRequest(), reply_type=GrantIssued))
        except AskFailed:
            if time.time() < self._grant_until:
                return self._grant
            raise
        if self._keep(issued.grant) and self._grant_file is not None:
            try:
                await anyio.to_thread.run_sync(_write_private, self._grant_file, issued.grant)
            except OSError as error:
                # Good until this process ends; the next one must ask again.
                log.warning("the grant could not be kept in %s: %s", self._grant_file, error)
        if not self._grant:
            raise AskDeclined("the cloud issued a grant that is not good for this node; is its key pinned right?")
        return self._grant

    def _keep(self, grant: bytes) -> bool:
        """Hold a grant if it is good."""
        cloud = self._cloud
        if cloud is None:
            return False
        try:
            # Imported where it is wanted: a relay has no grant, and what checks them takes its memory.
            from atoll.transport.tokens import check_grant  # noqa: PLC0415

            read = check_grant(grant, issuer=cloud, bearer=self._own, audience=GRANT_AUDIENCE, now=time.time())
        except (PeerError, Expired) as error:
            log.warning("a grant is not used: %s", error)
            return False
        self._grant, self._grant_until = grant, read.expires_at
        return True


def _write_private(path: Path, data: bytes) -> None:
    """Replace a file that only the owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_bytes(data)
    partial.replace(path)
