"""When the paths of a session end, and that the next one is there before."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.router import lifetimes as limits
from atoll.actors.router.lifetimes import Close, Leave, Lifetimes, Renew, Seen
from atoll.actors.router.routes import Way

BEP, SEP = Way.BEP, Way.SEP
UNDER_WAY_S = 0.6
KNOWN_S = 3.0
"""When Signaling knows of a drain, too."""


class Session:
    """One session and its paths, in virtual time, with a Router that does what it is told."""

    kind = Lifetimes

    def __init__(self, kind=None, *, answers=True, opens_after_s=0.5):
        self.now = 1000.0
        self.lifetimes = (kind or self.kind)()
        self.answers, self.opens_after_s = answers, opens_after_s
        self.paths, self.ends, self.used, self.effects = {}, {}, None, []
        self.coming, self.serial, self.life_s = [], 0, 600.0
        self.cut, self.breaks = [], []
        self.busy = set()
        """Paths over which something comes all the time."""
        self.left = set()
        self.under_way_until = {}
        """What was sent over a path before it was left comes a little later."""
        self.without_bearer_s = 0.0
        self.drained = ""
        """A relay that takes nobody."""
        self.drained_at = 0.0

    def open(self, way=BEP, relay="relay-1", life_s=None, *, usable=True):
        self.serial += 1
        ends_at = math.inf if life_s is None else self.now + life_s
        self.paths[self.serial], self.ends[self.serial] = [way, relay, usable, self.now], ends_at
        self.lifetimes.opened(self.serial, way, relay, self.now, ends_at)
        return self.serial

    def use(self, path):
        self.used = path

    def seen(self):
        return {
            path: Seen(usable, path == self.used, self.now if path in self.busy else heard_at)
            for path, (_, _, usable, heard_at) in self.paths.items()
        }

    def look(self):
        for effect in self.lifetimes.look(self.seen(), self.now):
            self.effects.append((round(self.now - 1000.0, 2), effect))
            match effect:
                case Renew(way) if self.answers:
                    relays = [each for each in ("relay-1", "relay-2", "relay-3") if each not in effect.avoid]
                    if self.now > self.drained_at + KNOWN_S:
                        relays = [each for each in relays if each != self.drained]
                    elif relays[0] == self.drained:
                        self.breaks.append("a tunnel was asked of a drained relay")
                    self.coming.append((self.now + self.opens_after_s, way, relays[0]))
                case Leave(path):
                    self.left.add(path)
                    self.paths[path][3], self.under_way_until[path] = self.now, self.now + UNDER_WAY_S
                    if path == self.used:
                        fresh = [
                            each for each, (_, _, usable, _) in self.paths.items() if usable and each not in self.left
                        ]
                        if not fresh:
                            self.breaks.append("left for nothing")
                            continue
                        self.used = max(fresh, key=lambda each: (self.paths[each][0] is BEP, self.ends[each]))
                case Close(path):
                    if path == self.used or path in self.busy or self.now < self.under_way_until[path]:
                        self.breaks.append(f"{path} was closed in use")
                    del self.paths[path]

    def run(self, seconds):
        until = self.now + seconds
        while self.now < until:
            self.now += 0.25
            for at, way, relay in list(self.coming):
                if self.now >= at:
                    self.coming.remove((at, way, relay))
                    if relay == self.drained:
                        continue
                    path = self.open(way, relay, None if way is SEP else self.life_s)
                    if self.used not in self.paths or (way is BEP and self.paths[self.used][0] is SEP):
                        self.used = path
            self.look()
            self.without_bearer_s += 0.25 * (self.used not in self.paths or self.paths[self.used][0] is not BEP)
            for path in [each for each, end in self.ends.items() if each in self.paths and self.now >= end]:
                self.cut.append(path)
                if path == self.used:
                    self.breaks.append(f"{path} was cut in use")
                del self.paths[path]
        return self

    def said(self, kind):
        return [each for _, each in self.effects if isinstance(each, kind)]


def test_a_bearer_is_replaced_before_its_ticket_ends_and_left_when_the_next_one_is_there():
    session = Session()
    old = session.open(life_s=600.0)
    session.use(old)
    session.run(539.0)
    assert session.effects == []
    session.run(20.0)
    assert [type(each).__name__ for each in (each for _, each in session.effects)] == ["Renew", "Leave", "Close"]
    renewed, left, closed = (at for at, _ in session.effects)
    assert renewed == 600.0 - limits.RENEW_BEFORE_S
    assert left >= renewed + session.opens_after_s
    assert closed >= left + limits.QUIET_S
    assert session.said(Leave)[0].reason == "the ticket for relay-1 expires"
    assert (session.used, session.cut, session.breaks) == (2, [], [])


def test_short_tickets_are_renewed_in_their_last_quarter():
    session = Session()
    session.life_s = 8.0
    session.use(session.open(life_s=8.0))
    session.run(60.0)
    assert session.effects[0][0] == 6.0
    assert len(session.said(Renew)) == len(session.said(Close)) + (session.effects[-1][1] not in session.said(Close))
    assert 7 <= len(session.said(Renew)) <= 10
    assert (session.cut, session.breaks) == ([], [])


def test_while_nobody_gives_another_it_is_asked_for_again_and_the_last_second_goes_to_signaling():
    session = Session(answers=False)
    session.open(SEP, "relay-2")
    session.use(session.open(BEP, life_s=60.0))
    session.run(55.0)
    session.run(15.0)
    asked = [at for at, each in session.effects if isinstance(each, Renew)]
    assert asked[0] == 45.0
    assert asked == [45.0, 47.0, 51.0, 59.0]
    (left_at,) = [at for at, each in session.effects if isinstance(each, Leave)]
    assert left_at == 60.0 - limits.LAST_S
    assert session.breaks == []


def test_a_relay_that_is_drained_is_left_at_once_for_another_and_avoided():
    session = Session()
    signaling = session.open(SEP, "relay-1")
    session.use(session.open(BEP, "relay-1", 600.0))
    assert session.lifetimes.going("relay-1", session.now)
    assert not session.lifetimes.going("relay-9", session.now)
    assert not session.lifetimes.is_fresh(signaling, session.now)
    session.run(10.0)
    assert {(each.way, each.avoid) for each in session.said(Renew)} == {(BEP, ("relay-1",)), (SEP, ("relay-1",))}
    assert {each.path for each in session.said(Close)} == {1, 2}
    assert all("drained" in each.reason for each in session.said(Leave))
    assert {relay for _, relay, _, _ in session.paths.values()} == {"relay-2"}
    assert session.lifetimes.avoided() == (), "nothing leads over it any more"
    assert session.breaks == []


def test_of_two_bearers_the_one_that_is_not_drained_is_enough():
    session = Session()
    session.use(session.open(BEP, "relay-1", 600.0))
    session.open(BEP, "relay-2", 600.0)
    session.lifetimes.going("relay-1", session.now)
    session.run(5.0)
    assert session.said(Renew) == []
    assert session.used == 2


def test_a_path_that_the_peer_ends_is_replaced_over_another_relay():
    session = Session()
    path = session.open(BEP, "relay-1", 600.0)
    session.use(path)
    session.lifetimes.ending(path, session.now)
    session.lifetimes.ending(99, session.now)
    session.run(5.0)
    assert [each.avoid for each in session.said(Renew)] == [("relay-1",)]
    assert session.paths[session.used][1] == "relay-2"


def test_what_nobody_needs_is_let_go_without_another():
    session = Session()
    session.open(SEP, "relay-1")
    path = session.open(BEP, "relay-1", 600.0)
    session.use(path)
    session.lifetimes.needless(path, session.now, "nobody has used it for 60 s")
    session.run(5.0)
    assert [type(each) for _, each in session.effects] == [Leave, Close]
    assert session.used == 1


def test_the_only_path_is_never_let_go():
    session = Session()
    path = session.open(BEP, "relay-1", 600.0)
    session.use(path)
    session.lifetimes.needless(path, session.now, "nobody has used it for 60 s")
    session.run(5.0)
    assert session.effects == []


def test_a_path_over_which_something_comes_is_not_closed_but_for_a_while():
    session = Session()
    path = session.open(BEP, "relay-1", 600.0)
    session.use(path)
    session.open(BEP, "relay-2", 600.0)
    session.busy.add(path)
    session.lifetimes.going("relay-1", session.now)
    session.run(limits.LEAVING_S_MAX - 1.0)
    assert session.said(Close) == []
    session.busy.clear()
    session.paths[path][3] = session.now
    session.run(2.0)
    assert len(session.said(Close)) == 1


class NeverRenews(Lifetimes):
    def _look(self, way, lives, seen, now):
        return [each for each in super()._look(way, lives, seen, now) if not isinstance(each, Renew)]


class LeavesBeforeTheNextIsThere(Lifetimes):
    def _look(self, way, lives, seen, now):
        due = [path for path, each in lives.items() if now >= each.due_at and each.left_at is None]
        effects = super()._look(way, lives, seen, now)
        left = [each.path for each in effects if isinstance(each, Leave)]
        for path in due:
            if path not in left:
                lives[path].left_at = now
                effects.append(Leave(path, "at once"))
        return effects


class ClosesWhatItLeavesAtOnce(Lifetimes):
    @staticmethod
    def _may_end(life, seen, now):
        return life.left_at is not None


class ForgetsWhichRelaysGo(Lifetimes):
    def avoided(self):
        return ()


class AsksAllTheTime(Lifetimes):
    def _look(self, way, lives, seen, now):
        for each in self._unreplaced.values():
            each.ask_at = now
        return super()._look(way, lives, seen, now)


class BelievesInAnEndlessTicket(Lifetimes):
    def opened(self, path, way, relay, now, ends_at=math.inf):
        super().opened(path, way, relay, now, math.inf)


def violations(kind, seed):
    """A day of tickets, drains and questions that come to nothing: no path is cut in use, or closed too soon."""
    rng = Random(seed)
    session = Session(kind, opens_after_s=rng.uniform(0.1, 1.5))
    session.life_s = rng.choice([8.0, 20.0, 60.0])
    session.open(SEP, "relay-1")
    session.use(session.open(BEP, "relay-1", session.life_s))
    for _ in range(20):
        session.run(rng.uniform(1.0, 15.0))
        if session.used not in session.paths:
            break
        if rng.random() < 0.5:
            session.drained = session.paths[session.used][1]
            session.drained_at = session.now
            session.lifetimes.going(session.drained, session.now)
    asked = [at for at, each in session.effects if isinstance(each, Renew) and each.way is BEP]
    hasty = any(later - sooner < limits.ASK_AGAIN_S for sooner, later in zip(asked, asked[3:], strict=False))
    wrong = ["it asks without a pause"] if hasty else []
    if session.without_bearer_s > 20.0:
        wrong.append(f"no bearer for {session.without_bearer_s:g} s")
    return [*session.breaks, *wrong, *(f"{each} was cut" for each in session.cut)]


MUTANTS = (
    NeverRenews,
    LeavesBeforeTheNextIsThere,
    ClosesWhatItLeavesAtOnce,
    ForgetsWhichRelaysGo,
    AsksAllTheTime,
    BelievesInAnEndlessTicket,
)


@pytest.mark.parametrize("seed", range(12))
def test_no_bearer_is_cut_in_use_whatever_tickets_and_drains_do(seed):
    assert violations(Lifetimes, seed) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.__name__)
def test_each_rule_is_missed_in_at_least_half_of_the_seeds(mutant):
    killed = [seed for seed in range(12) if violations(mutant, seed)]
    assert len(killed) >= 6, f"only seeds {killed} notice {mutant.__name__}"


@given(
    lives=st.lists(
        st.tuples(st.sampled_from([BEP, SEP]), st.sampled_from(["a", "b"]), st.floats()),
        max_size=6,
    ),
    events=st.lists(st.tuples(st.sampled_from(["going", "ending", "needless", "gone"]), st.integers(0, 6)), max_size=6),
    times=st.lists(st.floats(0.0, 1000.0), max_size=8),
)
def test_whatever_happens_nothing_is_closed_that_was_not_left_and_nothing_twice(lives, events, times):
    lifetimes, now = Lifetimes(), 0.0
    for number, (way, relay, ends_at) in enumerate(lives):
        lifetimes.opened(number, way, relay, 0.0, ends_at)
    seen = {number: Seen(usable=number % 2 == 0, in_use=number == 0, heard_at=0.0) for number in range(len(lives))}
    left, closed = set(), set()
    for step in times:
        now += step
        for name, number in events:
            arguments = {"going": ("a", now), "needless": (number, now, "no need"), "gone": (number,)}
            getattr(lifetimes, name)(*arguments.get(name, (number, now)))
        for effect in lifetimes.look(seen, now):
            match effect:
                case Leave(path):
                    assert path not in left
                    left.add(path)
                case Close(path):
                    assert path in left
                    assert not seen[path].in_use
                    assert path not in closed
                    closed.add(path)
                    del seen[path]
