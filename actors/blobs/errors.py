"""What goes wrong with blobs, in the container manager's tree: `order` and the gateway say them alike.

UnknownBlob     the caller's: there is no blob, offer or order of that address
SeveralOffer    the caller's: several peers offer that address
BadFile         the caller's: the file cannot be sent, or not under that name
TooMany         the caller's: one more would be more than this node does at once
NoRoom          this node's: the quota or the disk has no room
BlobDamaged     this node's disk: a blob is no longer what was verified
"""

from atoll.actors.container_manager.errors import ContainerError, LimitReached, NotThere, Taken, UsageFault


class UnknownBlob(NotThere):
    """No blob, offer or order of that name."""


class SeveralOffer(Taken):
    """It is offered by several; say by whom."""


class BadFile(UsageFault):
    """It is not there, no regular file, too long, may not be read, or has a name that no folder gets."""


class TooMany(LimitReached):
    """One more would be more than this node does at once; the text names the limit."""


class NoRoom(ContainerError):
    """The quota or the disk has no room for it."""

    status = 507


class BlobDamaged(ContainerError):
    """Its bytes on the disk are not what they were; it was let go."""

    status = 502
