"""The shell of machines: inputs, effects in order, timers of the lease clock, records that survive."""

import shutil

import anyio
import msgspec
import pytest
from waiting import until

from atoll.actors.runtime import (
    MESSAGES,
    ActorSystem,
    Address,
    AskNotUnderstood,
    AskTimedOut,
    Journal,
    KeyedJournal,
    MachineActor,
    RestartsExhausted,
    StartFailed,
)
from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Disarm,
    Persist,
    Received,
    Reply,
    Rewrite,
    Send,
    TimerFired,
    Told,
)
from atoll.actors.runtime.mailbox import Mailbox
from atoll.transport.base import Standing
from atoll.transport.codec import Codec, Message
from atoll.transport.errors import Congested
from atoll.transport.identity import NodeId

pytestmark = pytest.mark.anyio

HERE, THERE = NodeId(b"h" * 32), NodeId(b"t" * 32)


class Do(Message, frozen=True, array_like=True, tag="test.do"):
    what: str


class Done(Message, frozen=True, array_like=True, tag="test.done"):
    what: str


class Kept(msgspec.Struct, frozen=True, array_like=True, tag="kept"):
    number: int


class Script:
    """A machine that does what the test says: a function from an event to effects."""

    def __init__(self, react, start=lambda restored: []):
        self.react = react
        self.begin = start
        self.events = []
        self.checks = 0

    def start(self, restored, now):
        return self.begin(list(restored))

    def handle(self, event, now):
        self.events.append(event)
        return self.react(event)

    def check(self):
        self.checks += 1


class ManualClock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


CODEC = Codec([Do, Done, *MESSAGES])


def joined(**more):
    systems = {}

    def carry(envelope):
        systems[envelope.header.target_node].deliver(envelope, Standing.MEMBER)

    for node in (HERE, THERE):
        systems[node] = ActorSystem(node, CODEC, carry, **more)
    return systems[HERE], systems[THERE]


async def test_a_send_reaches_the_machine_of_the_same_path_on_the_other_node():
    here, there = joined()
    ours = Script(lambda event: [Send(THERE, Do("it"))] if event == Told("go") else [])
    theirs = Script(lambda event: [Send(event.sender, Done("it")), Send(HERE, Done("other"), "other")])
    other = Script(lambda event: [])
    async with here, there:
        ref = await here.spawn(lambda: MachineActor(ours), "machine")
        await here.spawn(lambda: MachineActor(other), "other")
        await there.spawn(lambda: MachineActor(theirs, check=True), "machine")
        ref.tell("go")
        await until(lambda: len(ours.events) == 2 and other.events)
        assert theirs.events == [Received(HERE, Do("it"))]
        assert ours.events == [Told("go"), Received(THERE, Done("it"))]
        assert other.events == [Received(THERE, Done("other"), "machine")]
        # Once after `start`, once after each input.
        assert theirs.checks == 2
        assert ours.checks == 0


async def test_an_ask_is_answered_by_a_reply_now_or_later():
    def react(event):
        if isinstance(event, Received):
            held.append(event.reply_to)
            return [Arm("answer", 0.001)] if event.message.what == "later" else [Reply(event.reply_to, Done("now"))]
        return [Reply(held[-1], Done("later"))]

    held = []
    here, there = joined()
    async with here, there:
        await there.spawn(lambda: MachineActor(Script(react)), "machine")
        ref = here.ref(Address(THERE, "machine"))
        local = there.find("machine")
        for each in (ref, local):
            assert await each.ask(Do("now")) == Done("now")
            assert await each.ask(Do("later")) == Done("later")
        with pytest.raises(AskNotUnderstood, match="answers wire messages"):
            await local.ask("what?")


async def test_a_machine_that_never_replies_lets_the_ask_time_out():
    here, _ = joined()
    async with here:
        ref = await here.spawn(lambda: MachineActor(Script(lambda event: [])), "machine")
        with pytest.raises(AskTimedOut):
            await ref.ask(Do("it"), timeout_s=0.01)


