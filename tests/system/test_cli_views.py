"""Commands that look: status, nodes, settings."""

import json
import re

import pytest
from cli_probe import alone, failed, fine
from small_node import PHONE, TV

from atoll.actors.gateway.node_views import BepView, PathView, RouteView, SepView, StatusView, StayedView
from atoll.actors.gateway.site_views import RosterView
from atoll.actors.gateway.views import NodeRef

DOOR = "WebSocket on port 443: port 8087 could not be reached"


def test_status_says_health_first_and_why(gate):
    lines = fine(gate("status")).splitlines()
    assert lines[0] == "healthy"
    assert lines[3] == "supernode  this node, epoch 3, confirmed: mains power"
    assert lines[4:7] == ["", "Duties", "DUTY   NODE  WHY"]
    assert lines[7] == "proxy  tv    supernode"
    assert gate.json("status")["supernode"]["why"] == "mains power"


def test_status_shows_problems_ways_seps_and_beps(gate):
    gate.node.told = StatusView(
        software="0.1.0",
        node=NodeRef(id=TV, short=TV[:10], name="tv"),
        site={"id": "00", "mode": "provisional", "members": 1},
        roster=RosterView(version=4, voters=[NodeRef(id=TV, short=TV[:10], name="tv")]),
        routes=[
            RouteView(
                peer=PHONE,
                name="phone",
                kind="sep",
                why="both behind NAT",
                latency_ms=4.25,
                paths=[
                    PathView(relay="relay-1", kind="sep", condition="usable", latency_ms=4.25, in_use=True),
                    PathView(relay="relay-2", kind="bep", condition="silent"),
                    PathView(relay="relay-3", kind="bep", condition="usable", through=DOOR),
                    PathView(relay="direct", kind="direct", condition="usable", latency_ms=0.5),
                ],
                streams=2,
            )
        ],
        seps=[SepView(relay="relay-1", state="up", since_s=200)],
        beps=[BepView(peer=PHONE, name="phone", relay="relay-1", since_s=1, sent_bytes=999, received_bytes=2_500_000)],
        problems=["the clock is wrong by 3 h: set it", "no relay answers: look at the uplink"],
    )
    text = fine(gate("status"))
    assert text.startswith("2 problems\n! the clock is wrong by 3 h: set it\n! no relay")
    assert "supernode  none yet" in text
    assert "voters     tv (roster 4)" in text
    assert f"phone  {PHONE[:10]}  sep  4.2 ms   both behind NAT" in text
    assert re.search(r"^PEER +RELAY +KIND +STATE +LATENCY +STREAMS +THROUGH$", text, re.MULTILINE)
    assert re.search(r"^phone +relay-1 +sep +in use +4\.2 ms +2 +-$", text, re.MULTILINE)
    assert re.search(r"^phone +relay-2 +bep +silent +- +- +-$", text, re.MULTILINE)
    assert re.search(rf"^phone +relay-3 +bep +usable +- +- +{DOOR}$", text, re.MULTILINE)
    assert re.search(r"^phone +direct +direct +usable +0\.5 ms +- +-$", text, re.MULTILINE)
    assert "relay-1  up     3 min" in text
    assert "phone  relay-1  1.0 s  999 B  2.5 MB" in text


def test_texts_of_other_nodes_cannot_move_the_cursor(gate):
    gate.node.told = StatusView(
        software="0.1.0",
        node=NodeRef(id=TV, short=TV[:10], name="tv\x1b[2J"),
        site={"id": "00", "mode": "quorum\r", "members": 1},
        problems=["bad\x07"],
    )
    text = fine(gate("status"))
    assert text.replace("\n", "").isprintable()
    assert "tv?[2J" in text


def test_a_drained_node_says_what_went_where(gate):
    lines = fine(gate("node", "drain", "--within", "3")).splitlines()
    assert [line.split() for line in lines] == [
        ["WHAT", "NOW", "AT", "TOOK", "PAUSE"],
        ["proxy", "phone", "80", "ms", "0", "ms"],
    ]
    assert gate.json("node", "drain")["moved"][0]["name"] == "phone"
    assert "again" in fine(gate("node", "drain", "--undo"))
    assert gate.node.drains == [(True, 3.0), (True, 10.0), (False, 10.0)]


def test_what_a_drained_node_could_not_give_away_is_a_failure_with_its_reason(gate):
    gate.node.stays = [StayedView(what="supernode", why="no other member could take it")]
    failed(gate("node", "drain"), "supernode: no other member could take it", "start another node of this site")
    impatient = gate("node", "drain", "--within", "0")
    assert impatient.exit_code == 2
    assert "0.0 is not in the range" in impatient.stderr


