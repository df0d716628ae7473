"""A test that hangs fails, says where, and the others run; also where what it began refuses to end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Of what runs the tests, not of Atoll.
pytestmark = pytest.mark.deep

CONFTEST = """
import hung_tests
import pytest

hung_tests.ENDS_S = 1.0

def pytest_configure(config):
    config.pluginmanager.register(hung_tests.HungTests())

@pytest.fixture(params=[
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
])
def anyio_backend(request):
    return request.param
"""
TESTS = """
import time
import anyio
import pytest

pytestmark = pytest.mark.anyio
soon = pytest.mark.timeout(0.5)

async def waits_for_what_never_comes():
    await anyio.sleep_forever()

@soon
async def test_that_hangs():
    await waits_for_what_never_comes()

@soon
async def test_that_refuses_to_end():
    with anyio.CancelScope(shield=True):
        await waits_for_what_never_comes()

@pytest.fixture
def what_is_never_down():
    yield
    time.sleep(60)

@soon
def test_that_fails(what_is_never_down):
    raise ValueError("before its fixture hangs")

@soon
def test_that_is_not_async():
    time.sleep(60)

async def test_that_passes():
    await anyio.sleep(0.1)
"""


def outcome(tmp_path, which):
    """Run the tests whose names hold `which`, in a process beside this one; gives what was printed."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import pytest; sys.exit(pytest.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "-p", "no:cacheprovider", "-n", "1", "-k", which],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_an_async_test_is_cancelled_on_every_loop(tmp_path):
    printed = outcome(tmp_path, "test_that_hangs or passes")
    assert "3 failed, 3 passed" in printed, printed
    assert printed.count("took longer than 0.5 s, and waited here:") >= 3
    assert "in waits_for_what_never_comes" in printed
    assert "crashed" not in printed


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_the_process_of_one_that_refuses_to_end_ends(tmp_path, loop):
    printed = outcome(tmp_path, f"(refuses or passes) and {loop}")
    assert "1 failed, 1 passed" in printed, printed
    assert f"crashed while running 'test_it.py::test_that_refuses_to_end[{loop}]'" in printed
    assert "most recent call first" in printed, "where its threads were"


def test_so_does_that_of_one_that_has_failed_and_hangs_in_a_fixture(tmp_path):
    printed = outcome(tmp_path, "test_that_fails or passes")
    assert "1 failed, 3 passed" in printed or "2 failed, 3 passed" in printed, printed
    assert "crashed while running 'test_it.py::test_that_fails'" in printed


def test_any_other_is_ended_by_its_limit(tmp_path):
    printed = outcome(tmp_path, "not_async or passes")
    assert "1 failed, 3 passed" in printed, printed
    assert "Timeout (>0.5s)" in printed
    assert "crashed" not in printed
