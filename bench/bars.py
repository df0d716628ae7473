"""What is asked of each figure (`docs/performance.md`), by the row's name; a figure without a bar is only looked at."""

from atoll.bench.report import Bar

RELAY = {
    "BEP, 65000 B records, CPU": Bar(0.40, at_most=True),
    "BEP, 1024 B messages": Bar(250),
    "BEP, 64 B messages": Bar(500),
    "BEP, session, 1024 B messages": Bar(250),
    "BEP, session, 64 B messages": Bar(500),
    "BEP, round trip 64 B p50": Bar(3, at_most=True, of_ratio=True),
    "SEP, 1024 B records": Bar(0.5, of_ratio=True),
    "BEP, tunnels set up with sessions": Bar(300),
    "BEP, set-up with session p99": Bar(50, at_most=True),
    "BEP, round trip beside slow readers p99": Bar(2, at_most=True, of_ratio=True),
    "SEP, round trip beside a callee that does not read p99": Bar(2, at_most=True, of_ratio=True),
    "SEP, memory of the relay for a callee that does not read": Bar(16, at_most=True),
    "relay, memory per slow reader": Bar(16, at_most=True),
    "relay, memory with 9000 idle": Bar(60, at_most=True),
    "BEP, CPU with 9000 idle": Bar(3, at_most=True),
    "BEP to socat, 65000 B records": Bar(0.7),
    "BEP to ssh -R, 65000 B records": Bar(2),
}

DEQUE_AND_TASK_PER_S = 7e6
"""What a deque and one parked task do in a second on the host whose speed the bars of actors were set for.

It is measured on each loop, so the speed of a host by it is also that of the loop: a help to read figures by, no bar.
"""

ACTORS = {
    "tell": Bar(1.5e6, of_speed=True),
    "ask, 1 in flight": Bar(100e3, of_speed=True),
    "ask, 64 in flight": Bar(300e3, of_speed=True),
    "spawn and first message": Bar(30, at_most=True, of_speed=True),
    "actor that has just worked": Bar(4000, at_most=True),
    "ask another process by link, p50": Bar(300, at_most=True, of_speed=True),
    "ask another process by link, 256 in flight": Bar(50e3, of_speed=True),
    "tell another process by link": Bar(150e3, of_speed=True),
}
