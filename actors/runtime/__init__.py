"""The actor framework: machine, actor, mailbox, supervisor, system."""

from atoll.actors.runtime.actor import (
    LATER,
    Actor,
    ActorRef,
    Delivery,
    ReplyTo,
    Restarted,
    Terminated,
    handles,
)
from atoll.actors.runtime.alarms import lease_clock
from atoll.actors.runtime.errors import (
    AskCongested,
    AskCrashed,
    AskDeclined,
    AskFailed,
    AskNotUnderstood,
    AskRefused,
    AskTimedOut,
    AskUnreachable,
    Declined,
    JournalFailed,
    MailboxFull,
    RestartsExhausted,
    StartFailed,
)
from atoll.actors.runtime.journal import Journal
from atoll.actors.runtime.keyed_journal import KeyedJournal
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.machine_actor import MachineActor
from atoll.actors.runtime.messages import MESSAGES, Fault, UserMessage
from atoll.actors.runtime.supervisor import ChildSpec, Ending, Restart, Strategy, Supervision, SupervisorSpec
from atoll.actors.runtime.system import ActorSystem, DeadLetter

__all__ = [
    "LATER",
    "MESSAGES",
    "Actor",
    "ActorRef",
    "ActorSystem",
    "Address",
    "AskCongested",
    "AskCrashed",
    "AskDeclined",
    "AskFailed",
    "AskNotUnderstood",
    "AskRefused",
    "AskTimedOut",
    "AskUnreachable",
    "ChildSpec",
    "DeadLetter",
    "Declined",
    "Delivery",
    "Ending",
    "Fault",
    "Journal",
    "JournalFailed",
    "KeyedJournal",
    "MachineActor",
    "MailboxFull",
    "ReplyTo",
    "Restart",
    "Restarted",
    "RestartsExhausted",
    "StartFailed",
    "Strategy",
    "Supervision",
    "SupervisorSpec",
    "Terminated",
    "UserMessage",
    "handles",
    "lease_clock",
]