def test_nodes_are_listed_by_scope(gate):
    lines = fine(gate("node", "list")).splitlines()
    assert lines[0].split() == ["NAME", "SITE", "ID", "STANDING", "STATE", "BY", "SEEN", "ROLE"]
    assert [line.split()[:2] for line in lines[1:]] == [["tv", "home"], ["phone", "home"], ["tv", "office"]]
    assert lines[1].endswith("this node, supernode")
    assert len(gate.json("node", "list")["nodes"]) == 3
    done = gate("node", "list", "--scope", "account")
    assert (fine(done), done.stderr) == ("", "no nodes in the scope account\n")
    assert gate.json("node", "list", "--scope", "proximity")["nodes"] == []
    assert gate("node", "list", "--scope", "everywhere").exit_code == 2


def test_one_node_is_shown_by_any_of_its_names(gate):
    for name in ("phone", "home/phone", PHONE, PHONE[:10]):
        assert f"id         {PHONE}\n" in fine(gate("node", "show", name))
    assert gate.json("node", "show", "phone")["node"]["id"] == PHONE
    failed(gate("node", "show", "tv"), "2 nodes are called tv: home/tv, office/tv", "say which")
    failed(gate("node", "show", "nobody"), "no node is called nobody", "take a name from the list")
    assert gate("node", "show").exit_code == 2


def test_settings_are_shown_with_their_origin(tmp_path):
    (tmp_path / "node.toml").write_text(f'name = "tv"\n[site]\nsecret = "{"ab" * 32}"\n[gateway]\nport = 1\n')
    arguments = ("config", "show", "--config", str(tmp_path / "node.toml"), "--set", "links.port=0")
    done = alone(*arguments, "--origin", ATOLL_BEACON_ENABLED="false")
    found = {line.split()[0]: line.split()[1:] for line in fine(done).splitlines()}
    assert found["SETTING"] == ["VALUE", "ORIGIN"]
    assert found["gateway.port"] == ["1", str(tmp_path / "node.toml")]
    assert found["beacon.enabled"] == ["false", "ATOLL_BEACON_ENABLED"]
    assert found["links.port"] == ["0", "flag"]
    assert found["links.host"] == ["0.0.0.0", "default"]
    assert found["site.secret"] == ["(set)", str(tmp_path / "node.toml")]
    assert "abab" not in done.output
    assert "default" not in fine(alone(*arguments))
    found = json.loads(fine(alone(*arguments, "--json")))
    assert (found["version"], found["kind"]) == (1, "node")
    assert {"setting": "name", "value": "tv", "origin": str(tmp_path / "node.toml")} in found["settings"]


def test_settings_of_every_kind_are_shown(tmp_path):
    assert "8087" in fine(alone("config", "show", "--kind", "cloud"))
    (tmp_path / "relay.toml").write_text(f'[cloud]\nid = "{"a" * 52}"\n')
    assert "sep_port" in fine(alone("config", "show", "--kind", "relay", ATOLL_CONFIG=str(tmp_path / "relay.toml")))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--config", "/no/such.toml"), "/no/such.toml: No such file"),
        (("--kind", "relay"), "'cloud' is missing"),
        (("--set", "gateway.port"), "there is no value"),
        (("--set", "gateway.port=99999"), "gateway.port"),
        (("--set", "gateway.prot=1"), "there is no such setting"),
    ],
)
def test_settings_that_cannot_be_are_wrong_usage(arguments, what):
    failed(alone("config", "show", *arguments), what, "", code=2)
    assert alone("config", "show", "--kind", "toaster").exit_code == 2


def test_a_site_is_shown_with_its_voters_and_why(gate):
    text = fine(gate("site", "show"))
    assert "provisional" in text
    assert "1 of 3 voters in reach, 2 needed: no majority" in text
    assert "version 4, incarnation 1" in text
    assert "without box: it leaves" in text
    assert "this node, voter" in text
    assert gate.json("site", "show")["roster"]["version"] == 4


def test_a_site_is_reformed_only_by_who_says_so_twice(gate):
    asked = gate("site", "reform")
    failed(asked, "nothing was changed", "say it again with --yes")
    assert "The voters of home are tv; 1 of them in reach" in asked.stdout
    assert gate.node.site_orders == []
    assert "version 1" in fine(gate("site", "reform", "--yes", "--reason", "both others burned"))
    assert gate.node.site_orders == [("reform", "both others burned", False)]


def test_a_site_whose_majority_lives_is_reformed_only_by_force(gate):
    gate.node.majority_lives = True
    failed(gate("site", "reform", "--yes"), "phone is supernode with a majority of the voters", "again with --force")
    fine(gate("site", "reform", "--yes", "--force"))
    assert gate.node.site_orders == [("reform", "a person says so", True)]


def test_a_node_leaves_the_voters_by_its_own_word(gate):
    fine(gate("site", "leave", "--reason", "it is sold"))
    assert gate.node.site_orders == [("leave", "it is sold")]
