"""Rules of the shell that hosts actors on a node: each has a mutant, and a short story in which that does wrong.

The shell is alone on a node, beside a real table of places; other hosts are played.
"""

import contextlib

import anyio
import pytest
from waiting import until

from atoll import MigratableActor, handles
from atoll.actors.elector import messages as elector
from atoll.actors.elector.messages import DrainWanted, RosterInForce
from atoll.actors.hand_over import messages as hand_over
from atoll.actors.hand_over.hosting_actor import HostingActor
from atoll.actors.hand_over.log import digest_of
from atoll.actors.hand_over.messages import (
    HOSTING,
    OfferState,
    Position,
    RemovalEnded,
    RemovalWanted,
    StateDeclined,
)
from atoll.actors.hand_over.orders import HostActor
from atoll.actors.hand_over.repertoire import Repertoire
from atoll.actors.placement import messages as placement
from atoll.actors.placement.messages import FindPlace, Placed, PlaceFound, PlaceSwapped, RemovePlace, SwapPlace
from atoll.actors.placement.table import PlaceTable
from atoll.actors.runtime import MESSAGES, Actor, ActorSystem, AskFailed
from atoll.actors.runtime.machine import Address, Received
from atoll.testing.elections import simulated_node
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.envelope import VERSION, Envelope, Header, Kind

pytestmark = pytest.mark.anyio
CODEC = Codec([*MESSAGES, *elector.MESSAGES, *placement.MESSAGES, *hand_over.MESSAGES])
HERE, THERE = (simulated_node(number) for number in range(2))
LONG_S, MOMENT_S = 5.0, 0.3


class Tide(MigratableActor):
    @handles
    async def say(self, message: int) -> int:
        return message

    def snapshot(self) -> int:
        return 0

    def restore(self, state: int) -> None:
        del state


class Places(Actor):
    """A placement that is always certain."""

    def __init__(self):
        self.table = PlaceTable()

    async def receive(self, delivery):
        message = delivery.message
        table, actor = self.table, message.actor
        if isinstance(message, FindPlace):
            return PlaceFound(actor, table.find(actor), first=table.first_of(actor), founded=table.founded(actor))
        refusal = table.refusal(message)
        decided = not refusal or table.never(message)
        if not refusal:
            table.change(message)
        return PlaceSwapped(actor, not refusal, table.find(actor), refusal, None, decided, table.first_of(actor))


class Shell:
    """A node with one shell, which was told to host the tide."""

    def __init__(self, system, sent, kind, folder):
        self.system, self.sent = system, sent
        self.repertoire = Repertoire()
        self._kind, self._folder = kind, folder
        self.table = system.cell(placement.PATH).actor.table

    async def start(self):
        make = lambda: self._kind(HERE, self.repertoire, journal=self._folder)  # noqa: E731
        self.ref = await self.system.spawn(make, HOSTING)

    def host(self):
        self.repertoire.host("tide", self.repertoire.learn(Tide))
        self.system.tell(Address(HERE, HOSTING), HostActor("tide"))

    @property
    def owns(self):
        owner = self.system.cell(HOSTING).actor.hosting.owners.get("tide")
        return owner is not None and owner.serving

    async def remove(self):
        return await self.system.ask(
            Address(HERE, HOSTING), RemovalWanted("tide"), timeout_s=LONG_S, reply_type=RemovalEnded
        )

    async def begun(self):
        """Tell whether it owns the actor within a moment."""
        with anyio.move_on_after(MOMENT_S):
            await until(lambda: self.owns)
        return self.owns

    def put(self, wanted):
        """Let the supernode place the actor."""
        self.table.change(SwapPlace("tide", self.table.find("tide"), wanted))


@contextlib.asynccontextmanager
async def shell_of(kind, folder):
    sent: list[Envelope] = []
    async with ActorSystem(HERE, CODEC, sent.append) as system:
        await system.spawn(Places, placement.PATH)
        shell = Shell(system, sent, kind, folder)
        await shell.start()
        yield shell


