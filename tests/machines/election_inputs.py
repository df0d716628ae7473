"""What happens to an election machine; its invariants hold after each input."""

from atoll.actors.runtime.machine import Received, TimerFired, Told


def receive(election, sender, message, now):
    effects = election.handle(Received(sender, message), now)
    election.check()
    return effects


def tell(election, fact, now):
    effects = election.handle(Told(fact), now)
    election.check()
    return effects


def fire(election, timer, now):
    effects = election.handle(TimerFired(timer), now)
    election.check()
    return effects
