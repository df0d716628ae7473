"""What every link transport keeps, on every loop: who is what, and who is refused."""

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from link_worlds import SITE

from atoll.transport.admission import CloudAdmission, SiteAdmission
from atoll.transport.base import (
    DialFailed,
    Standing,
)
from atoll.transport.errors import Refused, Unreachable, UsageError
from atoll.transport.keys import NodeKey, SiteKeys

pytestmark = pytest.mark.anyio


async def test_another_sites_secret_makes_a_neighbour_never_a_member(world):
    async with world:
        first, stranger = await world.open(), await world.open(site=SiteKeys.generate())
        here, there = await world.join(first, stranger)
        assert here.standing is there.standing is Standing.NEIGHBOUR


def enrol(_peer, credential):
    """A cloud's rules: one secret enrols, nothing shown is a stranger, anything else is refused."""
    if credential not in {b"", b"the right secret"}:
        raise Refused("this enrolment secret is not known here: ask for a new one")
    return Standing.GRANTED if credential else Standing.NEIGHBOUR


async def test_a_cloud_enrols_who_shows_its_secret(world):
    async with world:
        cloud = await world.open(admission=CloudAdmission(enrol))
        key = NodeKey.generate()
        rules = SiteAdmission(keys=SITE, own=key.node_id, clouds={cloud.id}, enrolment=b"the right secret")
        node = await world.open(key=key, admission=rules)
        here, there = await world.join(node, cloud)
        assert (here.standing, there.standing) == (Standing.CLOUD, Standing.GRANTED)


async def test_who_is_refused_hears_why_and_never_becomes_a_link(world):
    async with world:
        cloud = await world.open(admission=CloudAdmission(enrol))
        key = NodeKey.generate()
        rules = SiteAdmission(keys=SITE, own=key.node_id, clouds={cloud.id}, enrolment=b"a wrong secret")
        node = await world.open(key=key, admission=rules)
        node.transport.dial(cloud.id, *await world.way(node, cloud))
        failed = await node.next(DialFailed)
        assert failed.peer == cloud.id
        assert "the other end refused: this enrolment secret is not known here: ask for a new one" in failed.reason
        assert "a wrong secret" not in failed.reason
        counted = cloud.transport.statistics()
        assert (counted["refused_peers"], counted["links"], counted.get("links_up", 0)) == (1, 0, 0)
        with pytest.raises(Unreachable):
            node.transport.send(cloud.id, b"")
        # The one who refused is as well as before, and so is its memory: the right secret is welcome from the same key.
        await node.close()
        rules = SiteAdmission(keys=SITE, own=key.node_id, clouds={cloud.id}, enrolment=b"the right secret")
        _, there = await world.join(await world.open(key=key, admission=rules), cloud)
        assert there.standing is Standing.GRANTED


async def test_who_dials_may_refuse_as_well(world):
    async with world:
        picky = await world.open(admission=CloudAdmission(enrol))
        other = await world.open()
        picky.transport.dial(other.id, *await world.way(picky, other))
        failed = await picky.next(DialFailed)
        assert "refused here: this enrolment secret" in failed.reason
        assert other.transport.statistics()["links"] == 0
        await world.join(other, await world.open())


async def test_a_credential_too_long_is_our_own_fault_and_ends_the_transport(world):
    class Boastful:
        def credential_for(self, _peer):
            return bytes(5000)

        def judge(self, _peer, _credential):
            return Standing.MEMBER

    with pytest.raises(BaseExceptionGroup) as told:
        await dial_with(world, Boastful())
    assert told.group_contains(UsageError, match="at most 4096 bytes, this one has 5000")


async def dial_with(world, admission):
    async with world:
        node, other = await world.open(admission=admission), await world.open()
        node.transport.dial(other.id, *await world.way(node, other))
        await anyio.sleep(5)


@pytest.mark.parametrize("label", ["x" * 65, "two\nlines", "\x1b[31m"])
async def test_a_label_that_cannot_be_shown_is_refused(world, label):
    async with world:
        with pytest.raises(UsageError, match="64 printable characters"):
            await world.open(label=label)
