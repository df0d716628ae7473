"""Which node a command talks to, and what it says of one that is not there or speaks like none."""

import contextlib
import http.client
import json
import os
import socket
import threading

import anyio
import pytest
from cli_probe import alone, failed, fine, serve
from examples import examples
from gateway_probe import KEY, image_tar
from http_probe import WAIT_S
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atoll.cli.connection import Answer, Connection
from atoll.cli.output import Failed
from atoll.cli.places import Place, find_place
from atoll.testing.runs import published


def test_a_url_needs_the_api_key(gate, tmp_path):
    url = f"http://127.0.0.1:{gate.port}"
    nowhere = {"ATOLL_STATE_DIR": str(tmp_path)}
    failed(gate("status", at=url, env=nowhere), "neither", "api.key")
    failed(gate("status", at=url, env={"ATOLL_API_KEY": "wrong"}), "not this node's API key", "api.key")
    failed(gate("status", at=url, env={"ATOLL_API_KEY": "no\nkey"}), "ATOLL_API_KEY is no API key", "api.key", code=2)
    assert fine(gate("status", at=url, env={"ATOLL_API_KEY": KEY})).startswith("healthy")
    (tmp_path / "api.key").write_text(KEY + "\n")
    assert gate("status", at=url + "/", env=nowhere).exit_code == 0
    other = tmp_path / "other"
    failed(gate("--api-key-file", other, "status", at=url), "no API key in", "api.key", code=2)
    (tmp_path / "api.key").rename(other)
    assert gate("--api-key-file", other, "status", at=url).exit_code == 0


def test_the_key_and_a_services_own_key_go_side_by_side(gate):
    serve(gate.node, "echo", "/echo")
    url = f"http://127.0.0.1:{gate.port}"
    fine(gate("call", "echo", "-H", "x-api-key: of-the-service", at=url, env={"ATOLL_API_KEY": KEY}))
    assert gate.node.calls[-1][1].header("x-api-key") == "of-the-service"
    assert KEY not in repr(gate.node.calls)


def test_this_hosts_key_goes_to_no_other_host(tmp_path):
    (tmp_path / "api.key").write_text(KEY)
    environment = {"ATOLL_STATE_DIR": str(tmp_path)}
    keys = {
        host: find_place(f"http://{host}:8083", None, environment).api_key
        for host in ("127.0.0.1", "localhost", "[::1]", "127.0.0.1.example.org", "192.0.2.1", "localhost.example.org")
    }
    assert [host for host, key in keys.items() if key] == ["127.0.0.1", "localhost", "[::1]"]


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://x:port", "http://x/path", "http://x?y", "http://a@x", "http://[x"]
)
def test_a_url_of_no_gateway_is_wrong_usage(gate, url):
    failed(gate("status", at=url), "", "http://127.0.0.1:8083", code=2)


def test_without_at_it_is_this_hosts_node(gate):
    folder = str(gate.path.parent)
    done = alone("container", "run", "no-such", ATOLL_RUN_DIR=folder)
    failed(done, "nothing is called no-such", "push")
    gate.path.with_name("node.toml").write_text(f'run_dir = "{folder}"\n')
    assert fine(alone("status", ATOLL_CONFIG=str(gate.path.with_name("node.toml")))).startswith("healthy")
    for at in (str(gate.path), f"unix:{gate.path}", os.path.relpath(gate.path)):
        assert fine(alone("status", ATOLL_AT=at)).startswith("healthy")
    failed(alone("status", ATOLL_CONFIG=f"{folder}/none.toml"), "none.toml", "--at", code=2)
    gate("image", "push", "-", stdin=image_tar())
    done = alone("container", "run", "echo-v1", ATOLL_AT=str(gate.path))
    assert done.stderr.startswith("call it with: atoll call echo-v1 /\n")


