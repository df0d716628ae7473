"""What owners, log stores, hosts and callers of migratable actors say to each other, and what stores keep on disk.

    caller --Call--> host              --CallAnswered, CallDeferred, CallRedirected, CallRefused--> caller
    owner  --Seal, ReadLog, Append, Install--> store    --Sealed, LogPart, Appended, Fenced, StoreFull--> owner
    source --MayMove--> target                          --MoveWelcome--> source
    source --OfferState, StatePart--> target            --StatePartTaken, StateTaken, StateDeclined--> source
    anybody --TakePlace--> the host that the placement names
    supernode --StoresWanted--> the host of an actor whose log should be kept elsewhere
    host   --LogDoubted--> store                        store --MayForget--> host --Forget--> store

A message to a store carries the fence of the actor: its generation, and the life in it (a number drawn by the owner, so
that a host which starts again in the same generation is not taken for its former self); and the memory of the store (a
number drawn when it began the log), so that nothing meant for a log that is lost is put into the one begun after it.
"""

from typing import Annotated, TypeAlias

import msgspec

from atoll.actors.placement.messages import ACTOR_NAME_CHARACTERS_MAX, GENERATION_MAX, STORES_MAX, ActorName, Placed
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

LOG_STORE, HOSTING, CALLERS = "log_store", "hosting", "callers"

KIND_CHARACTERS_MAX = 64
PART_BYTES_MAX = 256 * 1024
"""Of a snapshot in one message: four make a megabyte, and a link is never blocked for long by one."""
PARTS_MAX = 64
OPERATION_BYTES_MAX = 64 * 1024
"""An operation, or a reply; both are kept in the log."""
ENTRIES_MAX = 256
"""Entries in one message."""
WHY_CHARACTERS_MAX = 300
PAUSE_MS_MAX = 3_600_000
OPERATION_FAILED = "the operation failed"
"""How the refusal of an operation begins that was tried and changed nothing."""

Kind: TypeAlias = Annotated[str, msgspec.Meta(max_length=KIND_CHARACTERS_MAX)]
Generation: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=GENERATION_MAX)]
Index: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=GENERATION_MAX)]
Nonce: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**52)]
Part: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=PARTS_MAX)]
PartBytes: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=PART_BYTES_MAX)]
Operation: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=OPERATION_BYTES_MAX)]
Digest: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Why: TypeAlias = Annotated[str, msgspec.Meta(max_length=WHY_CHARACTERS_MAX)]
Stores: TypeAlias = Annotated[tuple[NodeId, ...], msgspec.Meta(max_length=STORES_MAX)]


