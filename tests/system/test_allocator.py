"""What a burst has freed is kept for the next one, where glibc can be told so, and nothing happens elsewhere."""

import subprocess
import sys

import pytest

from atoll.actors.runtime import allocator

BURSTS = """
import resource, sys
from atoll.actors.runtime.allocator import keep_memory_for_bursts
told = sys.argv[1] == "told" and keep_memory_for_bursts()
def burst():
    return [bytearray(65_000) for _ in range(64)]
burst()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    burst()
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    done = subprocess.run([sys.executable, "-c", BURSTS, how], capture_output=True, text=True, check=True)
    told, count = done.stdout.split()
    return told == "True", int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_bursts_of_long_messages_find_their_memory_again():
    told, kept = faults("told")
    if not told:
        pytest.skip("this is not glibc")
    _, given_back = faults("untold")
    assert kept * 10 < given_back, f"{kept} page faults, {given_back} without"


@pytest.mark.parametrize("missing", ["another system", "no library", "another library"])
def test_elsewhere_it_does_nothing(monkeypatch, missing):
    class Musl:
        pass

    def load(_name):
        if missing == "no library":
            raise OSError("none")
        return Musl()

    if missing == "another system":
        monkeypatch.setattr(allocator.sys, "platform", "darwin")
    monkeypatch.setattr(allocator.ctypes, "CDLL", load)
    assert allocator.keep_memory_for_bursts() is False
