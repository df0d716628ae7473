"""What the Router's upkeep keeps in mind, and for how long."""

from conversing_nodes import KEYS

from atoll.actors.router.bearers import LASTS_S_MAX
from atoll.actors.router.conversations import Conversations
from atoll.actors.router.upkeep import Upkeep


def test_bearers_that_no_session_has_used_are_forgotten_when_their_tickets_have_ended():
    now = [1000.0]
    conversations = Conversations(KEYS[0], lambda _peer, _grant: None, lambda _turn: None)
    upkeep = Upkeep(conversations, lambda: now[0], lambda _peer, _order: None)
    for _ in range(1000):
        now[0] += LASTS_S_MAX / 10
        upkeep.ends(object(), now[0] + LASTS_S_MAX)
    assert len(upkeep._ends) <= 10