class Position(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Where a log ends, or a snapshot stands; ordered as logs are compared: generation of the last entry, index."""

    generation: Generation = 0
    index: Index = 0


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One operation in a log. Without a client it begins a generation, and `operation` names the kind of the actor."""

    generation: Generation
    index: Index
    client: Nonce = 0
    sequence: Index = 0
    operation: Operation = b""
    reply: Operation = b""
    forgets: Nonce = 0
    """The client that had to be forgotten for this one; 0 for none."""


Entries: TypeAlias = Annotated[tuple[Entry, ...], msgspec.Meta(max_length=ENTRIES_MAX)]


class Seal(Message, frozen=True, array_like=True, tag="hand_over.seal"):
    """An owner begins a generation: take nothing of lower ones any more, and say where your log ends."""

    actor: ActorName
    generation: Generation
    life: Nonce
    founds: bool = False
    """The placement knows no such actor, and this is its first generation: begin its log, and drop any older one."""
    kind: Kind = ""
    """Of the actor that is founded: whoever owns it next may have nothing else to know it by."""


class Sealed(Message, frozen=True, array_like=True, tag="hand_over.sealed"):
    """The store refuses lower generations from now on."""

    actor: ActorName
    generation: Generation
    life: Nonce
    memory: Nonce
    voice: bool
    """False: this log was lost or never was whole, so that where it ends proves nothing."""
    last: Position
    before: Generation
    """What was sealed before: for those who look for the cause of something. It must not decide what is adopted."""
    kind: Kind = ""
    """With which the log was founded, where this store was told."""


class ReadLog(Message, frozen=True, array_like=True, tag="hand_over.read_log"):
    """Send me a part of your log; the parts of the snapshot come first, then the entries after it."""

    actor: ActorName
    generation: Generation
    life: Nonce
    memory: Nonce
    part: Part
    after: Index
    """Entries wanted, once the snapshot is complete: those behind this index. Below it nothing is missing."""


class LogPart(Message, frozen=True, array_like=True, tag="hand_over.log_part"):
    """A part of a log: of its snapshot, or entries."""

    actor: ActorName
    generation: Generation
    life: Nonce
    memory: Nonce
    base: Position
    """Where the snapshot stands; everything 0 where there is none."""
    last: Position
    part: Part
    parts: Part
    """Of the snapshot; `part` is lower for one of them, and the same when these are entries."""
    data: PartBytes = b""
    entries: Entries = ()


class Append(Message, frozen=True, array_like=True, tag="hand_over.append"):
    """Keep these entries behind `after`; what is there and differs goes."""

    actor: ActorName
    generation: Generation
    life: Nonce
    memory: Nonce
    after: Position
    entries: Entries
    whole: bool = False
    """With these the log is whole: a store that had lost it counts again."""


class Install(Message, frozen=True, array_like=True, tag="hand_over.install"):
    """A part of a snapshot that takes the place of all entries up to `base`."""

    actor: ActorName
    generation: Generation
    life: Nonce
    memory: Nonce
    base: Position
    digest: Digest
    part: Part
    parts: Part
    data: PartBytes


class Appended(Message, frozen=True, array_like=True, tag="hand_over.appended"):
    """Everything up to `index` is on disk here, just as the owner has it; or `missing` what it should follow."""

    actor: ActorName
    generation: Generation
    life: Nonce
    memory: Nonce
    index: Index
    voice: bool
    missing: bool = False
    last: Position = Position()


class Installed(Message, frozen=True, array_like=True, tag="hand_over.installed"):
    """That many parts of the snapshot are here; all of them, and it is on disk."""

    actor: ActorName
    generation: Generation
    life: Nonce
    memory: Nonce
    base: Position
    parts: Annotated[int, msgspec.Meta(ge=0, le=PARTS_MAX)]


class Fenced(Message, frozen=True, array_like=True, tag="hand_over.fenced"):
    """Refused: a higher generation was seen here, or the same one in another life."""

    actor: ActorName
    generation: Generation
    """The refused one."""
    life: Nonce
    highest: Generation


class NotSealed(Message, frozen=True, array_like=True, tag="hand_over.not_sealed"):
    """Refused: seal first. This store has not heard of the generation, or has lost the log since."""

    actor: ActorName
    generation: Generation
    life: Nonce


class StoreFull(Message, frozen=True, array_like=True, tag="hand_over.store_full"):
    """Refused: no room. `compact`: the log of this actor has grown too long, install a snapshot first."""

    actor: ActorName
    generation: Generation
    life: Nonce
    memory: Nonce
    compact: bool
    why: Why


class MayMove(Message, frozen=True, array_like=True, tag="hand_over.may_move"):
    """Somebody wants this actor moved here; asked before it is frozen."""

    actor: ActorName
    kind: Kind


class MoveWelcome(Message, frozen=True, array_like=True, tag="hand_over.move_welcome"):
    """This host is there, and takes the actor, or says why not."""

    actor: ActorName
    why: Why = ""


class OfferState(Message, frozen=True, array_like=True, tag="hand_over.offer_state"):
    """A source wants to move an actor here; its state follows in parts, this is the first one."""

    actor: ActorName
    move: Nonce
    """Later moves of a source have higher numbers: a late offer must not take the place of a newer state."""
    kind: Kind
    placed: Placed
    """What the source holds now."""
    wanted: Placed
    """What it will ask of the placement."""
    position: Position
    """Where the log ended that the state comes from; everything 0 for a soft actor."""
    digest: Digest
    parts: Part
    data: PartBytes


class StatePart(Message, frozen=True, array_like=True, tag="hand_over.state_part"):
    """A later part of an offered state."""

    actor: ActorName
    move: Nonce
    part: Part
    data: PartBytes


class StatePartTaken(Message, frozen=True, array_like=True, tag="hand_over.state_part_taken"):
    """So many parts are here; with all of them the state is checked and on disk."""

    actor: ActorName
    move: Nonce
    parts: Annotated[int, msgspec.Meta(ge=0, le=PARTS_MAX)]
    whole: bool = False


class StateDeclined(Message, frozen=True, array_like=True, tag="hand_over.state_declined"):
    """This host will not take the actor."""

    actor: ActorName
    move: Nonce
    why: Why


class TakePlace(Message, frozen=True, array_like=True, tag="hand_over.take_place"):
    """The placement names the receiver as the host of this actor; a hint, unless the source of a move says it."""

    actor: ActorName
    placed: Placed
    move: Nonce = 0
    paused_ms: Annotated[float, msgspec.Meta(ge=0, le=PAUSE_MS_MAX)] | None = None
    """How long the actor took no calls, where the source of its move says so."""


class StoresWanted(Message, frozen=True, array_like=True, tag="hand_over.stores_wanted"):
    """The log of this actor should be kept on other stores; void, once it is kept elsewhere than the sender knows."""

    actor: ActorName
    known: Stores
    wanted: Stores


class LogDoubted(Message, frozen=True, array_like=True, tag="hand_over.log_doubted"):
    """This log may be of no use any more: ask the placement. Nothing is done on this word alone."""

    actor: ActorName


class MayForget(Message, frozen=True, array_like=True, tag="hand_over.may_forget"):
    """A store asks the owner of a generation whose log is kept elsewhere whether its own copy is of use."""

    actor: ActorName
    generation: Generation


class Forget(Message, frozen=True, array_like=True, tag="hand_over.forget"):
    """All stores of that generation have everything, and the receiver is none of them."""

    actor: ActorName
    generation: Generation


class Call(Message, frozen=True, array_like=True, tag="hand_over.call"):
    """An operation for an actor; sent again with the same sequence until there is an answer."""

    actor: ActorName
    client: Annotated[int, msgspec.Meta(ge=1, lt=2**52)]
    sequence: Annotated[int, msgspec.Meta(ge=1, le=GENERATION_MAX)]
    operation: Operation
    since: Generation = 0
    """The generation of the actor that its client knew when it took this number; 0: it does not say."""


class CallAnswered(Message, frozen=True, array_like=True, tag="hand_over.call_answered"):
    """The operation was applied once, and this is its reply."""

    actor: ActorName
    client: Nonce
    sequence: Index
    reply: Operation
    generation: Generation
    """Of the owner that says so; the operation may have been applied in an earlier one."""


class CallDeferred(Message, frozen=True, array_like=True, tag="hand_over.call_deferred"):
    """Not now: retry after so many milliseconds, with the same sequence."""

    actor: ActorName
    client: Nonce
    sequence: Index
    after_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)]
    why: Why


