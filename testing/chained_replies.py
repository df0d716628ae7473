"""What callers of one actor hear, judged: each reply is the list of all operations, up to that which it answers.

So the replies must be beginnings of each other; one that was begun after another was answered must have it inside; who
asks again gets the same; and nobody is refused, for each caller asks one thing after the other.

An actor that is removed begins anew, empty: nothing that the one before answered is in it, and nobody who asked after
the removal is answered by the one before.
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
        self.client = number
        self.asked = 0
        """How many operations."""
        self.sequence = 0
        self.waits = False
        self.after = b""
        """The longest reply that anybody had when it asked."""
        self.life = self.known_in = 0
        """Of the actor: when it asked, and when it got its client number."""
        self.since = 1
        """A generation of the actor in that life, which it says with each call."""
        self.answered_in = -1
        """The life that answered its client number last."""
        self.reply = b""


class ChainedReplies:
    """The callers of one actor, and what was wrong in what they heard."""

    def __init__(self, actor: str, rng: Random, violations: list[str]) -> None:
        self._actor = actor
        self._rng = rng
        self._violations = violations
        self.callers = [Caller(number + 1) for number in range(CALLERS)]
        self.answered = 0
        self._ends: list[int] = []
        """Up to which generation each life of the actor went that is over."""
        self._longest: dict[int, bytes] = {}
        self._answered_in: dict[bytes, int] = {}

    @property
    def life(self) -> int:
        """Count the removals."""
        return len(self._ends)

    def removed(self, up_to: int) -> None:
        """Hear that the actor was removed, and that these generations are used up."""
        self._ends.append(up_to)

    def life_of(self, generation: int) -> int:
        """Say to which life of the actor a generation belongs."""
        return sum(generation > end for end in self._ends)

    def _first_of(self, life: int) -> int:
        """Give the generation with which a life of the actor begins."""
        return self._ends[life - 1] + 1 if life else 1

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
        caller.asked, caller.sequence, caller.waits = caller.asked + 1, caller.sequence + 1, True
        caller.life, caller.after = self.life, self._longest.get(self.life, b"")
        return self.call_of(caller)

    def call_of(self, caller: Caller) -> Call:
        """Give what a caller asked last."""
        operation = b"%d.%d " % (caller.number, caller.asked)
        return Call(self._actor, caller.client, caller.sequence, operation, caller.since)

    def caller_of(self, client: int) -> Caller | None:
        """Give the caller of a client number; None where it has another one by now."""
        caller = self.callers[(client - 1) % CALLERS]
        return caller if caller.client == client else None

    def _refused(self, caller: Caller, message: CallRefused) -> None:
        # Who died before it served is not known to have begun: the next one did, and knows nobody either.
        later = message.began > caller.since and caller.answered_in != self.life_of(message.began)
        if not (message.unknown and (later or (not message.began and caller.known_in < self.life))):
            self._violations.append(f"{message.client}.{message.sequence} was refused: {message.why}")
        elif caller.waits:
            since = message.began or self._first_of(self.life)
            caller.client, caller.sequence, caller.since = caller.client + CALLERS, 1, since
            caller.known_in, caller.answered_in = self.life_of(since), -1

    def told(self, message: Message) -> None:
        """Hear what a caller hears."""
        if not isinstance(message, CallAnswered | CallRefused):
            return
        caller = self.caller_of(message.client)
        if caller is None or message.sequence < caller.sequence:
            return
        if isinstance(message, CallRefused):
            self._refused(caller, message)
            return
        self._answered(caller, message)

    def _answered(self, caller: Caller, message: CallAnswered) -> None:
        reply, life = message.reply, self.life_of(message.generation)
        name = f"the answer to {message.client}.{message.sequence}"
        if not caller.waits:
            if reply != caller.reply:
                self._violations.append(f"{name} is {reply!r} now, and was {caller.reply!r}")
            return
        caller.waits, caller.reply, caller.answered_in = False, reply, life
        self.answered += 1
        longest, after = self._longest.get(life, b""), caller.after if caller.life == life else b""
        if life < caller.life:
            self._violations.append(f"{name} comes from an actor that was removed before it was asked")
        elif any(self._answered_in.get(each, life) != life for each in reply.split()):
            self._violations.append(f"{name} has what an actor answered that was removed: {reply!r}")
        elif not reply.startswith(after):
            self._violations.append(f"{name} is {reply!r}, after {after!r}")
        elif not (reply.startswith(longest) or longest.startswith(reply)):
            self._violations.append(f"{name} is {reply!r}, and another {longest!r}")
        elif len(set(done := reply.split())) != len(done):
            self._violations.append(f"{name} has something twice: {reply!r}")
        self._answered_in[reply.split()[-1]] = life
        self._longest[life] = max(longest, reply, key=len)
