"""A site of processes whose cache is killed, or stands still, while an image is pulled through it."""

import hashlib
import io
import random
import signal
import tarfile

import anyio
import pytest

from atoll.cluster_specs.spec import parse_spec
from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.loopback import Loopback
from atoll.testing.services import ECHO, service_archive

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True),
]

WAIT_S = 150.0
FILLING_BYTES = 40_000_000
SITE = """
name = "images"
[[site]]
name = "lan"
  [[site.node]]
  name = "one"
  [[site.node]]
  name = "two"
  [[site.node]]
  name = "three"
"""


def large_archive():
    """Add a file that no service needs, so that a transfer takes long enough to be interrupted."""
    held = io.BytesIO(service_archive("echo-v1", "1.0.0", ECHO))
    with tarfile.open(fileobj=held, mode="a", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo("filling")
        entry.size = FILLING_BYTES
        tar.addfile(entry, io.BytesIO(random.Random(1).randbytes(FILLING_BYTES)))
    return held.getvalue()


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec = parse_spec(SITE, "images")
    return Cluster(spec, Loopback(spec), on_death=lambda _: None)


async def holder_of_cache(cluster, nodes):
    while True:
        statuses = [await cluster.status(node) for node in nodes]
        said = {each["name"] for status in statuses for each in status["duties"] if each["duty"] == "cache"}
        if len(said) == 1 and all(status["site"]["members"] == len(nodes) for status in statuses):
            return f"lan/{said.pop()}"
        await anyio.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_cache_that_dies_under_a_pull_costs_another_source_and_no_wrong_image(cluster, how):
    archive, nodes = large_archive(), ["lan/one", "lan/two", "lan/three"]
    with anyio.fail_after(WAIT_S):
        async with cluster:
            cache = await holder_of_cache(cluster, nodes)
            owner, asker = (node for node in nodes if node != cache)
            await cluster.api(owner).post_file("/atoll/v1/images", "image", archive)
            wanted = {"image": "echo-v1", "wait_ms": 20}
            while True:
                state = await cluster.api(asker).post_json("/atoll/v1/images/pull", wanted)
                assert state["image"] is None, "it ended before anybody could disturb it: make the archive larger"
                if state["cached"] and state["got_bytes"]:
                    break
            await cluster.kill(cache, how)
            while (state := await cluster.api(asker).post_json("/atoll/v1/images/pull", wanted))["image"] is None:
                pass
            assert (state["source_name"], state["cached"]) == (owner.partition("/")[2], False)
            assert state["image"]["digest"] == "sha256:" + hashlib.sha256(archive).hexdigest()
            if how is signal.SIGSTOP:
                await cluster.kill(cache, signal.SIGCONT)
