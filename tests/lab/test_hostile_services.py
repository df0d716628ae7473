"""Services that try to harm their node: each is contained, and the next call finds nothing of it.

A list of acts is heavy, so each act runs on one loop, in turn; what follows from the node's shell runs on all three.
"""

from pathlib import Path
from types import SimpleNamespace

import anyio
import compiled_engine
import pytest

from atoll.actors.container_manager.containers import Containers
from atoll.actors.container_manager.errors import Busy, ContainerError, Overran, ServiceFault
from atoll.actors.container_manager.lifecycle import GRACE_S
from atoll.actors.container_manager.messages import ServiceCall
from atoll.actors.container_manager.outbound import Inbound
from atoll.actors.container_manager.runtimes import frames, javascript
from atoll.actors.container_manager.runtimes.javascript import Worker, _Slot
from atoll.testing.services import service_archive

pytestmark = pytest.mark.anyio
LOOPS = [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True}), ("trio", {})]
PROGRAM = Path(__file__).with_name("hostile_services.js").read_text("utf-8")
SHORT_S = 0.1
PATIENCE_S = 10.0
"""How much later than its limit a call may end on a host that is busy."""

NEVER_END = [
    "loop",
    "swallow",
    "finallys",
    "built",
    "evaluated",
    "awaits",
    "immediates",
    "intervals",
    "regexp",
    "bigint",
    "power",
    "sorts",
    "thenable",
    "proxies",
    "logged",
    "joins",
    "swallowed",
    "then",
]
"""They are stopped at the time limit."""
END = {
    "threw": [
        "getters",
        "waits",
        "fills",
        "objects",
        "typed",
        "repeated",
        "doubled",
        "maps",
        "deepregexp",
        "tostrings",
        "hugereply",
        "piecewise",
        "crlf",
        "crlfname",
        "zero",
        "wide",
        "headers",
        "longheader",
        "code0",
        "code100",
        "code1000",
        "codenan",
        "codefloat",
        "codeobject",
        "rejected",
        "string",
        "nil",
        "badproxy",
        "badmessage",
        "surrogate",
        "context",
        "quota",
        "bigvalue",
        "bigkey",
        "deletes",
        "timers",
        "imports",
    ],
    "crashed": [
        "promises",
        "forks",
        "recursion",
        "recursed",
        "deepjson",
        "deepshow",
        "widereply",
        "nothing",
        "never",
        "tojson",
        "arrayjson",
        "push",
        "mapget",
        "bentheader",
        "bentask",
        "bentbody",
        "fetchmany",
        "gc",
    ],
    "answered": [
        "codebig",
        "twice",
        "after",
        "logsurrogate",
        "flood",
        "longline",
        "floodslow",
        "setter",
        "iterator",
        "freezes",
        "host",
        "zerokey",
        "sqlkey",
        "fetchfile",
        "fetchjunk",
        "fetchnowhere",
        "fetchheaders",
        "fetchlong",
        "fetchbody",
        "fetchfields",
    ],
}


async def fetch_nothing(_):
    raise ConnectionRefusedError("nobody listens there")


async def outcome(containers, service, act):
    """Say how a call ended, `late` if it took longer than its limit and what a slow host adds."""
    with anyio.move_on_after(SHORT_S + GRACE_S + PATIENCE_S if service == "short" else 60) as scope:
        try:
            await containers.call(ServiceCall(f"/{service}/{act}"))
        except ContainerError as error:
            return type(error).__name__.lower()
        return "answered"
    assert scope.cancelled_caught
    return "late"


async def next_answer(containers, service):
    """Call until the worker is there again, which after a kill takes longer than the short limit."""
    with anyio.fail_after(20):
        while True:
            try:
                return (await containers.call(ServiceCall(f"/{service}/"))).body
            except (Busy, Overran):
                await anyio.sleep(0.02)


@pytest.fixture
def engines():
    return compiled_engine.engines()


def in_turn(acts):
    return [pytest.param(loop, acts[at :: len(LOOPS)]) for at, loop in enumerate(LOOPS)]


@pytest.mark.parametrize(("anyio_backend", "acts"), in_turn(NEVER_END), indirect=["anyio_backend"])
async def test_a_call_that_never_ends_is_stopped_and_the_next_finds_a_clean_isolate(acts, tmp_path, engines):
    async with Containers(tmp_path, engines=engines) as containers:
        await containers.load_image(service_archive("hostile-v1", "1", PROGRAM))
        await containers.run("short", "hostile-v1", {"MCM.MAX_EXECUTION_TIME_SEC": str(SHORT_S)})
        assert await next_answer(containers, "short") == b"clean"
        seen = {act: (await outcome(containers, "short", act), await next_answer(containers, "short")) for act in acts}
        assert seen == dict.fromkeys(acts, ("overran", b"clean"))


EXPECTED = [(act, how) for how, acts in END.items() for act in acts]


@pytest.mark.parametrize(("anyio_backend", "acts"), in_turn(EXPECTED), indirect=["anyio_backend"])
async def test_what_a_service_tries_stays_in_its_call(acts, tmp_path, engines):
    async with Containers(tmp_path, engines=engines, fetch=fetch_nothing) as containers:
        await containers.load_image(service_archive("hostile-v1", "1", PROGRAM))
        await containers.run("patient", "hostile-v1")
        assert await next_answer(containers, "patient") == b"clean"
        worker = containers.worker_pids()
        seen = {
            act: (await outcome(containers, "patient", act), await next_answer(containers, "patient"))
            for act, _ in acts
        }
        assert seen == {act: (how, b"clean") for act, how in acts}
        assert containers.worker_pids() == worker, "one of them cost the worker, and with it its neighbours' calls"


