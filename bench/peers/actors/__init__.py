"""Tells and asks through other actor libraries, where they are installed; each in processes of its own.

    contender -> us    its name, when it is ready
    us -> contender    OPERATION SECONDS
    contender -> us    {"count": …, "took_s": …}, with "p50_us" where it measured one after the other

all as lines. Operations are `tell`, `ask` (one in flight), `asks` (64), `ask_across` (another process, one) and
`asks_across` (64).
"""

from atoll.bench.peers.actors.contender import CONTENDERS, chosen, measured

__all__ = ["CONTENDERS", "chosen", "measured"]
