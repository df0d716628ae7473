"""What is asked of the placement, what the voters that keep it say to each other, and what each has on disk.

    FindPlace -> PlaceFound        SwapPlace, RemovePlace -> PlaceSwapped                          asked of any member
    ListPlaces -> PlacesListed                                                                     asked of any member
    Prepare -> Prepared            Write -> Written                 Committed                      supernode to voters

Only the supernode knows; any other member answers with `why`, and names the supernode so that the caller can ask there.
"""

from typing import Annotated, TypeAlias

import msgspec

from atoll.actors.elector.messages import Epoch, Nonce
from atoll.actors.elector.roster import REASON_CHARACTERS_MAX
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

PATH = "placement"
GENERATION_MAX = 2**53
"""No honest actor gets there, moving a thousand times a second."""
VERSION_MAX = 2**53
ACTORS_MAX = 512
"""Exclusive actors of one site. The table goes whole with each write, 280 KiB at most."""
ACTOR_NAME_CHARACTERS_MAX = 64
STORES_MAX = 7
"""As many as a roster has voters; three are usual."""

ActorName: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=ACTOR_NAME_CHARACTERS_MAX)]
Generation: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=GENERATION_MAX)]
Version: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=VERSION_MAX)]
FirstGeneration: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=GENERATION_MAX)]
Why: TypeAlias = Annotated[str, msgspec.Meta(max_length=REASON_CHARACTERS_MAX)]


class Placed(msgspec.Struct, frozen=True, array_like=True):
    """Where an exclusive actor is; the generation is its fence."""

    generation: Generation
    """Rises by one with each swap, also when the actor stays where it is."""
    host: NodeId
    stores: Annotated[tuple[NodeId, ...], msgspec.Meta(max_length=STORES_MAX)] = ()
    """Who keeps its operation log; none for an actor without one."""

    def next_at(self, host: NodeId) -> "Placed":
        """Give the next generation, on that host, with the same stores."""
        return Placed(self.generation + 1, host, self.stores)


class ActorPlace(msgspec.Struct, frozen=True, array_like=True):
    """One line of the table."""

    actor: ActorName
    placed: Placed
    founded: FirstGeneration = 0
    """The generation in which it got its first place: another one of that name, later, has another. 0: not known."""


Places: TypeAlias = Annotated[tuple[ActorPlace, ...], msgspec.Meta(max_length=ACTORS_MAX)]


class FindPlace(Message, frozen=True, array_like=True, tag="placement.find"):
    """Ask where an actor is; answered by `PlaceFound`."""

    actor: ActorName


class PlaceFound(Message, frozen=True, array_like=True, tag="placement.found"):
    """Where it is. With an empty `why` this was so at a moment between question and answer; else it is a hint."""

    actor: ActorName
    placed: Placed | None
    """None: it has no place, or none that the answering node knows of."""
    supernode: NodeId | None = None
    """Who knows better, where the answering node has somebody to name."""
    why: Why = ""
    """Why the answer is only what this node heard last; empty when it is certain."""
    first: FirstGeneration = 0
    """Not 0: it has no place for certain, and would begin with this generation."""
    founded: FirstGeneration = 0
    """As in `ActorPlace`."""


class SwapPlace(Message, frozen=True, array_like=True, tag="placement.swap"):
    """Put `wanted` in the place of `expected`, if that is what stands there; answered by `PlaceSwapped`.

    `wanted` has the generation after that of `expected`. Where none is expected it is 1, until something was removed
    from the table: then the refusal says, as `first`, with which it begins.
    """

    actor: ActorName
    expected: Placed | None
    wanted: Placed


class RemovePlace(Message, frozen=True, array_like=True, tag="placement.remove"):
    """Take an actor out of the table for good, if `expected` is what stands there; answered by `PlaceSwapped`.

    Whoever runs it must have ended it before: nobody is told. An actor of that name begins above all generations that
    this one had or was asked to have.
    """

    actor: ActorName
    expected: Placed


