"""`atoll image pull`, given to a served gateway."""

import json

from atoll.actors.gateway.container_views import ImageView


def pullable(gate, *, looks=0):
    gate.node.site_images = [
        ImageView(
            id="api-echo-v1",
            name="echo-v1",
            client="api",
            digest="sha256:" + "1" * 64,
            repo_tags=["echo-v1:1.0.0", "runtime:js"],
            size_bytes=1000,
            created_ms=1_700_000_000_000,
        )
    ]
    gate.node.looks_needed = looks


def test_an_image_is_pulled_and_asked_about_until_it_is_here(gate):
    pullable(gate, looks=2)
    done = gate("image", "pull", "echo-v1:1.0.0", "--client", "me")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("api-echo-v1  echo-v1:1.0.0  sha256:111")
    assert "pulled from the cache at phone" in done.stderr
    assert "container run echo-v1:1.0.0 --name echo-v1" in done.stderr
    assert [each[:3] for each in gate.node.pulls] == [("me", "echo-v1:1.0.0", "")] * 3


def test_an_image_of_one_node_is_pulled_and_said_as_json(gate):
    pullable(gate)
    done = gate("image", "pull", "echo-v1:1.0.0", "--from", "phone", "--json")
    said = json.loads(done.stdout)
    assert (said["version"], said["source_name"], said["image"]["id"]) == (1, "phone", "api-echo-v1")
    assert gate.node.pulls == [("api", "echo-v1:1.0.0", "phone", 1.0)]


def test_how_far_a_pull_is_at_the_cache_and_then_here_is_said_in_words(gate):
    pullable(gate, looks=4)
    done = gate("image", "pull", "echo-v1:1.0.0")
    assert done.stderr.splitlines()[:3] == [
        "echo-v1:1.0.0: 100 B of 1.0 kB (10%), the cache at phone gets it",
        "echo-v1:1.0.0: 200 B of 1.0 kB (20%), the cache at phone gets it",
        "echo-v1:1.0.0: 500 B of 1.0 kB (50%), from the cache at phone",
    ]
    assert "500 B" not in done.stderr.splitlines()[3], "the same is not said twice"


def test_how_far_a_pull_is_is_said_to_programs(gate):
    pullable(gate, looks=3)
    done = gate("image", "pull", "echo-v1:1.0.0", "--json")
    assert json.loads(done.stdout)["image"]["id"] == "api-echo-v1"
    first, _, third = (json.loads(line) for line in done.stderr.splitlines()[:3])
    told = {"got_bytes": 100, "size_bytes": 1000, "share": 0.1, "at": "cache", "source_name": "phone"}
    assert first == {"version": 1, "progress": told}
    assert (third["progress"]["at"], third["progress"]["share"]) == ("here", 0.5)


def test_a_pull_at_another_node_is_sent_there(gate):
    pullable(gate)
    gate.phone.site_images = gate.node.site_images
    assert gate("image", "pull", "echo-v1:1.0.0", "--node", "phone").exit_code == 0
    assert len(gate.phone.pulls) == 1
    assert gate.node.pulls == []


def test_a_pull_of_what_nobody_has_says_what_to_do(gate):
    done = gate("image", "pull", "nothing")
    assert done.exit_code == 1
    assert "cannot find image with name nothing" in done.stderr
    assert "atoll image push" in done.stderr


def test_a_pull_that_never_ends_is_left_with_what_to_do(gate, monkeypatch):
    monkeypatch.setattr("atoll.cli.image.PULL_S", 0.05)
    pullable(gate, looks=10**9)
    done = gate("image", "pull", "echo-v1:1.0.0")
    assert done.exit_code == 1
    assert "still on its way" in done.stderr
    assert "run the same command again" in done.stderr
