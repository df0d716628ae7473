"""Processes in the foreground: which failures end in words, and which are shown whole."""

import contextlib

import pytest

from atoll.cli.foreground import run_in_foreground
from atoll.transport.errors import Unreachable, UsageError


def run(error):
    @contextlib.asynccontextmanager
    async def opened():
        raise error
        yield

    run_in_foreground(opened, str, remedy="choose another port")


@pytest.mark.parametrize(
    "error",
    [
        UsageError("port 1 is in use"),
        OSError("port 1 is in use"),
        ExceptionGroup("", [ExceptionGroup("", [UsageError("port 1 is in use")]), Unreachable("and nobody is there")]),
    ],
    ids=["ours", "the system's", "several"],
)
def test_what_the_world_refuses_is_said_with_what_to_do(error, capfd):
    with pytest.raises(SystemExit) as ended:
        run(error)
    assert ended.value.code == 1
    assert capfd.readouterr().err == "atoll: port 1 is in use\n       choose another port\n"


def test_a_mistake_of_ours_is_shown_whole_though_the_world_failed_first():
    with pytest.raises(ExceptionGroup) as shown:
        run(ExceptionGroup("", [UsageError("port 1 is in use"), KeyError("a bug")]))
    assert shown.group_contains(UsageError)
    assert shown.group_contains(KeyError)


@pytest.mark.parametrize("error", [KeyError("a bug"), KeyboardInterrupt()], ids=["a bug", "an interruption"])
def test_anything_else_comes_out_as_it_is(error):
    with pytest.raises(type(error)):
        run(error)
