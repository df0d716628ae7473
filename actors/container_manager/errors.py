"""What goes wrong with images, containers and services, sorted by whose fault it is.

    UsageFault      the caller's: a name that is not there, taken or not allowed, a limit reached
    ImageRefused    the image's: broken or hostile
    ServiceFault    the service's: it threw, died, overran its time
    RuntimeMissing  the host's: something is not installed

Every error carries the HTTP status that says the same.
"""

from typing import ClassVar

from atoll.transport.errors import Refused


class ContainerError(Exception):
    """Base of everything this package raises on purpose."""

    status: ClassVar[int] = 500


class UsageFault(ContainerError):
    """The caller asks for something that cannot be."""

    status = 400


class NotThere(UsageFault):
    """No image, container or service of that name."""

    status = 404


class ImageNotThere(NotThere):
    """No image of that name; kept apart because a published text belongs to it."""


class SeveralImages(ImageNotThere):
    """Several clients have an image of that name, and the caller is none of them."""


class Taken(UsageFault):
    """A name or path belongs to another one, or a thing is in use."""

    status = 409


class LimitReached(UsageFault):
    """One more would be more than this node takes; the text names the limit."""

    status = 507


class ImageRefused(ContainerError, Refused):
    """The archive is broken or hostile; the text names the entry and the rule."""

    status = 400


class ServiceFault(ContainerError):
    """The service did not answer as a service must."""

    status = 502


class Threw(ServiceFault):
    """The service raised an error of its own; the text is its first line."""

    status = 500


class Crashed(ServiceFault):
    """The service broke its limits or its worker died, or it cannot be loaded."""


class Overran(ServiceFault):
    """The call took longer than its time limit and was stopped."""

    status = 504


class Busy(ServiceFault):
    """The service cannot take this call now: too many at once, or it is stopped or waits after crashes."""

    status = 503


class RuntimeMissing(ContainerError):
    """This host lacks what runs such an image; the text says how to install it."""

    status = 501


class StorageFault(ContainerError):
    """A file of ours is damaged or the disk refuses; nothing was changed."""


FAULTS: dict[str, type[ServiceFault]] = {"threw": Threw, "crashed": Crashed, "overran": Overran, "busy": Busy}
"""How faults are named between a worker and its node."""
