"""Cluster specs: what ships is good, and what is wrong is said with its place."""

import pytest

from atoll.cluster_specs import SpecInvalid, read_spec, shipped_specs
from atoll.cluster_specs.spec import parse_spec

MINIMAL = 'name = "x"\n[[site]]\nname = "home"\n[[site.node]]\nname = "tv"\n'


@pytest.mark.parametrize("name", shipped_specs())
def test_every_spec_that_ships_is_good(name):
    assert read_spec(name).name == name


def test_two_sites_is_what_the_demo_needs():
    spec = read_spec("two-sites")
    assert [len(site.node) for site in spec.site] == [3, 3]
    assert [len(site.voters) for site in spec.site] == [3, 3]
    assert len(spec.relay) == 2
    assert spec.check[0].call.caller == "home/phone"


def test_a_count_makes_so_many_nodes_and_seven_of_them_vote():
    (site,) = read_spec("campus-200").site
    assert len(site.node) == 200
    assert site.node[0].name == "rack-1"
    assert len(site.voters) == 7


@pytest.mark.parametrize(("nodes", "voters"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (6, 5), (7, 7), (9, 7)])
def test_the_number_of_voters_is_odd_where_it_can_be(nodes, voters):
    spec = parse_spec(MINIMAL + f"count = {nodes}\n", "x.toml")
    assert len(spec.site[0].voters) == voters


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "missing required field `name`"),
        ("name = ", "not TOML"),
        (MINIMAL + 'colour = "red"\n', "site[0].node[0]: Object contains unknown field `colour`"),
        (MINIMAL + 'power = "steam"\n', "site[0].node[0].power: Invalid enum value 'steam'"),
        (MINIMAL + "count = 0\n", "site[0].node[0].count"),
        (MINIMAL.replace("tv", "TV set"), "site[0].node[0].name"),
        (MINIMAL.replace('name = "home"', 'name = "home"\nnat = "double"'), "site[0].nat"),
        (MINIMAL.replace('name = "home"', 'name = "home"\nsecret = "abc"'), "site[0].secret"),
        (MINIMAL + '[[site.node]]\nname = "tv"\n', "two nodes are called 'tv'"),
        (MINIMAL + '[[cloud]]\nname = "home"\n', "are called 'home'"),
        (MINIMAL + '[[relay]]\nname = "r"\n', "relays need a cloud"),
        (MINIMAL + '[[cloud]]\nname = "a"\n[[cloud]]\nname = "b"\n', "one cloud process"),
        (
            MINIMAL + '[[check]]\ncall = { from = "home/tv", service = "echo@home/radio" }\n',
            "check[0].call.service: no node 'home/radio'; there are home/tv",
        ),
        (
            MINIMAL + '[[check]]\ncall = { from = "tv", service = "echo@home/tv" }\n',
            "check[0].call.from: no node 'tv'",
        ),
        (
            MINIMAL + '[[check]]\ncall = { from = "home/tv", service = "e@home/tv", path = "x" }\n',
            "check[0].call.path",
        ),
        (MINIMAL + '[[fault]]\nat_s = 1\nkill = "mars"\n', "fault[0].kill: nothing is called 'mars'"),
        (MINIMAL + '[[fault]]\nat_s = -1\nkill = "home/tv"\n', "fault[0].at_s"),
        ("x = " + "[" * 5000, "not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_place(text, place):
    with pytest.raises(SpecInvalid) as caught:
        parse_spec(text, "x.toml")
    assert str(caught.value).startswith("x.toml: ")
    assert place in str(caught.value)


def test_a_file_that_is_not_there_names_the_specs_that_ship(tmp_path):
    with pytest.raises(SpecInvalid, match=r"No such file.*campus-200, lan-3, two-sites"):
        read_spec(tmp_path / "none.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecInvalid, match="not UTF-8"):
        read_spec(tmp_path / "x.toml")
