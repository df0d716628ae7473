"""What the gateway says of actors that move, where their placement or host says no."""

import pytest

from atoll.actors.gateway.live_actors import LiveActors
from atoll.actors.gateway.node_views import NodeView
from atoll.actors.gateway.ports import Conflict, UnknownName
from atoll.actors.gateway.replies import problem_of
from atoll.actors.placement.messages import ActorPlace, Placed, PlacesListed
from atoll.transport.errors import Unreachable, UsageError
from atoll.transport.identity import NodeId

pytestmark = pytest.mark.anyio

HOST = NodeId(bytes(32))


class Site:
    """A site whose table has a tide; what is asked about it ends in `error`."""

    def __init__(self, error):
        self.error = error

    async def places(self):
        return PlacesListed((ActorPlace("tide", Placed(2, HOST)),))

    async def remove(self, *_arguments, **_named):
        raise self.error

    async def move(self, *_arguments):
        raise self.error


def at(error):
    async def find(_name):
        told = {"name": "tv", "site": "home", "standing": "member", "self": True, "supernode": True}
        return NodeView(id=str(HOST), short=HOST.short, **told)

    return LiveActors(Site(error), names=dict, find=find)


@pytest.mark.parametrize("force", [False, True])
async def test_what_to_do_about_a_removal_is_said_in_the_words_of_http(force):
    with pytest.raises(Conflict, match="is not known") as refused:
        await at(Unreachable("whether tide is removed is not known after 10 s")).remove("tide", force=force, founded=0)
    remedy = problem_of(refused.value).remedy
    assert ("?force=true" in remedy) is not force
    assert "--" not in remedy


async def test_an_actor_that_was_removed_since_it_was_listed_is_unknown_and_no_mistake_of_the_node():
    live = at(UsageError("no migratable actor of this site is called tide"))
    for ask in (live.remove("tide", force=False, founded=0), live.move("tide", "tv", 1.0)):
        with pytest.raises(UnknownName, match="called tide") as refused:
            await ask
        problem = problem_of(refused.value)
        assert (problem.name, "atoll actor list" in problem.remedy) == ("unknown-name", True)
