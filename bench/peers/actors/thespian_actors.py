"""Thespian: within a process its simpleSystemBase (no concurrency), across processes its multiprocTCPBase.

Its multiprocQueueBase is three times faster with one ask in flight, but stands still for ever with 64.
"""

from typing import Any

from thespian.actors import Actor, ActorSystem

from atoll.bench.peers.actors.contender import IN_FLIGHT
from atoll.bench.peers.actors.serving import asked, repeated, serve, told
from atoll.bench.peers.keeper import adopt_orphans

SILENCE_S = 20


class Echo(Actor):
    """Gives back what asks for it."""

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802 - Thespian's name
        """Answer an ask."""
        if message == "ask":
            self.send(sender, message)


def _batch(system: ActorSystem, echo: Any) -> None:
    for _ in range(IN_FLIGHT):
        system.tell(echo, "ask")
    for _ in range(IN_FLIGHT):
        if system.listen(SILENCE_S) is None:
            raise TimeoutError("an answer did not come")


def main() -> None:
    """Start both systems and serve."""
    # Before it starts its processes: they leave their parent at once.
    adopt_orphans()
    within = ActorSystem("simpleSystemBase", transientUnique=True)
    across = ActorSystem("multiprocTCPBase", transientUnique=True)
    near, far = within.createActor(Echo), across.createActor(Echo)
    serve(
        "thespian",
        {
            "tell": told(lambda: within.tell(near, "tell"), lambda: within.ask(near, "ask", SILENCE_S)),
            "ask": asked(lambda: within.ask(near, "ask", SILENCE_S)),
            "asks": repeated(lambda: _batch(within, near), IN_FLIGHT),
            "ask_across": asked(lambda: across.ask(far, "ask", SILENCE_S)),
            "asks_across": repeated(lambda: _batch(across, far), IN_FLIGHT),
        },
    )


if __name__ == "__main__":
    main()
