"""Images and containers over REST, and uploads that are cut off, too long or malformed."""

import json
import shutil
import subprocess

import anyio
import anyio.to_thread
import pytest
from gateway_probe import KEY, assert_problem, form, image_tar, opened
from http_probe import WAIT_S
from waiting import until

from atoll.actors.gateway.bodies import IMAGE_BYTES_MAX

pytestmark = pytest.mark.anyio


async def test_an_image_and_a_container_live_by_the_nodes_own_verbs(tmp_path):
    async with opened(tmp_path) as gate:
        tar = image_tar()
        status, _, body = await gate.ask("POST", "/atoll/v1/images", tar, {"Content-Type": "application/x-tar"})
        assert (status, body["image"]["id"], body["image"]["size_bytes"]) == (201, "api-echo-v1", len(tar))
        wanted = json.dumps({"name": "echo", "image": "echo-v1", "env": {"MCM.BASE_API_PATH": "/echo/v1"}})
        status, _, body = await gate.ask("POST", "/atoll/v1/containers", wanted)
        assert (status, body["container"]["path"]) == (201, "/echo/v1")
        assert_problem(await gate.ask("POST", "/atoll/v1/containers", wanted), 409, "conflict")
        assert (await gate.ask("GET", "/atoll/v1/services"))[2]["services"][0]["path"] == "/echo/v1"
        for verb, state in (("stop", "stopped"), ("start", "started")):
            _, _, body = await gate.ask("POST", f"/atoll/v1/containers/echo/{verb}")
            assert body["container"]["state"] == state
        _, _, body = await gate.ask("GET", "/atoll/v1/containers/echo/logs?tail=2")
        assert [line["text"] for line in body["lines"]] == ["line 198", "line 199"]
        for tail in ("0", "x", "1001", "-1", "²"):
            target = "/atoll/v1/containers/echo/logs?tail=" + tail.replace("²", "%C2%B2")
            assert_problem(await gate.ask("GET", target), 400, "bad-input")
        assert (await gate.ask("DELETE", "/atoll/v1/containers/echo"))[0] == 200
        assert (await gate.ask("DELETE", "/atoll/v1/images/echo-v1"))[0] == 200
        assert_problem(await gate.ask("DELETE", "/atoll/v1/images/echo-v1"), 404, "unknown-name")


async def test_the_published_interface_says_what_its_clients_expect(tmp_path):
    async with opened(tmp_path) as gate:
        tar = image_tar()
        body, headers = form(("name", b"echo-v1"), ("image", tar))
        status, _, image = await gate.ask("POST", "/mcm/v1/images", body, headers | {"x-client-id": "me"})
        assert status == 200
        assert set(image) == {"created", "digest", "id", "name", "repoTags", "size", "status"}
        assert image["id"] == "me-echo-v1"
        assert image["size"] == len(tar)
        assert image["digest"].startswith("sha256:")
        assert (await gate.ask("GET", "/mcm/v1/images"))[2] == {"data": [image]}
        # As `curl -d` sends it.
        wanted = json.dumps({"name": "echo", "image": "echo-v1", "env": {"A": "b"}})
        form_type = {"Content-Type": "application/x-www-form-urlencoded"}
        status, _, container = await gate.ask("POST", "/mcm/v1/containers", wanted, form_type)
        assert status == 200
        assert container == {
            "clientId": "api",
            "created": 1_700_000_000_001,
            "env": {"A": "b"},
            "id": "api-echo",
            "image": "echo-v1",
            "imageId": "me-echo-v1",
            "name": "echo",
            "state": "started",
            "status": "up",
        }
        assert (await gate.ask("GET", "/mcm/v1/containers"))[2] == {"data": [container]}
        assert (await gate.ask("PUT", "/mcm/v1/containers/api-echo/stop"))[2]["status"] == "down"
        assert (await gate.ask("PUT", "/mcm/v1/containers/api-echo/start"))[2]["status"] == "up"
        assert (await gate.ask("DELETE", "/mcm/v1/containers/api-echo"))[2]["id"] == "api-echo"
        assert (await gate.ask("DELETE", "/mcm/v1/images/me-echo-v1"))[2]["id"] == "me-echo-v1"


