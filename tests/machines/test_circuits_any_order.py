"""The SEP switch: whatever comes in whatever order, its rules hold and nothing is left of who is gone."""

from circuit_switch import NOW, OK_TICKET, ROLES, Switch
from examples import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from atoll.actors.tunnel_relay import frames
from atoll.actors.tunnel_relay.circuit_events import Cut, Deliver, Elapsed
from atoll.actors.tunnel_relay.tickets import Role
from atoll.transport.arrivals import Gone

NAMES = [b"a", b"b", b"c", b"d"]
LABELS = [bytes([number]) * 16 for number in range(3)]


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order: nothing without a ticket is passed on, and who is cut is silent afterwards."""

    def __init__(self):
        super().__init__()
        self.switch = Switch(
            connections_max=3, new_max=2, registrations_max=2, circuits_max=4, circuits_per_connection_max=2
        )
        self.roles = {name: set() for name in NAMES}
        self.registered = 0

    def carry_out(self, effects):
        cut = set()
        for effect in effects:
            assert effect.connection not in cut, "something follows a cut"
            if isinstance(effect, Cut):
                cut.add(effect.connection)
                self.roles[effect.connection] = set()
                continue
            event = frames.read_event(effect.frame)
            if isinstance(event, frames.Inbound):
                assert Role.REGISTER in self.roles[effect.connection]
                assert Role.REACH in self.roles[effect.sender]
            if isinstance(event, frames.Returned):
                assert Role.REACH in self.roles[effect.connection]
                assert Role.REGISTER in self.roles[effect.sender]

    @rule(name=st.sampled_from(NAMES), role=st.sampled_from(ROLES), life_s=st.integers(1, 30))
    def show(self, name, role, life_s):
        life_s += int(self.switch.now - NOW)
        effects = self.switch.show(name, role, life_s=life_s, quota=500)
        if Deliver(name, OK_TICKET) in effects:
            self.roles[name].add(role)
        self.carry_out(effects)

    @rule(name=st.sampled_from(NAMES), labels=st.sets(st.sampled_from(LABELS)))
    def set_labels(self, name, labels):
        self.carry_out(self.switch.say(name, frames.labels_frame(sorted(labels))))

    @rule(name=st.sampled_from(NAMES), label=st.sampled_from(LABELS), again=st.booleans())
    def call(self, name, label, again):
        effects = self.switch.say(name, frames.call_frame(label, b"record"))
        self.carry_out(effects)
        if effects and isinstance(event := frames.read_event(effects[0].frame), frames.Inbound) and again:
            self.carry_out(self.switch.say(effects[0].connection, frames.answer_frame(event.circuit, b"answer")))

    @rule(name=st.sampled_from(NAMES), frame=st.binary(max_size=30))
    def babble(self, name, frame):
        self.carry_out(self.switch.say(name, frame))

    @rule(name=st.sampled_from(NAMES))
    def leave(self, name):
        self.roles[name] = set()
        self.carry_out(self.switch.handle(Gone(name)))

    @rule(seconds=st.integers(0, 15))
    def wait(self, seconds):
        self.switch.now += seconds
        self.carry_out(self.switch.handle(Elapsed()))

    @invariant()
    def nothing_is_held_for_who_is_gone(self):
        self.switch.machine.check()
        if not self.switch.counted("connections"):
            assert self.switch.counted("labels") == self.switch.counted("circuits") == 0


AnyOrder.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=40)


TestAnyOrder = AnyOrder.TestCase