class CallRedirected(Message, frozen=True, array_like=True, tag="hand_over.call_redirected"):
    """The actor is elsewhere now."""

    actor: ActorName
    client: Nonce
    sequence: Index
    placed: Placed


class CallRefused(Message, frozen=True, array_like=True, tag="hand_over.call_refused"):
    """This operation will never be applied under this number, or it cannot be known whether it was."""

    actor: ActorName
    client: Nonce
    sequence: Index
    why: Why
    unknown: bool = False
    """The actor knows nothing of this client: it was removed, or another one has its name now."""
    began: Generation = 0
    """Not 0: in this generation the actor began empty, after the client had taken its number."""


class MoveWanted(Message, frozen=True, array_like=True, tag="hand_over.move_wanted"):
    """Ask the host of an actor to move it; answered with `MoveEnded`, or declined where it is not served."""

    actor: ActorName
    target: NodeId


class RemovalWanted(Message, frozen=True, array_like=True, tag="hand_over.removal_wanted"):
    """Ask the host of an actor to end it for good; answered with `RemovalEnded`."""

    actor: ActorName
    founded: Generation = 0
    """Only the one that was founded in that generation (`ActorPlace.founded`); 0: whichever has the name."""


class RemovalEnded(Message, frozen=True, array_like=True, tag="hand_over.removal_ended"):
    """What became of a removal; `why` the actor is still there, or empty."""

    actor: ActorName
    why: Why