async def test_the_published_interface_keeps_its_error_texts(tmp_path):
    async with opened(tmp_path) as gate:
        answer = await gate.ask("GET", "/mcm/v1/images", headers={"Authorization": "Bearer no"}, tcp=True)
        body = assert_problem(answer, 403, "wrong-credentials")
        assert body["error"]["code"] == 403
        assert body["error"]["message"].startswith("invalid edgeAccessToken: ")
        answer = await gate.ask("POST", "/mcm/v1/containers", json.dumps({"name": "a", "image": "none"}))
        assert assert_problem(answer, 404, "unknown-name")["error"]["message"] == "cannot find image with name"
        empty, headers = form(("other", b"x"))
        answer = await gate.ask("POST", "/mcm/v1/images", empty, headers)
        assert assert_problem(answer, 400, "bad-input")["error"] == {"code": 400, "message": "no image received"}
        answer = await gate.ask("POST", "/mcm/v1/images", b"")
        assert assert_problem(answer, 400, "bad-input")["error"]["message"] == "no image received"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"[]", "array"),
        (b"\xff", "malformed"),
        (b'{"name": "a"}', "image"),
        (b'{"name": 1, "image": "b"}', "name"),
        (b'{"name": "a", "image": "b", "env": {"x": 1}}', "env"),
        (b'{"name": "a", "image": "b", "env": {"x": ' + b"[" * 5000 + b"}", "env"),
    ],
)
async def test_bad_json_is_named(tmp_path, body, word):
    async with opened(tmp_path) as gate:
        for base in ("/atoll/v1", "/mcm/v1"):
            got = assert_problem(await gate.ask("POST", f"{base}/containers", body), 400, "bad-input")
            assert word in got["detail"]


async def test_bad_uploads_are_named_and_leave_nothing_behind(tmp_path):
    async with opened(tmp_path) as gate:
        whole, headers = form(("image", image_tar()))
        cut, _ = form(("image", image_tar()), end=False)
        twice, _ = form(("image", image_tar()), ("image", image_tar()))
        for body, kind in (
            (cut, headers),
            (twice, headers),
            (whole.replace(b"\r\n\r\n", b"", 1), headers),
            (b"--wrong\r\n" + whole, headers),
            (whole, {"Content-Type": "multipart/form-data"}),
            (whole, {"Content-Type": "multipart/form-data; boundary=" + "b" * 500}),
            (whole.replace(b"form-data;", b"form-data;" + b"x" * 20_000, 1), headers),
            (b"not a tar", {"Content-Type": "application/x-tar"}),
            (image_tar(), {"x-client-id": "../up"}),
        ):
            assert_problem(await gate.ask("POST", "/mcm/v1/images", body, kind), 400, "bad-input")
        announced = {"Content-Length": str(IMAGE_BYTES_MAX + 1), "Content-Type": "application/x-tar"}
        assert_problem(await gate.ask("POST", "/atoll/v1/images", b"", announced), 413, "body-too-long")
        assert gate.node.kept_images == {}
        assert not gate.spool.exists() or list(gate.spool.iterdir()) == []


async def test_an_upload_cut_off_leaves_nothing_behind(tmp_path):
    async with opened(tmp_path) as gate:
        with anyio.fail_after(WAIT_S):
            stream = await anyio.connect_unix(gate.path)
            await stream.send(
                b"POST /mcm/v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(1000)
            )
            await until(lambda: gate.spool.exists() and list(gate.spool.iterdir()))
            await stream.aclose()
            await until(lambda: not list(gate.spool.iterdir()))
        assert (await gate.ask("GET", "/atoll/v1/images"))[2]["images"] == []


@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_curl_pushes_an_image(tmp_path, size):
    """The stock client: above a megabyte it asks with `Expect: 100-continue` first."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("CURL IS NOT INSTALLED: the upload was not tried with the stock client")
    tar = tmp_path / "echo.tar"
    tar.write_bytes(image_tar(size=size))
    async with opened(tmp_path) as gate:

        def push(*arguments):
            command = [curl, "-sS", "-v", "--max-time", "10", "-F", f"image=@{tar}", *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=False)

        url = f"http://127.0.0.1:{gate.port}/mcm/v1/images"
        done = await anyio.to_thread.run_sync(push, "-H", "Expect: 100-continue", "-H", f"x-api-key: {KEY}", url)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["id"] == "api-echo-v1"
        assert "HTTP/1.1 100" in done.stderr
        done = await anyio.to_thread.run_sync(push, "-H", "Expect: 100-continue", url)
        assert json.loads(done.stdout)["error"]["code"] == 403, "refused before the body was sent"
        assert "HTTP/1.1 100" not in done.stderr
        done = await anyio.to_thread.run_sync(push, "--unix-socket", str(gate.path), "http://localhost/mcm/v1/images")
        assert json.loads(done.stdout)["size"] == tar.stat().st_size, done.stderr
