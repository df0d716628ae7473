"""Cluster specs: what ships is good, and what is wrong is said with its place."""

import re
import tomllib
from pathlib import Path

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.cluster_specs import (
    Materials,
    NodeConfig,
    RelayConfig,
    Seat,
    SpecInvalid,
    plan,
    read_config,
    read_spec,
    shipped_specs,
)
from atoll.cluster_specs.config import SEEDS_MAX
from atoll.cluster_specs.node_address import NodeAddress
from atoll.cluster_specs.reading import as_struct, parse_toml, to_toml
from atoll.cluster_specs.spec import parse_spec
from atoll.transport.keys import NodeKey

MINIMAL = 'name = "x"\n[[site]]\nname = "home"\n[[site.node]]\nname = "tv"\n'


@pytest.mark.parametrize("name", shipped_specs())
def test_every_spec_that_ships_is_good(name):
    assert read_spec(name).name == name


def test_two_sites_is_what_the_demo_needs():
    spec = read_spec("two-sites")
    assert [len(site.node) for site in spec.site] == [3, 3]
    assert [len(site.voters) for site in spec.site] == [3, 3]
    assert len(spec.relay) == 2
    assert [check.call.by for check in spec.check] == ["sep", "bep"]
    assert [fault.kill for fault in spec.fault] == ["supernode of home", "relay in use by home"]


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
        ("", "the key 'name' is missing"),
        ("name = ", "not TOML"),
        (
            MINIMAL + 'colour = "red"\n',
            "site[0].node[0]: there is no key 'colour' here; there are count, forward, memory_mb, name, power",
        ),
        (MINIMAL + 'power = "steam"\n', "site[0].node[0].power: must be one of battery, mains; this is 'steam'"),
        (MINIMAL + "count = 0\n", "site[0].node[0].count"),
        (MINIMAL.replace("tv", "TV set"), "site[0].node[0].name: a name has 1 to 32 of a-z, 0-9 and -"),
        (MINIMAL.replace('name = "home"', 'name = "home"\nnat = "double"'), "site[0].nat"),
        (MINIMAL.replace('name = "home"', 'name = "home"\nsecret = "abc"'), "site[0].secret"),
        (MINIMAL + '[[site.node]]\nname = "tv"\n', "two nodes are called 'tv'"),
        (MINIMAL + '[[cloud]]\nname = "home"\n', "are called 'home'"),
        (MINIMAL + '[[relay]]\nname = "r"\n', "relays need a cloud"),
        (MINIMAL + '[[cloud]]\nname = "a"\n[[cloud]]\nname = "b"\n', "one cloud process"),
        (
            MINIMAL + '[[check]]\ncall = { from = "home/tv", service = "echo@home/tv" }\n',
            "check[0].call.service: home/tv has no service 'echo'",
        ),
        (
            MINIMAL + '[[check]]\ncall = { from = "home/tv", service = "echo@home/radio" }\n',
            "check[0].call.service: no node 'home/radio'; there are home/tv",
        ),
        (
            MINIMAL + '[[check]]\ncall = { from = "tv", service = "echo@home/tv" }\n',
            "check[0].call.from: no node or site 'tv'",
        ),
        (
            MINIMAL
            + 'services = ["echo"]\n[[check]]\ncall = { from = "home/tv", service = "echo@home/tv", path = "x" }\n',
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


# Configs of single processes


def config(tmp_path, text, kind=NodeConfig, **sources):
    file = tmp_path / "atoll.toml"
    file.write_text(text)
    return read_config(kind, file, environment=sources.pop("environment", {}), **sources)


def test_a_node_needs_no_config_at_all():
    settled = read_config(NodeConfig, environment={})
    assert settled.config.gateway.tcp_port == 8083
    assert settled.config.site.secret.generated
    assert settled.origins == {}


def test_flags_beat_the_environment_which_beats_the_file(tmp_path):
    settled = config(
        tmp_path,
        'name = "tv"\nlog_level = "debug"\n[gateway]\nport = 1\nhost = "::1"\n',
        environment={"ATOLL_GATEWAY_PORT": "2", "ATOLL_LOG_LEVEL": "error", "HOME": "/", "ATOLL_API_KEY": "x"},
        flags={"gateway.port": "-1"},
    )
    assert settled.config.gateway.tcp_port is None
    assert settled.config.log_level == "error"
    origins = {path: origin.rpartition("/")[2] for path, _, origin in settled.lines()}
    assert origins["gateway.port"] == "flag"
    assert origins["log_level"] == "ATOLL_LOG_LEVEL"
    assert origins["gateway.host"] == origins["name"] == "atoll.toml"
    assert origins["links.port"] == "default"


def test_lists_and_booleans_come_from_the_environment_too():
    found = read_config(
        NodeConfig, environment={"ATOLL_BEACON_INTERFACES": "eth0, wlan0", "ATOLL_SITE_OPEN": "true"}
    ).config
    assert found.beacon.interfaces == ("eth0", "wlan0")
    assert found.site.open


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('colour = "red"', "there is no key 'colour' here; there are beacon"),
        ("[gateway]\nport = 70000", "gateway.port: Expected `int` <= 65535"),
        ("[gateway]\nport = true", "gateway.port: Expected `int`, got `bool`"),
        ('[site]\nsecret = "abc"', "site.secret: a secret is 64 hexadecimal digits"),
        ("[site]\nsecret = 7", "site.secret: a text is expected, this is 7"),
        ('[site]\nvoters = ["abc"]', "site.voters[0]: 'abc' is not a node id"),
        ('[facts]\npower = "steam"', "facts.power: must be one of battery, mains; this is 'steam'"),
        ('log_level = "loud"', "log_level: must be one of debug"),
        ("[election]\nlease_s = 0", "election.lease_s"),
    ],
)
def test_what_is_wrong_in_a_config_is_named_with_file_and_place(text, place, tmp_path):
    with pytest.raises(SpecInvalid) as caught:
        config(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "atoll.toml"))
    assert place in str(caught.value)