async def test_facts_go_in_as_told_and_come_out_announced():
    here, _ = joined()
    source = Script(lambda event: [Announce(Kept(5))])
    sink = Script(lambda event: [])
    async with here:
        ref = await here.spawn(lambda: MachineActor(source), "source")
        here.subscribe(Kept, await here.spawn(lambda: MachineActor(sink), "sink"))
        ref.tell(Told("go"))
        await until(lambda: sink.events)
        assert source.events == [Told("go")]
        assert sink.events == [Told(Kept(5))]


async def test_timers_fire_once_and_disarmed_or_moved_ones_do_not():
    def react(event):
        if event == Told("arm"):
            return [Arm("a", 0.01), Arm("b", 0.01), Arm("c", 0.01), Disarm("b"), Arm("c", 0.02), Disarm("never")]
        return []

    machine = Script(react)
    here, _ = joined()
    async with here:
        ref = await here.spawn(lambda: MachineActor(machine), "machine")
        ref.tell("arm")
        await until(lambda: TimerFired("c") in machine.events)
        assert machine.events == [Told("arm"), TimerFired("a"), TimerFired("c")]


async def test_a_timer_disarmed_while_it_waits_in_the_mailbox_is_dropped():
    clock = ManualClock()
    machine = Script(lambda event: [Disarm("t"), Arm("u", 1)] if event == Told("disarm") else [Arm("t", 1)])
    here, _ = joined(clock=clock)
    async with here:
        ref = await here.spawn(lambda: MachineActor(machine), "machine")
        ref.tell("arm")
        await until(lambda: machine.events)
        # The disarming stands before the timer in the mailbox.
        ref.tell("disarm")
        clock.now += 10
        here.alarms._ring_due()
        await until(lambda: here.statistics()["mailboxes"]["machine"]["handled"] == 3)
        assert machine.events == [Told("arm"), Told("disarm")]
        assert "restarts" not in here.statistics()


async def test_a_timer_keeps_to_the_lease_clock_when_that_leaps_as_after_a_suspend():
    clock = ManualClock()
    machine = Script(lambda event: [Arm("t", 3600)] if isinstance(event, Told) else [])
    here, _ = joined(clock=clock)
    async with here:
        ref = await here.spawn(lambda: MachineActor(machine), "machine")
        ref.tell("arm")
        await until(lambda: machine.events)
        await anyio.sleep(0.02)
        assert len(machine.events) == 1
        clock.now += 3601
        # The loop's own clock says that an hour is left: only the regular look notices.
        await until(lambda: machine.events[-1] == TimerFired("t"))


async def test_nothing_after_a_persist_happens_when_it_fails_and_the_machine_starts_from_the_records(tmp_path):
    records = []
    sent = []

    def start(restored):
        records.append(restored)
        return []

    def react(event):
        number = event.fact
        return [Persist(Kept(number)), Announce(number)]

    class Failing(Journal):
        def append(self, record):
            if record.number == 2:
                raise OSError("disk full")
            super().append(record)

    class Sink(Script):
        def __init__(self):
            super().__init__(lambda event: sent.append(event.fact) or [])

    journal = Failing(tmp_path / "journal", [Kept])
    here, _ = joined()
    async with here:
        here.subscribe(int, await here.spawn(lambda: MachineActor(Sink()), "sink"))
        ref = await here.spawn(lambda: MachineActor(Script(react, start), journal), "machine")
        for number in (1, 2, 3):
            ref.tell(number)
        await until(lambda: sent == [1, 3])
        assert records == [[], [Kept(1)]]
    assert Journal(tmp_path / "journal", [Kept]).open() == [Kept(1), Kept(3)]