def test_no_act_is_forgotten():
    acts = {line.split("(")[0].strip() for line in PROGRAM.splitlines() if line.startswith("  ") and "{" in line}
    tried = {*NEVER_END, *(act for act, _ in EXPECTED)}
    assert {act for act in acts if act.isidentifier()} - tried <= {"Array", "items", "each", "afterloop"}


BROKEN_PROGRAMS = {
    "an endless loop": ("for (;;) {}", "in time"),
    "a bomb": ("const all = []; for (;;) all.push(new Uint8Array(1 << 20).fill(1));", "memory"),
    "an error": ("throw new Error('on purpose');", "on purpose"),
    "no JavaScript": ("this is not { a program", "SyntaxError"),
    "recursion": ("(function f() { f(); })();", "recursion"),
    "nothing": ("", "exports no function"),
    "no function": ("mimikModule.exports = 42;", "exports no function"),
    "a bent JSON": ("Object.prototype.toJSON = () => 1; mimikModule.exports = () => {};", "bookkeeping"),
    "a module": ("import os from 'os'; export default 1;", "SyntaxError"),
}


@pytest.mark.parametrize(
    ("anyio_backend", "name"),
    [pytest.param(LOOPS[at % 3], name, id=name) for at, name in enumerate(BROKEN_PROGRAMS)],
    indirect=["anyio_backend"],
)
async def test_a_program_that_cannot_be_loaded_fails_its_calls_with_the_reason(name, tmp_path, engines, monkeypatch):
    monkeypatch.setattr(javascript, "LOAD_S", 0.5)
    program, reason = BROKEN_PROGRAMS[name]
    async with Containers(tmp_path, engines=engines) as containers:
        await containers.load_image(service_archive("broken-v1", "1", program))
        await containers.run("broken", "broken-v1")
        with pytest.raises(ServiceFault, match=reason):
            await containers.call(ServiceCall("/broken"))


async def test_what_runs_after_the_answer_is_stopped_too(tmp_path, engines):
    async with Containers(tmp_path, engines=engines) as containers:
        await containers.load_image(service_archive("hostile-v1", "1", PROGRAM))
        await containers.run("short", "hostile-v1", {"MCM.MAX_EXECUTION_TIME_SEC": str(SHORT_S)})
        assert await next_answer(containers, "short") == b"clean"
        assert (await containers.call(ServiceCall("/short/afterloop"))).body == b"one"
        assert await next_answer(containers, "short") == b"clean"


async def test_a_worker_that_asks_for_more_than_a_call_may_is_ended(tmp_path):
    begun = []
    tasks = SimpleNamespace(start_soon=lambda *arguments: begun.append(arguments))
    worker = Worker(tmp_path)
    worker._slots[1] = _Slot()
    asks = [frames.HttpAsk(1, token, "GET", "http://a.example/", (), b"") for token in range(40)]
    for ask in asks[: frames.ASKS_PER_CALL_MAX]:
        worker._take(ask, tasks)
    assert worker.gone == ""
    worker._take(frames.HttpAsk(2, 0, "GET", "http://a.example/", (), b""), tasks)
    worker._take(asks[-1], tasks)
    assert "more than 32 requests of one call" in worker.gone
    assert len(begun) == frames.ASKS_PER_CALL_MAX


async def test_a_request_of_a_service_cannot_smuggle_lines(tmp_path, engines):
    asked = []

    async def fetch(outbound):
        asked.append(outbound)
        return Inbound(status=200, body=b"fetched")

    program = """
    mimikModule.exports = (context, request, response) => {
      const [url, options] = JSON.parse(request.body);
      fetch(url, options).then((answer) => answer.text()).then(
        (text) => response.end(text), (error) => response.end('!' + error.message));
    };"""
    async with Containers(tmp_path, engines=engines, fetch=fetch) as containers:
        await containers.load_image(service_archive("asker-v1", "1", program))
        await containers.run("asker", "asker-v1")
        for body in (
            b'["http://x/ HTTP/1.1\\r\\nx: y", {}]',
            b'["http://x/\\n", {}]',
            b'["http://x/\\u00e9", {}]',
            b'["http://x/", {"method": "GET / HTTP/1.1\\r\\nx:"}]',
            b'["http://x/", {"headers": {"a\\r\\nb": "c"}}]',
            b'["http://x/", {"headers": {"a": "b\\r\\nc: d"}}]',
            b'["file:///etc/passwd", {}]',
            b'["//x/", {}]',
        ):
            reply = await containers.call(ServiceCall("/asker", "POST", (), body))
            assert reply.body.startswith(b"!"), body
        assert asked == []
        reply = await containers.call(ServiceCall("/asker", "POST", (), b'["http://x/?y=1", {"headers": {"a": "b"}}]'))
        assert reply.body == b"fetched"
        assert [(each.url, each.headers) for each in asked] == [("http://x/?y=1", (("a", "b"),))]