def test_a_variable_that_is_no_setting_is_refused():
    with pytest.raises(SpecInvalid, match="ATOLL_GATWAY_PORT: there is no such setting"):
        read_config(NodeConfig, environment={"ATOLL_GATWAY_PORT": "1"})


@pytest.mark.parametrize(
    ("environment", "flags", "said"),
    [
        ({"ATOLL_GATEWAY_PORT": "many"}, {}, "ATOLL_GATEWAY_PORT: 'many' is neither a number"),
        ({"ATOLL_GATEWAY_PORT": "70000"}, {}, "ATOLL_GATEWAY_PORT: gateway.port: Expected"),
        ({}, {"gateway.prt": "1"}, "--set gateway.prt: there is no such setting; there are beacon.enabled"),
    ],
)
def test_a_wrong_value_is_named_with_its_source(environment, flags, said):
    with pytest.raises(SpecInvalid) as caught:
        read_config(NodeConfig, environment=environment, flags=flags)
    assert said in str(caught.value)


def test_a_relay_without_a_cloud_is_refused():
    with pytest.raises(SpecInvalid, match="the key 'cloud' is missing"):
        read_config(RelayConfig, environment={})


def test_secrets_are_shown_nowhere():
    secret = "ab" * 32
    settled = read_config(NodeConfig, environment={"ATOLL_SITE_SECRET": secret})
    assert bytes(settled.config.site.secret).hex() == secret
    assert secret not in f"{settled.config!r} {list(settled.lines())}"


# Plans


def planned(name="two-sites"):
    spec = read_spec(name)
    materials = Materials.generate(spec)
    seats = {process: Seat(Path("/x") / process, host=f"h-{process}") for process in spec.process_names()}
    return spec, materials, {process.name: process for process in plan(spec, materials, seats)}


