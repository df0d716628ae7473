"""What a cluster stands on: network namespaces (`lab.py`) or plain loopback (`loopback.py`), behind one interface.

Either has a warden: a process that ends everything of the cluster when the starter is gone without a word.
"""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from atoll.cluster_specs import ClusterSpec, Seat
from atoll.testing.warden import Power, Warden


class Ground(abc.ABC):
    """Gives every process of a spec a place; use it with `async with`, once."""

    def __init__(self, spec: ClusterSpec, power: Power) -> None:
        self.spec = spec
        self.warden = Warden(power)

    @property
    @abc.abstractmethod
    def words(self) -> str:
        """What this ground is, and what it is not, in a sentence for the user."""

    @abc.abstractmethod
    def seats(self, directory: Path) -> Mapping[str, Seat]:
        """Give every process its addresses, ports and a directory below `directory`."""

    @abc.abstractmethod
    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """Give what to start so that `argv` runs in the place of process `name`, under the same process number."""

    @abc.abstractmethod
    def address_of(self, name: str) -> str:
        """Give the IPv4 address of a process in its own network."""

    async def __aenter__(self) -> Self:
        await self.warden.open()
        try:
            await self._lay()
        except BaseException:
            await self.warden.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.warden.close()

    async def _lay(self) -> None:  # noqa: B027  # Most grounds need nothing more.
        """Make what is more than a warden."""

    async def guard(self, pid: int) -> None:
        """Have a process killed when this one is gone."""
        await self.warden.ask(do="guard", pid=pid)

    async def release(self, pid: int) -> None:
        """Take back `guard`: the process has ended."""
        await self.warden.ask(do="release", pid=pid)

    async def discard(self, path: Path) -> None:
        """Have a file or directory removed when the warden ends, whatever happens to this process."""
        await self.warden.ask(do="discard", path=str(path))
