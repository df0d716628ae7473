"""Commands about images and containers, on this node and on others."""

import json
import os
import pty
import subprocess
import sys

import pytest
from cli_probe import failed, fine, target_of
from gateway_probe import image_tar
from http_probe import WAIT_S

from atoll.actors.gateway.messages import BODY_BYTES_MAX
from atoll.cli.connection import MARGIN_S, Connection
from atoll.cli.image import PUSH_S
from atoll.cli.output import Failed
from atoll.cli.places import Place
from atoll.cli.uploads import ImageForm


def test_a_service_is_pushed_run_called_stopped_and_removed(gate, tar):
    done = gate("image", "push", tar)
    assert fine(done).startswith("api-echo-v1  echo-v1:1.0.0  sha256:")
    assert done.stderr == f"run it with: atoll --at {gate.path} container run echo-v1 --name echo-v1\n"
    assert "echo-v1:1.0.0, runtime:js" in fine(gate("image", "list"))
    done = gate("container", "run", "echo-v1", "--name", "echo", "-e", "MCM.BASE_API_PATH=/echo/v1", "-e", "A=b=c")
    assert fine(done) == "api-echo  started  /echo/v1\n"
    assert done.stderr.splitlines() == [
        f"call it with: atoll --at {gate.path} call echo /",
        f"stop it with: atoll --at {gate.path} container stop echo",
    ]
    assert gate.json("container", "list")["containers"][0]["env"] == {"MCM.BASE_API_PATH": "/echo/v1", "A": "b=c"}
    assert "echo  tv    /echo/v1  up     api-echo" in fine(gate("service", "list"))
    assert target_of(gate("call", "echo", "/hello?x=1")) == "/echo/v1/hello?x=1"
    done = gate("container", "stop", "echo")
    assert (fine(done), done.stderr) == (
        "api-echo  stopped\n",
        f"start it with: atoll --at {gate.path} container start echo\n",
    )
    assert "stopped  down" in fine(gate("container", "list"))
    assert fine(gate("container", "start", "echo")) == "api-echo  started\n"
    assert fine(gate("container", "rm", "echo")) == "api-echo\n"
    assert fine(gate("image", "rm", "echo-v1")) == "api-echo-v1\n"


def test_another_nodes_images_and_containers_are_its_own(gate, tar):
    done = gate("image", "push", tar, "--node", "phone", "--client", "me")
    assert gate.node.timeouts_s == [PUSH_S - MARGIN_S]
    assert fine(done).startswith("me-echo-v1  ")
    assert done.stderr.endswith(" container run echo-v1 --name echo-v1 --node phone\n")
    done = gate("container", "run", "echo-v1:1.0.0", "--name", "e", "--node", "home/phone")
    failed(done, "nothing is called echo-v1:1.0.0", "atoll image push FILE")
    done = gate("container", "run", "echo-v1", "--node", "home/phone")
    assert "call echo-v1@home/phone /\n" in done.stderr
    assert [each["id"] for each in gate.json("container", "list", "--node", "phone")["containers"]] == ["api-echo-v1"]
    assert gate.json("image", "list", "--node", "phone")["images"][0]["client"] == "me"
    assert gate.json("service", "list", "--node", "phone")["services"][0]["name"] == "echo-v1"
    assert fine(gate("container", "logs", "echo-v1", "--tail", "1", "--node", "phone")) == "line 199\n"
    assert gate.json("status", "--node", "phone")["version"] == 1
    assert gate.json("image", "list")["images"] == gate.json("container", "list")["containers"] == []
    assert fine(gate("container", "stop", "echo-v1", "--node", "phone")) == "api-echo-v1  stopped\n"
    assert fine(gate("container", "rm", "echo-v1", "--node", "phone")) == "api-echo-v1\n"
    assert fine(gate("image", "rm", "echo-v1", "--node", "phone")) == "me-echo-v1\n"


def test_what_another_node_does_not_allow_is_said(gate):
    failed(gate("image", "list", "--node", "office/tv"), "needs the scope edge:mcm", "ask the owner")
    failed(gate("image", "list", "--node", "nobody"), "no node is called nobody", "take a name")
    failed(gate("image", "list", "--node", "tv"), "home/tv, office/tv", "say which")
    failed(gate("image", "list", "--node", "gone"), "gone: no", "atoll status")


def test_empty_lists_say_how_to_fill_them(gate):
    for words, hint in (
        (("image", "list"), "atoll image push"),
        (("container", "list"), "atoll container run"),
        (("service", "list"), "atoll container run"),
    ):
        done = gate(*words)
        assert fine(done) == ""
        assert hint in done.stderr


def test_an_image_comes_from_a_pipe_too(gate, tar):
    assert gate("image", "push", "-", stdin=tar.read_bytes()).exit_code == 0
    assert gate.node.kept_images["api-echo-v1"].size_bytes == tar.stat().st_size
    failed(gate("image", "push", "-", stdin=b""), "no image received", "docker-save tar")