def test_a_plan_has_every_process_once_and_pins_the_cloud():
    spec, materials, processes = planned()
    assert list(processes) == spec.process_names()
    cloud = materials.keys["cloud"].node_id
    assert {processes[each].config.cloud.id for each in ["relay-1", "home/tv", "office/desk"]} == {cloud}
    assert processes["home/tv"].config.cloud.host == "h-cloud"
    assert processes["relay-2"].config.host == "h-relay-2"


def test_a_plan_writes_down_the_voters_and_one_secret_per_site():
    _, materials, processes = planned()
    home = [processes[f"home/{name}"].config.site for name in ("tv", "phone", "box")]
    assert home[0] == home[1] == home[2]
    assert home[0].voters == tuple(materials.keys[f"home/{name}"].node_id for name in ("tv", "phone", "box"))
    assert home[0].secret != processes["office/desk"].config.site.secret
    assert len(home[0].secret) == 32


def test_each_process_is_expected_by_the_cloud_under_its_own_secret():
    _, _, processes = planned()
    enrolments = {f"{each.site}/{each.name}".lstrip("/"): each for each in processes["cloud"].config.enrolments}
    assert set(enrolments) == set(processes) - {"cloud"}
    assert all(processes[name].config.cloud.enrolment == each.secret for name, each in enrolments.items())
    assert len({each.secret for each in enrolments.values()}) == len(enrolments)


def test_a_site_without_a_cloud_is_planned_too():
    _, _, processes = planned("lan-3")
    assert list(processes) == ["lan/one", "lan/two", "lan/three"]
    assert all(each.config.cloud is None for each in processes.values())


def test_two_hundred_nodes_have_seven_voters():
    _, _, processes = planned("campus-200")
    assert len(processes) == 200
    assert len(processes["campus/desk-1"].config.site.voters) == 7


def test_what_a_plan_writes_is_what_a_process_reads(tmp_path):
    spec = read_spec("two-sites")
    seats = {name: Seat(tmp_path / name) for name in spec.process_names()}
    for process in plan(spec, Materials.generate(spec), seats):
        path = process.write(tmp_path / process.name)
        found = read_config(type(process.config), path, environment={}).config
        assert found == process.config
        assert process.key == NodeKey.load_or_create(found.key_file)
        assert path.stat().st_mode & 0o077 == 0


PLAIN = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(st.text()) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=examples(30))
@given(st.dictionaries(st.text(), PLAIN | st.lists(st.dictionaries(st.text(), PLAIN), min_size=1, max_size=3)))
def test_toml_that_is_written_reads_the_same(plain):
    assert tomllib.loads(to_toml(plain)) == plain


# Seeds

SEED = NodeKey(bytes(32)).node_id


@pytest.mark.parametrize(
    ("place", "host"),
    [
        ("192.0.2.7:8085", "192.0.2.7"),
        ("[2001:db8::7]:8085", "2001:db8::7"),
        ("[fe80::1%eth0]:8085", "fe80::1%eth0"),
        ("tv.example.:8085", "tv.example."),
        ("tv:8085", "tv"),
    ],
)
def test_a_seed_is_a_node_and_an_address(tmp_path, place, host):
    text = f'[discovery]\nseeds = ["{SEED}@{place}"]\n'
    (seed,) = config(tmp_path, text).config.discovery.seeds
    assert (seed.node, seed.host, seed.port) == (SEED, host, 8085)
    assert NodeAddress.parse(str(seed)) == seed
    settled = config(tmp_path, "", environment={"ATOLL_DISCOVERY_SEEDS": f"{SEED}@{place}, {SEED}@192.0.2.9:1"})
    assert settled.config.discovery.seeds == (seed, NodeAddress(SEED, "192.0.2.9", 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("192.0.2.7:8085", "names no node: write NODEID@host:port"),
        ("abc@192.0.2.7:8085", "a node id"),
        (f"{SEED}@192.0.2.7", "has no port"),
        (f"{SEED}@192.0.2.7:0", "'0' is no port; ports are 1 to 65535"),
        (f"{SEED}@192.0.2.7:65536", "'65536' is no port"),
        (f"{SEED}@192.0.2.7:http", "'http' is no port"),
        (f"{SEED}@192.0.2.700:8085", "'192.0.2.700' is no host"),
        (f"{SEED}@2001:db8::7:8085", "is no host: write NODEID@host:port"),
        (f"{SEED}@[192.0.2.7]:8085", "is no host"),
        (f"{SEED}@tv tv:8085", "is no host"),
        (f"{SEED}@:8085", "'' is no host"),
        (f"{SEED}@{'x' * 500}:8085", "characters is none"),
    ],
)
def test_each_malformed_seed_is_told_with_its_place_and_what_would_be_right(tmp_path, text, words):
    with pytest.raises(SpecInvalid) as caught:
        config(tmp_path, f'[discovery]\nseeds = ["{SEED}@tv:1", "{text}"]\n')
    assert "discovery.seeds[1]: " in str(caught.value)
    assert words in str(caught.value)


