"""pykka: an actor is a thread; other processes are not its business."""

from typing import Any

import pykka

from atoll.bench.peers.actors.contender import IN_FLIGHT
from atoll.bench.peers.actors.serving import asked, repeated, serve, told


class Echo(pykka.ThreadingActor):
    """Gives back what it gets."""

    def on_receive(self, message: Any) -> Any:
        """Answer."""
        return message


def main() -> None:
    """Start the actor and serve."""
    ref = Echo.start()

    def batch() -> None:
        for answer in [ref.ask(1, block=False) for _ in range(IN_FLIGHT)]:
            answer.get()

    serve(
        "pykka",
        {
            "tell": told(lambda: ref.tell(1), lambda: ref.ask(1)),
            "ask": asked(lambda: ref.ask(1)),
            "asks": repeated(batch, IN_FLIGHT),
        },
    )


if __name__ == "__main__":
    main()
