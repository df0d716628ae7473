"""Forward secrecy: who has recorded whole sessions and gets every static key afterwards opens none of them."""

import os

import pytest
from session_pair import RECORD_BYTES_MAX, accept

from atoll.testing.eavesdropper import Eavesdropper
from atoll.testing.key_thief import Recorded
from atoll.transport.keys import NodeKey
from atoll.transport.records import EVERYWHERE
from atoll.transport.session import Session

SESSIONS = int(os.environ.get("ATOLL_RECORDED_SESSIONS", "30"))
"""More of them are for long runs."""
GRANT = b"a grant that names its holder"


class Tapped:
    """A session between two ends, every byte of which is recorded: handshake, calls, a re-handshake, more calls."""

    def __init__(self):
        self.initiator, self.responder, self.now = NodeKey.generate(), NodeKey.generate(), 0.0
        self.handshake, self.records = [], []
        how = {"record_bytes_max": RECORD_BYTES_MAX, "now": 0.0}
        self.caller = Session.dial(key=self.initiator, peer=self.responder.node_id, grant=GRANT, **how)
        self.callee = Session.answer(key=self.responder, judge=accept, session_id=self.caller.session_id, **how)
        self.ephemerals = {"initiator's": self.caller._opening.handshake._ephemeral}
        self.caller.send(b"early")
        self.pump()
        for self.now in (2.0, 4.0):
            self.caller.send(b"question")
            self.callee.send(b"answer")
            self.callee.begin_rehandshake(self.now)
            self.pump()

    def pump(self):
        while any([self.carry(self.caller, self.callee), self.carry(self.callee, self.caller)]):
            pass

    def carry(self, speaker, hearer):
        sent = speaker.outgoing(self.now)
        for _, record in sent:
            if record[8] == 0xFF:
                self.handshake.append(record)
            else:
                self.records.append(Recorded(speaker is self.caller, 0, record, self.now))
            hearer.receive(record, self.now)
            if speaker is self.caller and record[8:10] == b"\xff\x00":
                self.ephemerals["responder's"] = self.callee._opening.handshake._ephemeral
        return sent


def test_recorded_sessions_and_all_static_keys_open_nothing():
    opened = []
    for _ in range(SESSIONS):
        tapped = Tapped()
        assert (len(tapped.handshake), tapped.caller._keys.sealer.epoch) == (3, 2)
        heard = Eavesdropper(tapped.initiator, tapped.responder).listen(tapped.handshake, tapped.records)
        assert heard.greeting, (
            "he has the right keys: message 1 is sealed for the responder's static one, and says nothing"
        )
        opened += [heard] if heard.records or heard.grant is not None else []
    assert opened == []


@pytest.mark.parametrize("whose", ["initiator's", "responder's"])
def test_with_one_ephemeral_secret_he_opens_the_session_until_its_re_handshake(whose):
    """Or the test above would show nothing."""
    tapped = Tapped()
    listener = Eavesdropper(tapped.initiator, tapped.responder, [tapped.ephemerals[whose]])
    heard = listener.listen(tapped.handshake, tapped.records)
    assert heard.grant == GRANT
    assert heard.records == [each for each in tapped.records if each.tag >> 4 == 0]
    assert 3 < len(heard.records) < len(tapped.records)
    assert {each.data[9] for each in heard.records} == {EVERYWHERE}
