"""Which image is meant by a name, out of what the members say they hold. Without I/O.

    offers --of that name--> members' own, else cached ones --of the client's own, if any--> one digest --> Choice
                                                                                         --> several --> a person says

Nothing is guessed: two members with different archives under one name are told to the caller, for neither is wrong.
"""

from collections.abc import Iterable, Mapping

import msgspec

from atoll.actors.container_manager.archive import NAME, VERSION
from atoll.actors.container_manager.errors import UsageFault
from atoll.actors.container_manager.messages import NAME_CHARACTERS_MAX
from atoll.actors.image_exchange.errors import NobodyHasIt, SeveralHaveIt
from atoll.actors.image_exchange.messages import HeldImage
from atoll.transport.identity import NodeId

CANDIDATES_MAX = 8
_DIGEST_CHARACTERS_SHOWN = 12


class Choice(msgspec.Struct, frozen=True):
    """One image, and who holds it."""

    name: str
    version: str
    digest: bytes
    size_bytes: int
    """As a holder says; a hint for people, for a holder may lie."""
    holders: tuple[NodeId, ...]
    """Those who keep it as their own first, each sorted by id."""


def may_name(image: str) -> bool:
    """Tell whether an image can be called so: `NAME[:VERSION]`."""
    name, colon, version = image.partition(":")
    good = NAME.fullmatch(name) is not None and len(name) <= NAME_CHARACTERS_MAX
    return good and (not colon or VERSION.fullmatch(version) is not None)


def split_name(image: str) -> tuple[str, str]:
    """Split `NAME[:VERSION]`; the version is empty where none stands.

    Raises:
        UsageFault: No image can have that name.
    """
    name, _, version = image.partition(":")
    if not may_name(image):
        raise UsageFault(f"{image[:200]!r} cannot name an image; write NAME or NAME:VERSION")
    return name, version


def choose(offers: Mapping[NodeId, Iterable[HeldImage]], image: str, client: str) -> Choice:
    """Find the one image that is meant.

    Raises:
        NobodyHasIt: No offer is of that name.
        SeveralHaveIt: Offers of that name have different digests.
        UsageFault: It cannot be a name.
    """
    name, version = split_name(image)
    # What does not answer the question is not looked at: any member may say anything.
    named = [
        (node, each)
        for node, held in sorted(offers.items())
        for each in held
        if each.name == name and version in ("", each.version)
    ]
    if not named:
        raise NobodyHasIt(f"cannot find image with name {image}")
    of_members = [offer for offer in named if offer[1].client] or named
    meant = [offer for offer in of_members if offer[1].client == client] or of_members
    if len({each.digest for _, each in meant}) > 1:
        raise SeveralHaveIt(
            f"members have different images named {image}; say whose with --from NODE, or which with NAME:VERSION",
            [_shown(node, each) for node, each in meant][:CANDIDATES_MAX],
        )
    _, chosen = meant[0]
    kept = {node for node, held in offers.items() for each in held if each.digest == chosen.digest and each.client}
    cached = {node for node, held in offers.items() for each in held if each.digest == chosen.digest} - kept
    return Choice(chosen.name, chosen.version, chosen.digest, chosen.size_bytes, (*sorted(kept), *sorted(cached)))


def _shown(node: NodeId, image: HeldImage) -> str:
    return f"{image.name}:{image.version} at {node.short} (sha256:{image.digest.hex()[:_DIGEST_CHARACTERS_SHOWN]})"
