"""Switching by label: the SEP beside libzmq's own proxy, sealed records from a caller to a callee, CURVE on both."""

import os
from functools import partial
from typing import Any

from atoll.actors.tunnel_relay.sep_client import FreshKey
from atoll.actors.tunnel_relay.tickets import Role
from atoll.bench.relay_process import RELAY, ticket
from atoll.bench.report import Row
from atoll.bench.rounds import turns
from atoll.bench.stage import Stage
from atoll.transport.keys import NodeKey


def _dialled(port: int, server: NodeKey, key: FreshKey) -> dict[str, Any]:
    """Give what an end needs to dial a CURVE port, as plain data."""
    return {
        "port": port,
        "server": server.node_id.curve_key.hex(),
        "public": key.public.hex(),
        "secret": key.secret.hex(),
    }


def switching(stage: Stage, message_bytes: int) -> None:
    """Compare the SEP with libzmq's own proxy in C: sealed records from a caller to a callee, CURVE on both."""
    answers = turns(
        {
            "C switch": lambda round_s: _through_c(stage, message_bytes, round_s),
            "SEP": lambda round_s: _through_sep(stage, message_bytes, round_s),
        },
        stage.round_s,
    )
    baselines: dict[str, Row] = {}
    for way, rounds in answers.items():
        rates = [got["records"] / got["took_s"] / 1e3 for got in rounds]
        costs = [got["cpu_s"] / max(1, got["records"]) * 1e6 for got in rounds]
        for unit, slices in (("thousand/s", rates), ("us CPU", costs)):
            name = f"{way}, {message_bytes} B records{', CPU each' if unit == 'us CPU' else ''}"
            figure = stage.add(name, unit, slices, baselines.get(unit), group=f"switching, {unit}")
            baselines.setdefault(unit, figure)
    stage.add("SEP, records lost", "records", [sum(got["lost"] for got in answers["SEP"])])


def _through_sep(stage: Stage, message_bytes: int, round_s: float) -> dict[str, Any]:
    calling, serving, registration = FreshKey.generate(), FreshKey.generate(), os.urandom(16)
    before_s = stage.relay.cpu_s()
    stage.receiver.begin(
        "sep_serve",
        tickets=ticket(Role.REGISTER, registration, holder=serving.public).hex(),
        **_dialled(stage.relay.sep_port, RELAY, serving),
    )
    got = stage.sender.do(
        "sep_call",
        message_bytes=message_bytes,
        duration_s=round_s,
        ticket=ticket(Role.REACH, registration, holder=calling.public).hex(),
        **_dialled(stage.relay.sep_port, RELAY, calling),
    )
    stage.receiver.answer()
    return got | {"cpu_s": stage.relay.cpu_s() - before_s}


def _through_c(stage: Stage, message_bytes: int, round_s: float) -> dict[str, Any]:
    before_s = stage.third.cpu_s()
    ports = stage.third.do("c_switch", secret=RELAY.curve_secret.hex())
    stage.receiver.begin("sep_serve", tickets="", **_dialled(ports["serving"], RELAY, FreshKey.generate()))
    called = _dialled(ports["calling"], RELAY, FreshKey.generate())
    got = stage.sender.do("sep_call", message_bytes=message_bytes, duration_s=round_s, ticket="", **called)
    stage.receiver.answer()
    stage.third.do("c_switch_ends")
    return got | {"cpu_s": stage.third.cpu_s() - before_s}


def slow_callee(stage: Stage) -> None:
    """Compare round trips beside a callee who reads what it is sent, and beside one who does not."""
    grown: list[float] = []

    def measure(round_s: float, *, reads: bool) -> dict[str, Any]:
        before_bytes = stage.relay.rss_bytes()
        keys = [FreshKey.generate() for _ in range(4)]
        calling, serving, other_calling, other_serving = keys
        here, there = os.urandom(16), os.urandom(16)
        port = stage.relay.sep_port
        stage.third.begin(
            "sep_disturb",
            # Longer than the others, who have to agree first.
            duration_s=round_s * 1.5,
            reads=reads,
            tickets=ticket(Role.REGISTER, there, holder=other_serving.public).hex(),
            ticket=ticket(Role.REACH, there, holder=other_calling.public).hex(),
            serving=_dialled(port, RELAY, other_serving),
            calling=_dialled(port, RELAY, other_calling),
        )
        registers = ticket(Role.REGISTER, here, holder=serving.public).hex()
        stage.receiver.begin("sep_echo", tickets=registers, **_dialled(port, RELAY, serving))
        reaches = ticket(Role.REACH, here, holder=calling.public).hex()
        got = stage.sender.do("sep_ping", duration_s=round_s, ticket=reaches, **_dialled(port, RELAY, calling))
        grown.append((stage.relay.rss_bytes() - before_bytes) / 1e6)
        stage.receiver.answer()
        disturbed = stage.third.answer()
        return got | {"refused": disturbed["undelivered"] / disturbed["sent"]}

    answers = turns(
        {"reads": partial(measure, reads=True), "does not read": partial(measure, reads=False)}, stage.round_s
    )
    for quantile in ("p50", "p99"):
        baseline: Row | None = None
        for which, rounds in answers.items():
            slices = [got[f"{quantile}_s"] * 1e6 for got in rounds]
            name = f"SEP, round trip beside a callee that {which} {quantile}"
            figure = stage.add(name, "us", slices, baseline, group=f"SEP beside a busy callee, {quantile}")
            baseline = baseline or figure
    refused = [got["refused"] * 100 for got in answers["does not read"]]
    stage.add("SEP, records told back as undelivered, callee does not read", "%", refused)
    stage.add("SEP, memory of the relay for a callee that does not read", "MB", [max(grown)])
