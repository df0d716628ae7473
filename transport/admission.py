"""Who may be what on a link: the rules of a site, and the rules of the cloud.

    SiteAdmission     pinned cloud -> CLOUD;  right proof of the site's secret -> MEMBER;  open site -> MEMBER;
                      everybody else -> NEIGHBOUR
    CloudAdmission    `enrol` decides: its standing;  what it refuses -> refused, in its words

The link has proved the peer's key before either is asked. A credential may be a secret: it never reaches a log, an
error's text or a `repr`.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from atoll.transport.base import Standing
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId
from atoll.transport.keys import SiteKeys
from atoll.transport.link_frames import CREDENTIAL_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteAdmission:
    """The rules of a node that belongs to a site (a node alone is a site of one)."""

    keys: SiteKeys
    own: NodeId
    open_site: bool = False
    """Everybody on the wire is a member."""
    clouds: AbstractSet[NodeId] = frozenset()
    """The clouds whose keys are pinned here."""
    enrolment: bytes = field(default=b"", repr=False)
    """The one-time secret that a cloud is shown; empty when it was spent or there is none."""

    def __post_init__(self) -> None:
        if len(self.enrolment) > CREDENTIAL_BYTES_MAX:
            raise UsageError(f"an enrolment secret has at most {CREDENTIAL_BYTES_MAX} bytes")

    def credential_for(self, peer: NodeId) -> bytes:
        """Show a cloud the enrolment secret and nothing of the site; show others that we hold the site's secret."""
        if peer in self.clouds:
            return self.enrolment
        return self.keys.link_proof(self.own, peer)

    def judge(self, peer: NodeId, credential: bytes) -> Standing:
        """Judge; a site refuses nobody, because a neighbour may do nothing anyway."""
        if peer in self.clouds:
            return Standing.CLOUD
        if self.open_site or self.keys.link_proof_valid(credential, prover=peer, verifier=self.own):
            return Standing.MEMBER
        return Standing.NEIGHBOUR


@dataclass(frozen=True, slots=True)
class CloudAdmission:
    """The rules of a cloud: `enrol` is given the peer and what it shows, empty for one that is enrolled or strange.

    `enrol` returns GRANTED for a key it knows or has just enrolled and NEIGHBOUR for a stranger that shows nothing;
    it raises `Refused`, with words for the peer that do not repeat the secret, when what was shown is wrong or spent.
    It must give the same answer when it is asked again with the same, because the link may fail after it was asked.
    """

    enrol: Callable[[NodeId, bytes], Standing] = field(repr=False)

    def credential_for(self, peer: NodeId) -> bytes:
        """Show nothing: nodes know the cloud by its key."""
        del peer
        return b""

    def judge(self, peer: NodeId, credential: bytes) -> Standing:
        """Let `enrol` judge."""
        return self.enrol(peer, credential)