async def it_is_removed_and_the_roster_changes(shell):
    """Nothing begins it by itself."""
    shell.host()
    await until(lambda: shell.owns)
    await shell.remove()
    shell.system.announce(RosterInForce(1, 2, (HERE,), ""))
    return await shell.begun()


async def it_was_removed_elsewhere_and_a_program_says_host_once_more(shell):
    shell.put(Placed(1, THERE))
    shell.host()
    await until(lambda: "tide" in shell.system.cell(HOSTING).actor.hosting.tombstones)
    shell.table.change(RemovePlace("tide", Placed(1, THERE)))
    shell.host()
    return not await shell.begun()


async def its_removal_fails_and_the_shell_begins_anew(shell):
    """The supervisor starts another one, which hosts what the node was told to."""
    shell.put(Placed(1, THERE))
    shell.host()
    ended = await shell.remove()
    assert ended.why
    await shell.system.stop(shell.ref)
    shell.table.change(RemovePlace("tide", Placed(1, THERE)))
    await shell.start()
    return not await shell.begun()


async def an_actor_is_offered_to_a_node_that_is_drained(shell):
    shell.repertoire.learn(Tide)
    shell.system.announce(DrainWanted(True))
    state = b"state"
    places = Placed(3, THERE), Placed(4, HERE)
    offer = OfferState("tide", 1, "Tide", *places, Position(), digest_of(state), 1, state)
    header = Header(VERSION, Kind.TELL, THERE, HOSTING, HERE, HOSTING)
    shell.system.deliver(Envelope(header, CODEC.encode(offer)), Standing.MEMBER)
    with anyio.move_on_after(MOMENT_S):
        await until(lambda: shell.sent)
    return not [each for each in shell.sent if isinstance(CODEC.decode(each.body), StateDeclined)]


async def two_order_its_removal(shell):
    shell.host()
    await until(lambda: shell.owns)
    answers = []

    async def order():
        with contextlib.suppress(AskFailed), anyio.move_on_after(MOMENT_S * 3):
            answers.append(await shell.remove())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(order)
        tasks.start_soon(order)
    return len(answers) < 2


class BeginsItAgainByItself(HostingActor):
    """What was removed stays in the repertoire."""

    def _removed(self, actor, why):
        hosted = dict(self._repertoire.hosted)
        super()._removed(actor, why)
        self._repertoire.hosted.update(hosted)


class SaysItOnce(HostingActor):
    """What the machine was told once it is not told again, whatever became of it."""

    async def receive(self, delivery):
        if isinstance(delivery.message, HostActor):
            self._find_places()
            return None
        return await super().receive(delivery)


class ForgetsWhatStays(HostingActor):
    """A removal that failed counts like one that did not."""

    def _removed(self, actor, why):
        super()._removed(actor, why)
        self._repertoire.hosted.pop(actor, None)


class TakesOffersWhileDrained(HostingActor):
    def input_of(self, delivery):
        event = super(HostingActor, self).input_of(delivery)
        return event if isinstance(event, Received) else super().input_of(delivery)


class AnswersWhoAskedLast(HostingActor):
    def _remove(self, wanted, asked):
        super()._remove(wanted, asked)
        del self._removing[wanted.actor][:-1]


NEMESES = {
    BeginsItAgainByItself: it_is_removed_and_the_roster_changes,
    SaysItOnce: it_was_removed_elsewhere_and_a_program_says_host_once_more,
    ForgetsWhatStays: its_removal_fails_and_the_shell_begins_anew,
    TakesOffersWhileDrained: an_actor_is_offered_to_a_node_that_is_drained,
    AnswersWhoAskedLast: two_order_its_removal,
}


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
async def test_the_story_of_a_rule_kills_its_mutant_and_never_the_real_shell(mutant, tmp_path):
    story = NEMESES[mutant]
    async with shell_of(HostingActor, tmp_path / "real") as shell:
        assert not await story(shell), f"the real shell does wrong when {story.__name__.replace('_', ' ')}"
    async with shell_of(mutant, tmp_path / "mutant") as shell:
        assert await story(shell), f"{mutant.__name__} is not noticed"
