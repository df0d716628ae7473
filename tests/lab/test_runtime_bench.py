"""The actors' benchmark runs to its end and reports every figure; speeds are not judged here."""

import json

import anyio.lowlevel
import pytest

from atoll.bench.actors import _asked, _told, run


def test_a_short_run_reports_every_figure(monkeypatch):
    loop = "trio"  # On every loop it takes half a minute: `make bench` does that.
    monkeypatch.setattr("atoll.bench.actors.ACTORS", 20)
    report = run(duration_s=0.5, loops=[loop])
    named = {each.name.removeprefix(f"{loop}, "): each for each in report.rows}
    assert set(named) >= {
        "tell",
        "ask, 1 in flight",
        "ask, 64 in flight",
        "spawn",
        "ask another process, p50",
        "ask another process, 256 in flight",
        "tell another process",
        "ask another process by link, p50",
        "ask another process by link, 256 in flight",
        "tell another process by link",
        "tell another process by link, CPU here",
        "ask another process by link, p50, to ZeroMQ",
        "ask another process by link, 256 in flight, to ZeroMQ",
    }
    for each in report.rows:
        assert 0 < each.minimum <= each.median <= each.maximum, each
    assert named["tell"].against == f"{loop}, deque and parked task"
    assert named["ask another process, p50"].against.startswith(f"{loop}, TCP echo")
    assert named["tell another process by link"].against == f"{loop}, tell another process"
    json.dumps(report.as_dict())
    assert "spawn and first message" in report.table()


@pytest.mark.anyio
async def test_a_host_that_has_no_time_at_all_still_gets_a_figure():
    asked = await _asked(anyio.lowlevel.checkpoint, 3, 0.0)
    told = await _told(lambda: None, anyio.lowlevel.checkpoint, 0.0)
    assert asked.count == 30
    assert min(asked.per_s, asked.per_cpu_s, told.per_s, told.per_cpu_s) > 0