def test_a_node_that_does_not_run_is_named_with_what_to_do(tmp_path):
    socket_path = tmp_path / "api.sock"
    failed(alone("status", ATOLL_RUN_DIR=str(tmp_path)), f"at {socket_path} (No such", "start one with: atoll node run")
    failed(alone("--at", str(socket_path), "node", "list"), "No such file", "atoll node run")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(socket_path))
    failed(alone("status", ATOLL_RUN_DIR=str(tmp_path)), "Connection refused", "start one with: atoll node run")
    failed(alone("--at", "/" + "long" * 50, "status"), "path too long", "atoll node run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        failed(alone("--at", url, "status", ATOLL_API_KEY=KEY), "Connection refused", "atoll node run")


@pytest.fixture
def clusters(tmp_path, monkeypatch):
    """Have clusters written down in a folder of the test's own; gives the function that does."""
    monkeypatch.setattr("atoll.testing.runs.default_run_dir", lambda: tmp_path)
    with contextlib.ExitStack() as running:
        yield lambda name, **nodes: running.enter_context(
            published(name, {node.replace("_", "/"): path for node, path in nodes.items()})
        )


def test_a_node_of_a_running_cluster_is_named_as_in_its_spec(gate, clusters):
    clusters("two-sites", home_tv=gate.path, office_tv="/nowhere/api.sock")
    for name in ("home/tv", "two-sites/home/tv"):
        assert fine(gate("status", at=name)).startswith("healthy")
    failed(gate("status", at="office/tv"), "/nowhere/api.sock", "two-sites has ended, or is still starting")
    failed(gate("status", at="tv"), "2 running nodes are called tv", "two-sites/home/tv, two-sites/office/tv", code=2)
    failed(gate("status", at="home/fridge"), "there are home/tv, office/tv", "atoll up", code=2)


def test_who_names_no_node_is_told_of_a_running_cluster(clusters, tmp_path):
    failed(alone("status", ATOLL_RUN_DIR=str(tmp_path)), "no node is running", "start one with: atoll node run")
    clusters("two-sites", home_tv="/nowhere/api.sock")
    done = alone("status", ATOLL_RUN_DIR=str(tmp_path))
    failed(done, "no node is running", "atoll node run, or name one that runs: atoll --at home/tv")


def test_two_clusters_with_a_node_of_that_name_are_told_apart(gate, clusters):
    clusters("one", home_tv=gate.path)
    clusters("other", home_tv="/nowhere/api.sock")
    failed(gate("status", at="home/tv"), "2 running nodes are called home/tv", "one/home/tv, other/home/tv", code=2)
    assert fine(gate("status", at="one/home/tv")).startswith("healthy")


def test_no_cluster_at_all_or_a_broken_file_is_said(gate, clusters, tmp_path):
    failed(gate("status", at="home/tv"), "no running node is called home/tv", "atoll up", code=2)
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "x.json").write_text("{")
    failed(gate("status", at="home/tv"), "x.json is no cluster's file", "end that cluster, and remove it", code=2)


@contextlib.contextmanager
def answering(tmp_path, *pieces):
    """Somebody on a socket who answers every connection with these bytes, and closes it."""
    path = tmp_path / "strange.sock"
    stop = threading.Event()

    def serve_all(listener):
        while True:
            with listener.accept()[0] as client:
                if stop.is_set():
                    return
                client.recv(65536)
                for piece in pieces:
                    client.sendall(piece)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve_all, args=(listener,))
        thread.start()
        try:
            yield path
        finally:
            stop.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join(WAIT_S)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"", "broke off"),
        (b"SSH-2.0-x\r\n", "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "speaks like no node"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "speaks like no node"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", "broke off"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "answered 500"),
        (b"HTTP/1.1 404 No\r\nContent-Type: application/problem+json\r\n\r\nno json", "answered 404"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, "speaks like no node"),
    ],
)
def test_who_is_no_node_is_found_out(tmp_path, answer, what):
    with answering(tmp_path, answer) as path:
        failed(alone("--at", str(path), "status"), what, "")


def test_an_answer_without_end_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("atoll.cli.connection.ANSWER_BYTES_MAX", 1000)
    with answering(tmp_path, b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000) as path:
        failed(alone("--at", str(path), "status"), "longer than 1000 bytes", "less")


def test_a_node_that_does_not_answer_is_not_waited_for_for_ever(gate):
    serve(gate.node, "slow", "/slow")
    gate.node.gates["/slow/x"] = anyio.Event()
    with pytest.raises(Failed, match=r"did not answer within 0\.1 s"):
        Connection(place=Place(socket=gate.path), answer_s=0.1).ask("GET", "/slow/x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# On a fresh clone the first text waits for hypothesis to read all of Unicode.
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(["type", "detail", "title", "remedy", "candidates", "status"]), json_values),
    st.sampled_from(["", "urn:atoll:problem:", "urn:atoll:problem:unknown-name"]),
    st.integers(min_value=200, max_value=599),
)
def test_whatever_a_problem_says_it_becomes_two_lines(fields, kind, status):
    headers = http.client.HTTPMessage()
    headers["content-type"] = "application/problem+json"
    body = json.dumps(fields | ({"type": kind} if kind else {})).encode()
    problem = Answer(status, headers, body, "here").problem()
    assert (problem is not None) == (status >= 400 and str(json.loads(body).get("type")).startswith("urn:atoll:"))
    if problem is not None:
        assert problem.message.isprintable()
        assert problem.remedy.isprintable()
