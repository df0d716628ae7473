"""The runtime's errors, sorted by whose fault they are; an ask's failures travel as `Fault(kind, text)`.

AskNotUnderstood                            the asker's: the message is not one that the actor takes
AskRefused, AskDeclined                     the answer is no: the asker may not reach it, or the handler says no
AskCrashed                                  the callee's: its handler raised
AskUnreachable, AskCongested, AskTimedOut   nobody's: it is not there, it is full, it is late

Each is also the transport's error of the same fault, so `except Unreachable` catches both.
"""

from atoll.transport.errors import Congested, Expired, Refused, TransportError, Unreachable, UsageError, WorldError


class AskFailed(TransportError):
    """An ask got no answer; the subclass says whose fault that is."""

    kind = "failed"


class AskNotUnderstood(AskFailed, UsageError):
    """The actor has no handler for the message, or could not read it."""

    kind = "not_understood"


class AskRefused(AskFailed, Refused):
    """The asker's standing does not reach that actor."""

    kind = "refused"


class AskDeclined(AskRefused):
    """The actor's handler said no (see `Declined`); the text is its reason."""

    kind = "declined"


class AskCrashed(AskFailed):
    """The actor's handler raised; on this node `__cause__` is what it raised."""

    kind = "crashed"


class AskUnreachable(AskFailed, Unreachable):
    """No such actor lives there, it has ended, or there is no way to its node."""

    kind = "unreachable"


class AskCongested(AskFailed, Congested):
    """The actor's mailbox is full."""

    kind = "congested"


class AskTimedOut(AskFailed, Expired):
    """No answer came in time; whether the message was handled is not known."""

    kind = "timed_out"


_KINDS: dict[str, type[AskFailed]] = {
    each.kind: each
    for each in (
        AskNotUnderstood,
        AskRefused,
        AskDeclined,
        AskCrashed,
        AskUnreachable,
        AskCongested,
        AskTimedOut,
    )
}


def ask_failure(kind: str, text: str) -> AskFailed:
    """Make the error for a fault that arrived; a kind of a later version becomes plain `AskFailed`."""
    return _KINDS.get(kind, AskFailed)(text)


class MailboxFull(Congested):
    """A local actor's mailbox is full; the message was not taken. Wait with `ActorRef.wait_room`."""


class Declined(TransportError):
    """Raise it in a handler to say no to the asker without crashing the actor; the text is the reason."""


class StartFailed(TransportError):
    """An actor or a group of them did not start; `__cause__` is what it raised."""


class RestartsExhausted(TransportError):
    """A supervisor's children crashed more often than it allows; `__cause__` is the last crash."""


class JournalFailed(WorldError):
    """A record could not be made durable; nothing that depends on it may happen."""


def sole_error(error: BaseException) -> BaseException:
    """Unwrap groups that hold a single error: the group says nothing that it does not say."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