async def test_a_machine_that_persists_without_a_journal_cannot_go_on():
    here, _ = joined(intensity=0)
    with pytest.raises(RestartsExhausted):  # noqa: PT012 - it leaves the block
        async with here:
            ref = await here.spawn(lambda: MachineActor(Script(lambda event: [Persist(Kept(1))])), "machine")
            ref.tell("go")
            with anyio.fail_after(5):
                await anyio.sleep_forever()


async def test_a_machine_that_raises_at_its_start_fails_the_spawn_and_frees_its_journal(tmp_path):
    def start(restored):
        raise ValueError("no roster")

    here, _ = joined()
    journal = Journal(tmp_path / "journal", [Kept])
    async with here:
        with pytest.raises(StartFailed, match="no roster"):
            await here.spawn(lambda: MachineActor(Script(None, start), journal), "machine")
        await here.spawn(lambda: MachineActor(Script(None), journal), "machine")


async def test_what_does_not_fit_on_the_way_is_lost_and_counted():
    here, _ = joined()

    def full(envelope):
        raise Congested("no room")

    machine = Script(lambda event: [Send(THERE, Do("it")), Announce(1)])
    heard = Script(lambda event: [])
    async with here:
        here.outlet = full
        here.subscribe(int, await here.spawn(lambda: MachineActor(heard), "heard"))
        ref = await here.spawn(lambda: MachineActor(machine), "machine")
        ref.tell("go")
        await until(lambda: heard.events)
        assert here.statistics()["congested"] == 1
        assert "restarts" not in here.statistics()


class Entry(msgspec.Struct, frozen=True, array_like=True, tag="entry"):
    key: str
    number: int


async def test_a_rewrite_is_durable_before_what_depends_on_it_is_done(tmp_path):
    seen = []

    def react(event):
        entries = (Entry("a", 1), Entry("a", 2))
        return [Persist(Entry("a", 0)), Rewrite("a", (Entry,), entries), Announce(Done("kept"))]

    class Shell(MachineActor):
        def announce(self, fact):
            other = KeyedJournal(tmp_path / "copy", [Entry])
            shutil.copytree(tmp_path / "kept", tmp_path / "copy")
            seen.extend(other.open())

    async with ActorSystem(HERE, CODEC) as system:
        ref = await system.spawn(lambda: Shell(Script(react), KeyedJournal(tmp_path / "kept", [Entry])), "shell")
        ref.tell(Do("it"))
        await until(lambda: seen)
    assert seen == [Entry("a", 1), Entry("a", 2)]


@pytest.mark.parametrize("kinds", [(), (Kept,)])
async def test_a_rewrite_of_some_types_only_or_without_a_journal_for_it_is_refused(tmp_path, kinds):
    def journal():
        return Journal(tmp_path / "j", [Kept]) if kinds else KeyedJournal(tmp_path / "kept", [Entry])

    def react(event):
        return [Rewrite("a", kinds, ())]

    with pytest.raises(RestartsExhausted) as raised:  # noqa: PT012 - the system fails where it is left
        async with ActorSystem(HERE, CODEC, intensity=0) as system:
            ref = await system.spawn(lambda: MachineActor(Script(react), journal()), "shell")
            ref.tell(Do("it"))
            await anyio.sleep_forever()
    assert "has no journal for that" in str(raised.value.__cause__)


async def test_a_timer_for_which_the_mailbox_has_no_room_rings_when_it_has(monkeypatch):
    here, _ = joined()
    machine = Script(lambda event: [Arm("look", 0.01)] if event == Told("go") else [])
    async with here:
        ref = await here.spawn(lambda: MachineActor(machine), "machine")
        genuine, refused = Mailbox.put_fact, []

        def put_fact(mailbox, item):
            return genuine(mailbox, item) if len(refused) == 2 else bool(refused.append(item))

        monkeypatch.setattr(Mailbox, "put_fact", put_fact)
        ref.tell("go")
        await until(lambda: TimerFired("look") in machine.events)
        assert here.statistics()["timers_late"] == 2
