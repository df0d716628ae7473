"""Why a relay says no: one short list for tickets, circuits and bearers.

A reason travels as its number and is counted under its name; people read its sentence. Numbers are never used again.
"""

import enum


class Reason(enum.IntEnum):
    """One byte on the wire; `sentence` is for people, `name.lower()` for counters."""

    MALFORMED = 1
    NO_TICKET = 2
    EXPIRED = 3
    FOREIGN_ISSUER = 4
    FOREIGN_RELAY = 5
    FORGED = 6
    WRONG_ROLE = 7
    FOREIGN_HOLDER = 8
    OVER_QUOTA = 9
    FULL = 10
    DRAINING = 11
    REPLACED = 12
    NO_PARTNER = 13
    UNKNOWN_LABEL = 14
    UNKNOWN_CIRCUIT = 15
    CONGESTED = 16
    TOO_SLOW = 17
    TOO_LONG = 18
    CLOSED = 19
    TOO_MANY = 20

    @property
    def sentence(self) -> str:
        """What happened and what to do about it."""
        return SENTENCES[self]


def sentence_of(number: int) -> str:
    """Say what a number from the wire means; a later release may have reasons that this one does not know."""
    return SENTENCES.get(number, f"its reason is number {number}, which this release does not know")


SENTENCES: dict[int, str] = {
    Reason.MALFORMED: "the relay cannot read this; speak its protocol in a version it knows",
    Reason.NO_TICKET: "no ticket was shown; the first thing said to a relay is a ticket",
    Reason.EXPIRED: "the ticket has expired; ask for a new one",
    Reason.FOREIGN_ISSUER: "the ticket is from an issuer this relay does not serve; ask the relay's own",
    Reason.FOREIGN_RELAY: "the ticket is for another relay; dial the one it names",
    Reason.FORGED: "the ticket's signature is not its issuer's; ask for a new one",
    Reason.WRONG_ROLE: "the ticket is for another role; ask for one that allows this",
    Reason.FOREIGN_HOLDER: "the ticket is bound to another key; dial with the key it was asked for",
    Reason.OVER_QUOTA: "the ticket's bytes are used up; ask for a new one",
    Reason.FULL: "the relay is full; use another one or try again later",
    Reason.DRAINING: "the relay is being drained; use another one",
    Reason.REPLACED: "a newer connection took this place",
    Reason.NO_PARTNER: "the other end did not come in time; agree with it and dial again",
    Reason.UNKNOWN_LABEL: "no live registration has this label; look the node up again",
    Reason.UNKNOWN_CIRCUIT: "the circuit is gone; wait for the caller's next record",
    Reason.CONGESTED: "the receiver takes too little, or more was sent than the ticket's rate; slow down",
    Reason.TOO_SLOW: "the ticket did not come in time",
    Reason.TOO_LONG: "the record is longer than a relay carries; send long things over a bearer",
    Reason.CLOSED: "the relay closes; use another one",
    Reason.TOO_MANY: "as many tunnels are open under this quota as it allows; end one of them first",
}
