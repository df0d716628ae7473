"""What can go wrong with labs and clusters, by whose fault it is; each says what to do next."""

from atoll.transport.errors import UsageError


class ClusterFault(Exception):
    """Base of what goes wrong with a cluster; `remedy` says what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy


class LabUnavailable(ClusterFault):
    """The host cannot make network namespaces (the world's fault)."""


class ProcessDied(ClusterFault):
    """A process of the cluster ended though nobody told it to."""


class NotReady(ClusterFault):
    """Something did not come about in time."""


class NoAnswer(ClusterFault):
    """A node's API was not reached, or refused."""


class UnknownName(UsageError):
    """The caller named a process, site or cluster that is not there."""
