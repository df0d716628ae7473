"""Rosters of a site as its voters make them: signed by a majority of the one before, with real Ed25519 keys."""

from msgspec.structs import replace

from atoll.actors.elector.roster import Notary, Roster
from atoll.actors.elector.roster_book import RosterBook
from atoll.transport.keys import NodeKey, SiteKeys

KEYS = {key.node_id: key for key in (NodeKey(bytes([number]) * 32) for number in range(1, 9))}
A, B, C, D, E, *_ = sorted(KEYS)
SITE = SiteKeys(bytes(range(32)))
FIRST = Roster.found(SITE, [A, B, C])


def notary(node=A):
    return Notary(roster_key=SITE.roster_key, site_tag=SITE.tag, sign=KEYS[node].sign)


def certified(before, voters, signers, *, epoch=1, reason="why", signed_in=None):
    """What a supernode makes final; the signatures may be of another epoch than it says."""
    proposal = before.next(voters, epoch, reason)
    signed = replace(proposal, epoch=epoch if signed_in is None else signed_in)
    signatures = tuple((node, notary(node).signature(signed)) for node in sorted(signers))
    return replace(proposal, signatures=signatures).sealed(SITE.roster_key)


SECOND = certified(FIRST, [A, B, C, D], [A, B])


def book(*chain):
    known = RosterBook(chain[0] if chain else Roster(), notary())
    for roster in chain[1:]:
        known.adopt(roster)
    return known
