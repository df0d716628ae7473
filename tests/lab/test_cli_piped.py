"""What `atoll send -` keeps on the disk: nothing longer than it lives, or than the next one begins."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

PATIENCE_S = 60
COMMAND = (sys.executable, "-m", "atoll", "--at", "/nowhere/gateway.sock", "send", "-", "phone", "--name", "x")


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "temporary"
    found.mkdir()
    return found


def is_locked(path):
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def copies(folder):
    return set(folder.glob("atoll-send-*"))


@contextlib.contextmanager
def begun(folder):
    """A command that waits for the rest of its pipe, and its copy; `tempfile` has files of its own beside it."""
    before = copies(folder)
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(COMMAND, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        try:
            until = time.monotonic() + PATIENCE_S
            while not (made := copies(folder) - before):
                assert time.monotonic() < until
                assert command.poll() is None
                time.sleep(0.01)
            (copy,) = made
            while not is_locked(copy):
                assert time.monotonic() < until
                time.sleep(0.01)
            yield command, copy
        finally:
            command.kill()


def test_the_next_command_removes_what_a_killed_one_has_left_and_nothing_of_one_that_lives(folder):
    strange = folder / "atoll-send-fifo"
    os.mkfifo(strange)
    with begun(folder) as (killed, left), begun(folder) as (_, held):
        killed.send_signal(signal.SIGKILL)
        killed.wait(PATIENCE_S)
        assert left.exists()
        with begun(folder) as (last, own):
            assert not left.exists()
            assert held.exists()
            _, said = last.communicate(b"all of it", PATIENCE_S)
            assert b"/nowhere/gateway.sock" in said
            assert not own.exists()
        assert held.exists()