def test_seeds_are_limited(tmp_path):
    seeds = ", ".join(f'"{SEED}@tv:{port}"' for port in range(1, SEEDS_MAX + 2))
    with pytest.raises(SpecInvalid, match=r"discovery\.seeds"):
        config(tmp_path, f"[discovery]\nseeds = [{seeds}]\n")


def test_nodes_of_a_site_without_beacons_are_told_where_the_others_are():
    spec = parse_spec(MINIMAL.replace('name = "home"', 'name = "home"\nbeacons = false') + "count = 3\n", "x.toml")
    materials = Materials.generate(spec)
    seats = {name: Seat(Path("/x"), host="192.0.2.1", ports={"links": 4000}) for name in spec.process_names()}
    for process in plan(spec, materials, seats):
        others = {key.node_id for name, key in materials.keys.items() if name != process.name}
        assert {each.node for each in process.config.discovery.seeds} == others
        assert {(each.host, each.port) for each in process.config.discovery.seeds} == {("192.0.2.1", 4000)}
        assert not process.config.beacon.enabled
        assert as_struct(parse_toml(process.toml, "x"), NodeConfig, "x") == process.config


JOINED = """
name = "x"
[[site]]
name = "home"
[[site.node]]
name = "tv"
[[site]]
name = "office"
[[site.node]]
name = "desk"
pubsub = { subscribe = ["a/#"], publish = ["b"] }
[[join]]
from = "home/tv"
node = "office/desk"
topics = ["a/#"]
direction = "both"
"""


def test_a_join_of_a_spec_is_in_the_config_of_the_node_that_keeps_it(tmp_path):
    spec = parse_spec(JOINED, "x")
    materials = Materials.generate(spec)
    planned = {
        each.name: each.config
        for each in plan(spec, materials, {n: Seat(tmp_path / str(i)) for i, n in enumerate(spec.process_names())})
    }
    (join,) = planned["home/tv"].join
    assert (join.node, join.topics, join.direction) == (materials.keys["office/desk"].node_id, ("a/#",), "both")
    assert planned["office/desk"].join == ()
    assert planned["office/desk"].pubsub.subscribe == ("a/#",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('node = "office/desk"', 'node = "office/tv"'), "join[0].node: no node 'office/tv'"),
        (('from = "home/tv"', 'from = "home"'), "join[0].from: no node 'home'"),
        (('node = "office/desk"', 'node = "home/tv"'), "of the same site"),
        (('topics = ["a/#"]', 'topics = ["a/#/b"]'), "# is the last level"),
        (('topics = ["a/#"]', "topics = []"), "join[0].topics"),
        (('direction = "both"', 'direction = "up"'), "must be one of"),
        (('publish = ["b"]', 'publish = ["b+"]'), "stand alone"),
    ],
)
def test_a_join_that_cannot_be_is_refused_with_its_place(change, said):
    with pytest.raises(SpecInvalid, match=re.escape(said)):
        parse_spec(JOINED.replace(*change), "x")
