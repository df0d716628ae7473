"""A test that fails while the host stands still says nothing: it is void, is run again, and the summary says so.

    failed --the host stood still meanwhile--> void --run again alone, `AGAIN_MAX` times--> passed or failed
           --it did not-----------------------> failed

A host that gives little gives it to this test, then: the others wait (`turns.py`).

How long the host stood still is measured by a process beside the tests (`testing/host_pauses.py`), so this repeats no
test because it failed, but because the host did. What stalls do to the product is looked for by `make lab-stalled`,
where nothing is void.
"""

import os
import time

import pytest
from _pytest.runner import runtestprotocol
from turns import Turns

from atoll.testing.host_pauses import HostPauses

AGAIN_MAX = 2
STILL_S = 0.25
"""At once; heartbeats of tests come several times in it."""
STILL_PART = 0.1
"""Of the time that the test took, in many small pauses: the host gave others so much of it."""
VOID = "void"


class VoidTests:
    """The plugin; one for each process that runs tests."""

    def __init__(self, pauses=HostPauses):
        self.pauses = pauses()
        self.turns = None
        self.runs_tests = False
        self.voids = {}

    def pytest_sessionstart(self, session):
        is_worker = hasattr(session.config, "workerinput")
        self.turns = Turns(os.getppid() if is_worker else os.getpid())
        session.config.pluginmanager.register(self.turns)
        self.runs_tests = is_worker or not session.config.getoption("numprocesses", None)
        if self.runs_tests:
            self.pauses.__enter__()

    def pytest_sessionfinish(self, session):
        if self.runs_tests:
            self.pauses.__exit__(None, None, None)
        self.turns.close()
        if not hasattr(session.config, "workerinput"):
            self.turns.remove()

    def why_void(self, began):
        """Say how the host stood still since then; empty: it did not, or not for long."""
        took_s = time.monotonic() - began
        longest_s, total_s = self.pauses.longest_s(began), self.pauses.total_s(began)
        if longest_s < STILL_S and total_s < STILL_PART * took_s:
            return ""
        return f"the host stood still for {longest_s:.2f} s at once, {total_s:.2f} of {took_s:.2f} s in all"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        """Run a test, and once more where its failure is void."""
        voids = self.voids.setdefault(item.nodeid, [])
        if not voids:
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        began = time.monotonic()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        failed = next((each for each in reports if each.failed), None)
        if failed is not None and len(voids) < AGAIN_MAX and (why := self.why_void(began)):
            voids.append(f"{item.nodeid}: {why}; it had failed with {said_by(failed)}")
            # By the hook, so that limits of time and whatever else lies around a test lie around this one, too; the
            # limit of the one that has failed ends here, or it would count the others' ends.
            item.ihook.pytest_timeout_cancel_timer(item=item)
            with self.turns.alone():
                return item.ihook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        reports[-1].user_properties += [(VOID, each) for each in self.voids.pop(item.nodeid)]
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_terminal_summary(self, terminalreporter):
        reports = [report for each in terminalreporter.stats.values() for report in each]
        voids = [text for report in reports for name, text in getattr(report, "user_properties", ()) if name == VOID]
        if voids:
            terminalreporter.section(f"{len(voids)} void: the host stood still, and they were run again", sep="-")
            for text in sorted(set(voids)):
                terminalreporter.line(text)


def said_by(report):
    """Give the first line of what a failed test says."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = report.longreprtext if crash is None else crash.message
    return " ".join(text.split())[:300]
