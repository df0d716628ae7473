"""What callers of one actor hear, judged: each reply is the list of all operations, up to that which it answers.

So the replies must be beginnings of each other; one that was begun after another was answered must have it inside; who
asks again gets the same; and nobody is refused, for each caller asks one thing after the other.
"""

from random import Random

from atoll.actors.hand_over.messages import Call, CallAnswered, CallRefused
from atoll.transport.codec import Message

CALLERS = 3


class Operations:
    """An actor that answers each operation with all of them."""

    def __init__(self) -> None:
        self.done = b""

    def apply(self, operation: bytes, _number: int) -> bytes:
        """Append it."""
        self.done += operation
        return self.done

    def snapshot(self) -> bytes:
        """Give all."""
        return self.done

    def restore(self, data: bytes) -> None:
        """Take all."""
        self.done = data

    def end(self) -> None:
        """There is nothing to end."""


class Caller:
    """One client, with one operation at a time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sequence = 0
        self.waits = False
        self.after = b""
        """The longest reply that anybody had when it asked."""
        self.reply = b""


class ChainedReplies:
    """The callers of one actor, and what was wrong in what they heard."""

    def __init__(self, actor: str, rng: Random, violations: list[str]) -> None:
        self._actor = actor
        self._rng = rng
        self._violations = violations
        self.callers = [Caller(number + 1) for number in range(CALLERS)]
        self.answered = 0
        self._longest = b""

    def idle(self) -> Caller | None:
        """Give one that waits for nothing."""
        idle = [caller for caller in self.callers if not caller.waits]
        return self._rng.choice(idle) if idle else None

    def asked(self) -> Caller | None:
        """Give one that has asked something."""
        asked = [caller for caller in self.callers if caller.sequence]
        return self._rng.choice(asked) if asked else None

    def begin(self, caller: Caller) -> Call:
        """Let a caller ask for its next operation."""
        caller.sequence, caller.waits, caller.after = caller.sequence + 1, True, self._longest
        return self.call_of(caller)

    def call_of(self, caller: Caller) -> Call:
        """Give what a caller asked last."""
        operation = b"%d.%d " % (caller.number, caller.sequence)
        return Call(self._actor, caller.number, caller.sequence, operation)

    def told(self, message: Message) -> None:
        """Hear what a caller hears."""
        if isinstance(message, CallRefused) and self.callers[message.client - 1].sequence == message.sequence:
            self._violations.append(f"{message.client}.{message.sequence} was refused: {message.why}")
        if not isinstance(message, CallAnswered):
            return
        caller, reply = self.callers[message.client - 1], message.reply
        if message.sequence < caller.sequence:
            return
        name = f"the answer to {message.client}.{message.sequence}"
        if not caller.waits:
            if reply != caller.reply:
                self._violations.append(f"{name} is {reply!r} now, and was {caller.reply!r}")
            return
        caller.waits, caller.reply = False, reply
        self.answered += 1
        if not reply.startswith(caller.after):
            self._violations.append(f"{name} is {reply!r}, after {caller.after!r}")
        elif not (reply.startswith(self._longest) or self._longest.startswith(reply)):
            self._violations.append(f"{name} is {reply!r}, and another {self._longest!r}")
        elif len(set(done := reply.split())) != len(done):
            self._violations.append(f"{name} has something twice: {reply!r}")
        self._longest = max(self._longest, reply, key=len)