class PlaceSwapped(Message, frozen=True, array_like=True, tag="placement.swapped"):
    """What became of a `SwapPlace` or a `RemovePlace`.

    `done`: it is on a majority of the voters. Not done, but `decided`: that swap is not done and never will be. Else
    it may be done or not, as when no answer comes at all: put the same question to `supernode`, or to any member after
    a while. That is always safe, for no swap is done twice; that it was done before shows in `current`.
    """

    actor: ActorName
    done: bool
    current: Placed | None = None
    """What stands there now, where this is known."""
    why: Why = ""
    """Why not; empty when it is done."""
    supernode: NodeId | None = None
    """Whom to ask instead, where the answering node has somebody to name."""
    decided: bool = True
    first: FirstGeneration = 0
    """Not 0: nothing stands there for certain, and what is put there begins with this generation."""


class ListPlaces(Message, frozen=True, array_like=True, tag="placement.list"):
    """Ask for the whole table; answered by `PlacesListed`."""


class PlacesListed(Message, frozen=True, array_like=True, tag="placement.listed"):
    """The table, by name; `why` as in `PlaceFound`."""

    places: Places
    supernode: NodeId | None = None
    why: Why = ""
    voters: Annotated[int, msgspec.Meta(ge=0)] = 0
    """On how many voters the answering supernode knows it to be; 0 from any other node."""


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag="placement.accepted"):
    """On disk before it is acknowledged: the table that this voter took last. Its epoch is a promise too."""

    epoch: Epoch
    version: Version
    incarnation: Version
    roster_version: Version
    """Whose majority the writer wanted."""
    places: Places
    retired: Version = 0
    """Generations up to this are used up by actors that were removed; a new one begins above."""


class Promised(msgspec.Struct, frozen=True, array_like=True, tag="placement.promised"):
    """On disk before it is answered: this voter takes nothing from a supernode of a lower epoch."""

    epoch: Epoch


class Amnesia(msgspec.Struct, frozen=True, array_like=True, tag="placement.amnesia"):
    """On disk from when the journal was found damaged until a supernode has filled it again; then without text."""

    damage: str = ""


class Prepare(Message, frozen=True, array_like=True, tag="placement.prepare"):
    """A new supernode asks a voter to take nothing from a lower epoch, and what it took last."""

    epoch: Epoch


class Prepared(Message, frozen=True, array_like=True, tag="placement.prepared"):
    """The answer to `Prepare`."""

    epoch: Epoch
    accepted: Accepted | None
    """None: it never took anything."""
    nonce: Nonce = 0
    """Not 0: this voter's journal is damaged, and `accepted` proves nothing; the nonce is this life's."""


class Write(Message, frozen=True, array_like=True, tag="placement.write"):
    """Take this table."""

    accepted: Accepted
    nonce: Nonce = 0
    """That of a voter with a damaged journal, from a supernode that held its lease when it heard of the damage."""


class Written(Message, frozen=True, array_like=True, tag="placement.written"):
    """The table of that epoch and version is on this voter's disk."""

    epoch: Epoch
    version: Version


class Outbid(Message, frozen=True, array_like=True, tag="placement.outbid"):
    """The voter took nothing: it promised a higher epoch, or (with a nonce) its journal is damaged."""

    asked: Epoch
    """0: nobody asked; a voter with a damaged journal says so by itself, until a supernode has filled it again."""
    promised: Epoch
    nonce: Nonce = 0


class Committed(Message, frozen=True, array_like=True, tag="placement.committed"):
    """The table of that epoch and version is on a majority: voters may show it as what was agreed."""

    epoch: Epoch
    version: Version


MESSAGES: tuple[type[Message], ...] = (
    FindPlace,
    PlaceFound,
    SwapPlace,
    RemovePlace,
    PlaceSwapped,
    ListPlaces,
    PlacesListed,
    Prepare,
    Prepared,
    Write,
    Written,
    Outbid,
    Committed,
)
"""Everything that crosses nodes, for the codec."""


class DescribePlacement(msgspec.Struct, frozen=True):
    """Ask this node's placement for its `PlacementStatus`."""


class PlacementStatus(msgspec.Struct, frozen=True):
    """What `atoll status` shows of the placement."""

    listed: PlacesListed
    serving: bool
    """This node answers for the site."""
    epoch: int
    version: int
    """Of the table that is shown; 0 where this node has none."""
    damage: str
    """What is wrong with this node's journal; empty when all is well."""