def test_push_as_json_is_one_object(gate, tar):
    done = gate("image", "push", tar, "--json")
    assert json.loads(done.stdout)["image"]["id"] == "api-echo-v1"
    done = gate("container", "run", "echo-v1", "--json")
    assert json.loads(done.stdout)["container"]["name"] == "echo-v1"


def test_a_tar_that_is_none_is_said(gate, tmp_path):
    failed(gate("image", "push", tmp_path / "no.tar"), "No such file", "docker save -o", code=2)
    failed(gate("image", "push", tmp_path), "is a folder", "docker save -o", code=2)
    (tmp_path / "empty.tar").touch()
    failed(gate("image", "push", tmp_path / "empty.tar"), "no image received", "docker-save tar")
    (tmp_path / "text.tar").write_text("no tar at all")
    failed(gate("image", "push", tmp_path / "text.tar"), "not a docker-save tar", "")
    assert gate("image", "push").exit_code == 2


def test_a_file_that_is_too_long_for_the_way_is_refused_while_it_is_sent(gate, tmp_path):
    (tmp_path / "long.tar").write_bytes(image_tar(size=BODY_BYTES_MAX * 3))
    done = gate("image", "push", tmp_path / "long.tar", "--node", "phone")
    failed(done, str(BODY_BYTES_MAX), "send less at once")
    assert gate("image", "push", tmp_path / "long.tar").exit_code == 0


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(gate, tar):
    there = Connection(place=Place(socket=gate.path))
    with tar.open("rb") as file:
        form = ImageForm(file, tar.stat().st_size + 1, lambda _: None)
        with pytest.raises(Failed, match="became shorter"):
            there.ask("POST", "/atoll/v1/images", body=form, headers=form.headers())
    assert gate.node.kept_images == {}


def test_a_progress_bar_is_for_terminals_only(gate, tar):
    def bar(stderr):
        subprocess.run(
            [sys.executable, "-c", "from atoll.cli import main; main()", "--at", gate.path, "image", "push", tar],
            stdout=subprocess.PIPE,
            stderr=stderr,
            check=True,
            timeout=WAIT_S,
        )

    main_end, terminal = pty.openpty()
    try:
        bar(terminal)
        assert b"100%" in os.read(main_end, 100_000)
    finally:
        os.close(main_end)
        os.close(terminal)
    assert "%" not in gate("image", "push", tar).stderr


@pytest.mark.parametrize("setting", ["=x", "ATOLL_TEST_NO_SUCH"])
def test_a_setting_that_is_none_is_wrong_usage(gate, setting):
    failed(gate("container", "run", "echo", "-e", setting), "-e", "write", code=2)


def test_a_setting_without_a_value_comes_from_here(gate, tar):
    gate("image", "push", tar)
    fine(gate("container", "run", "echo-v1", "-e", "TOKEN", env={"TOKEN": "of-mine"}))
    assert gate.node.kept_containers["api-echo-v1"].env == {"TOKEN": "of-mine"}
    failed(gate("container", "run", "echo-v1"), "a container is called api-echo-v1", "")
    failed(gate("container", "run", "echo-v1", "--client", "no good"), "is no client", "A-Z")


def test_logs_are_lines_with_times_where_wanted(gate, tar):
    gate("image", "push", tar)
    gate("container", "run", "echo-v1", "--name", "echo")
    assert fine(gate("container", "logs", "echo", "--tail", "2")) == "line 198\nline 199\n"
    assert fine(gate("container", "logs", "echo", "--tail", "1", "-t")) == "1970-01-01T00:00:00Z stdout  line 199\n"
    assert len(gate.json("container", "logs", "echo")["lines"]) == 100
    assert gate("container", "logs", "echo", "--tail", "1001").exit_code == 2
    failed(gate("container", "logs", "nobody"), "nothing is called nobody", "take a name")
    for verb in ("start", "stop", "rm"):
        failed(gate("container", verb, "nobody"), "nothing is called nobody", "take a name")
        assert gate("container", verb).exit_code == 2
    failed(gate("image", "rm", "nobody"), "nothing is called nobody", "atoll image push")


def test_one_that_cannot_be_removed_keeps_no_other_from_it(gate, tar):
    gate("image", "push", tar)
    for name in ("a", "b"):
        gate("container", "run", "echo-v1", "--name", name)
    done = gate("container", "rm", "nobody", "a", "none", "b")
    assert done.stdout == "api-a\napi-b\n"
    assert done.exit_code == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("atoll:")] == [
        "atoll: nothing is called nobody",
        "atoll: nothing is called none",
    ]
    done = gate("image", "rm", "nobody", "echo-v1")
    assert (done.stdout, done.exit_code) == ("api-echo-v1\n", 1)


def test_an_empty_name_is_wrong_usage(gate, tar):
    gate("image", "push", tar)
    failed(gate("container", "run", "echo-v1", "--name", ""), "the name is empty", "NAME", code=2)
    failed(gate("container", "run", ""), "the name is empty", "NAME", code=2)
    assert gate.node.kept_containers == {}
