"""Which image a name means, out of what members say they hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.container_manager.errors import UsageFault
from atoll.actors.image_exchange.errors import NobodyHasIt, SeveralHaveIt
from atoll.actors.image_exchange.messages import HeldImage
from atoll.actors.image_exchange.offers import CANDIDATES_MAX, choose, split_name
from atoll.transport.identity import NodeId

A, B, C = (NodeId(bytes([number]) * 32) for number in (1, 2, 3))
ONE, TWO = b"1" * 32, b"2" * 32


def held(digest=ONE, client="api", name="echo", version="1.0"):
    return HeldImage(client, name, version, digest, 100)


def test_all_who_hold_the_image_are_named_those_with_their_own_first():
    choice = choose({C: [held()], A: [held(client="")], B: [held(client="me")]}, "echo", "other")
    assert (choice.name, choice.version, choice.digest, choice.holders) == ("echo", "1.0", ONE, (B, C, A))


def test_different_images_of_one_name_are_for_a_person_to_choose_from():
    with pytest.raises(SeveralHaveIt, match="--from NODE") as caught:
        choose({A: [held(ONE)], B: [held(TWO)]}, "echo:1.0", "api")
    assert [each.split()[0] for each in caught.value.candidates] == ["echo:1.0", "echo:1.0"]
    assert A.short in caught.value.candidates[0]


def test_a_version_decides():
    offers = {A: [held(ONE)], B: [held(TWO, version="2.0")]}
    assert choose(offers, "echo:2.0", "api").digest == TWO
    with pytest.raises(SeveralHaveIt):
        choose(offers, "echo", "api")


def test_the_clients_own_come_before_those_of_others():
    assert choose({A: [held(ONE, "me"), held(TWO, "you")]}, "echo", "me").digest == ONE


def test_what_a_member_keeps_as_its_own_comes_before_what_lies_in_a_cache():
    assert choose({A: [held(TWO)], B: [held(ONE, client="")]}, "echo:1.0", "api").digest == TWO
    assert choose({B: [held(ONE, client="")]}, "echo:1.0", "api").holders == (B,)


def test_offers_of_other_names_answer_no_question():
    with pytest.raises(NobodyHasIt, match="cannot find image with name echo"):
        choose({A: [held(name="ecco"), held(name="echo-2")], B: []}, "echo", "api")


@pytest.mark.parametrize("name", ["", ":", "echo:", "../x", "Echo", "a b", "x" * 200, "echo:1:2", "echo:" + "1" * 200])
def test_what_cannot_be_a_name_is_said(name):
    with pytest.raises(UsageFault, match="cannot name an image"):
        split_name(name)


def test_candidates_are_few():
    offers = {NodeId(bytes([number]) * 32): [held(bytes([number]) * 32)] for number in range(30)}
    with pytest.raises(SeveralHaveIt) as caught:
        choose(offers, "echo", "api")
    assert len(caught.value.candidates) == CANDIDATES_MAX


HELD = st.builds(
    held,
    st.sampled_from([ONE, TWO]),
    st.sampled_from(["", "api", "me"]),
    st.sampled_from(["echo", "ecco"]),
    st.sampled_from(["1", "2"]),
)


@given(st.dictionaries(st.sampled_from([A, B, C]), st.lists(HELD, max_size=3)), st.sampled_from(["api", "me", "x"]))
def test_a_choice_is_held_by_those_it_names_and_nothing_depends_on_the_order_of_answers(offers, client):
    def asked(held_by):
        try:
            return choose(held_by, "echo:1", client)
        except (NobodyHasIt, SeveralHaveIt) as error:
            return str(error)

    choice = asked(offers)
    assert asked(dict(reversed(offers.items()))) == choice
    if not isinstance(choice, str):
        assert set(choice.holders) == {
            node for node, each in offers.items() if choice.digest in {x.digest for x in each}
        }
