"""Removing an actor of the site: what goes wrong on the way is tried again as long as there is time."""

import pytest

from atoll.actors.hand_over.messages import RemovalWanted
from atoll.actors.hand_over.repertoire import Repertoire
from atoll.actors.hand_over.site_actors import SiteActors
from atoll.actors.placement.messages import FindPlace, Placed, PlaceFound, PlaceSwapped, RemovePlace
from atoll.actors.router.messages import Reach
from atoll.actors.runtime import AskTimedOut, AskUnreachable
from atoll.transport.identity import NodeId

pytestmark = pytest.mark.anyio
HERE, GONE = NodeId(b"h" * 32), NodeId(b"g" * 32)
PLACED = Placed(3, GONE)


class System:
    """Answers as the placement of this node would, when it does; the host says nothing."""

    node_id = HERE

    def __init__(self, *silent):
        self.silent = list(silent)
        """Which questions of a place get no answer, counted from 1."""
        self.questions = 0
        self.removed = []

    async def ask(self, _target, message, **_how):
        match message:
            case FindPlace(name):
                self.questions += 1
                if self.questions in self.silent:
                    raise AskTimedOut("the placement is busy")
                return PlaceFound(name, PLACED, supernode=HERE, founded=3)
            case RemovePlace(name):
                self.removed.append(name)
                return PlaceSwapped(name, True)
            case Reach() | RemovalWanted():
                raise AskUnreachable("it is switched off")
        raise AssertionError(message)

    def tell(self, *_message):
        pass


async def test_a_removal_by_force_outlives_a_placement_that_gives_no_answer_for_a_moment():
    system = System(2)
    assert await SiteActors(system, Repertoire()).remove("ledger", 5.0, force=True) == 0
    assert system.removed == ["ledger"]