class MoveEnded(Message, frozen=True, array_like=True, tag="hand_over.move_ended"):
    """What became of a move; `why` it failed, or empty."""

    actor: ActorName
    target: NodeId
    paused_ms: Annotated[float, msgspec.Meta(ge=0, le=PAUSE_MS_MAX)]
    """From when the source took no more operations until it knew the target to have the actor."""
    why: Why


MESSAGES: tuple[type[Message], ...] = (
    Seal,
    Sealed,
    ReadLog,
    LogPart,
    Append,
    Install,
    Appended,
    Installed,
    Fenced,
    NotSealed,
    StoreFull,
    MayMove,
    MoveWelcome,
    OfferState,
    StatePart,
    StatePartTaken,
    StateDeclined,
    TakePlace,
    StoresWanted,
    LogDoubted,
    MayForget,
    Forget,
    Call,
    CallAnswered,
    CallDeferred,
    CallRedirected,
    CallRefused,
    MoveWanted,
    MoveEnded,
    RemovalWanted,
    RemovalEnded,
)


class LogBegun(msgspec.Struct, frozen=True, array_like=True, tag="hand_over.log_begun"):
    """On disk: a store began to keep an actor's log, empty."""

    actor: ActorName
    memory: Nonce
    voice: bool
    kind: Kind = ""


class GenerationSealed(msgspec.Struct, frozen=True, array_like=True, tag="hand_over.generation_sealed"):
    """On disk: lower generations are refused, and other lives of this one."""

    actor: ActorName
    generation: Generation
    life: Nonce


class EntriesKept(msgspec.Struct, frozen=True, array_like=True, tag="hand_over.entries_kept"):
    """On disk: the log goes on with these behind `after`; what stood there before is gone."""

    actor: ActorName
    after: Index
    entries: Entries
    whole: bool = False


class SnapshotPart(msgspec.Struct, frozen=True, array_like=True, tag="hand_over.snapshot_part"):
    """On disk: a part of a snapshot, whose last part makes it valid."""

    actor: ActorName
    base: Position
    part: Part
    parts: Part
    data: PartBytes


class LogLost(msgspec.Struct, frozen=True, array_like=True, tag="hand_over.log_lost"):
    """On disk since a log was found damaged: what it held is not known. Without an actor it concerns all of them."""

    actor: Annotated[str, msgspec.Meta(max_length=ACTOR_NAME_CHARACTERS_MAX)]
    damage: str


class FoundingsOver(msgspec.Struct, frozen=True, array_like=True, tag="hand_over.foundings_over"):
    """On disk, before the first log of an actor is dropped that was removed: nothing up to here is founded any more."""

    actor: Annotated[str, msgspec.Meta(max_length=0)]
    """None: this is about all of them."""
    generation: Generation


class StateKept(msgspec.Struct, frozen=True, array_like=True, tag="hand_over.state_kept"):
    """On disk at a target before it says so: a part of a state that was offered."""

    actor: ActorName
    kind: Kind
    move: Nonce
    wanted: Placed
    position: Position
    digest: Digest
    part: Part
    parts: Part
    data: PartBytes


STORE_RECORDS = (LogBegun, GenerationSealed, EntriesKept, SnapshotPart, LogLost, FoundingsOver)
HOST_RECORDS = (StateKept,)
