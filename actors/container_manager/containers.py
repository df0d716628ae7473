"""The images, containers and services of a node, as one object without an actor.

    image pushed --run--> container, started --call--> answered
                                             --stop--> stopped --start--> started
                                             --remove--> gone, storage and all

Every order is on the disk (fsynced) before it counts, so containers are there again after a restart of the node, and
started ones start on their first call. Open it with `async with`.
"""

import importlib.util
import tempfile
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
from msgspec import structs

from atoll.actors.container_manager.addresses import Addresses
from atoll.actors.container_manager.admission import TIME_LIMIT, new_record
from atoll.actors.container_manager.archive import ARCHIVE_BYTES_MAX
from atoll.actors.container_manager.console import Console
from atoll.actors.container_manager.errors import (
    ImageRefused,
    LimitReached,
    NotThere,
    StorageFault,
    Taken,
    UsageFault,
)
from atoll.actors.container_manager.images import ContainerRecord, ImageRecord, Images, check_client
from atoll.actors.container_manager.instance import Instance
from atoll.actors.container_manager.lifecycle import (
    CALL_LIMIT_S,
    Limits,
    RemoveOrdered,
    Squeezed,
    StartOrdered,
    State,
    StopOrdered,
    call_limit,
)
from atoll.actors.container_manager.messages import (
    BODY_BYTES_MAX,
    CLIENT_DEFAULT,
    ArchivePart,
    ContainerInfo,
    ImageInfo,
    LogEntry,
    ServiceCall,
    ServiceInfo,
    ServiceReply,
)
from atoll.actors.container_manager.outbound import Fetch, door
from atoll.actors.container_manager.runtimes.javascript import MEMORY_BYTES_MAX, Worker
from atoll.actors.container_manager.timers import Timers
from atoll.actors.container_manager.vault import Vault
from atoll.actors.container_manager.workshop import SPARE_S, WORKERS_MAX, Workshop

CONTAINERS_MAX = 64
CHUNK_BYTES = 256 * 1024

_T = TypeVar("_T")


class ContextFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What services learn about their node in `context.info`."""

    node_id: str = ""
    account_id: str = ""
    http_port: int = 8083


class Containers:
    """The light containers of one node."""

    def __init__(
        self,
        folder: Path,
        *,
        facts: ContextFacts | None = None,
        fetch: Fetch | None = None,
        limits: Limits | None = None,
        containers_max: int = CONTAINERS_MAX,
        workers_max: int = WORKERS_MAX,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        spare_s: float = SPARE_S,
        engines: Path | None = None,
    ) -> None:
        """Name the folder that is its own; nothing is touched before `async with`.

        `engines` keeps compiled engines; nodes of one owner on one host may share it, nobody else.
        """
        self._folder = folder
        self._facts = facts or ContextFacts()
        self._fetch = fetch
        self._limits = limits or Limits()
        self._containers_max = containers_max
        self._workers_max = workers_max
        self._spare_s = spare_s
        self._engines = engines or folder / "engines"
        self.memory_bytes_max = memory_bytes_max
        self.timers = Timers()
        self._instances: dict[str, Instance] = {}
        self._addresses = Addresses()

    async def __aenter__(self) -> Self:
        """Open the folder; what was started is started again, without a worker as yet.

        Raises:
            StorageFault: The folder cannot be used; the text says why.
        """
        async with AsyncExitStack() as stack:
            self._images = await anyio.to_thread.run_sync(Images, self._folder / "images")
            stack.callback(self._images.close)
            self._storage = stack.enter_context(Vault(self._folder / "storage"))
            self._logs = stack.enter_context(Vault(self._folder / "logs"))
            cache = stack.enter_context(Vault(self._engines)).folder.resolve()
            self._disk, self._orders = anyio.Lock(), anyio.Lock()
            for record in self._images.containers.values():
                self._addresses.claim(record.id, record.client, record.base_path)
                self._instances[record.id] = self._instance(record)
                if record.started:
                    self._instances[record.id].tell(StartOrdered())
            self._sweep()
            # The last: an error from inside a task group would come out as a group of errors.
            self.tasks = await stack.enter_async_context(anyio.create_task_group())
            self._workshop = Workshop(
                self.tasks, self.timers, cache, workers_max=self._workers_max, spare_s=self._spare_s
            )
            self.tasks.start_soon(self.timers.run)
            self._want_spare()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all workers and calls; started containers stay started for the next time."""
        for instance in self._instances.values():
            instance.tell(StopOrdered())
        self.tasks.cancel_scope.cancel()
        # Not told of the block's error, which then comes out as it is: a task group would wrap it.
        await self._stack.__aexit__(None, None, None)

    async def load_image(
        self, source: bytes | Path | AsyncIterable[bytes], client: str = CLIENT_DEFAULT, expected: str = ""
    ) -> ImageInfo:
        """Take a docker-save tar: bytes, a file, or chunks as they arrive. An older one of the same name is replaced.

        With `expected`, a `name:version`, no archive of another name is taken.

        Raises:
            ImageRefused: It is broken, hostile or too large; nothing is left of it.
            LimitReached: There is no room.
            StorageFault: The disk refuses.
        """
        check_client(client)
        if isinstance(source, bytes):
            record = await self._on_disk(self._images.load, (source,), client, expected)
        elif isinstance(source, Path):
            record = await self._on_disk(self._load_file, source, client, expected)
        else:
            # Spooled first: a slow sender must not keep others from the disk.
            with tempfile.TemporaryFile() as spool:
                size = 0
                async for chunk in source:
                    size += len(chunk)
                    if size > ARCHIVE_BYTES_MAX:
                        raise ImageRefused(f"the archive has more than {ARCHIVE_BYTES_MAX} bytes")
                    await anyio.to_thread.run_sync(spool.write, chunk)
                spool.seek(0)
                record = await self._on_disk(self._images.load, _chunks(spool), client, expected)
        # Not before: a refused archive costs no process, and a node without images has none.
        if record.runtime == "js":
            self.prepare()
        return record.info()

    def prepare(self) -> None:
        """Have a worker warm soon, because somebody is about to call: the first call is then answered at once."""
        if importlib.util.find_spec("quickjs_rs") is not None:
            self._workshop.want()

    def _load_file(self, path: Path, client: str, expected: str) -> ImageRecord:
        try:
            with path.open("rb") as file:
                return self._images.load(_chunks(file), client, expected)
        except OSError as error:
            raise UsageFault(f"{path} cannot be read: {error.strerror}") from error

    def list_images(self) -> tuple[ImageInfo, ...]:
        """List the images, by id."""
        return tuple(self._images.images[each].info() for each in sorted(self._images.images))

    async def remove_image(self, name: str) -> ImageInfo:
        """Remove an image by id or name.

        Raises:
            ImageNotThere: There is none of that name.
            Taken: Containers use it; names them.
        """
        async with self._orders:
            image = self._images.find(name)
            users = [each.id for each in self._images.containers.values() if each.image_id == image.id]
            if users:
                raise Taken(f"the image {image.id} is used by {', '.join(users)}; remove that first")
            await self._on_disk(self._images.remove, image)
        return image.info()

    async def archive_part(self, digest: str, offset: int) -> ArchivePart:
        """Give a part of the archive with that digest (64 hexadecimal digits), as it was pushed.

        Raises:
            ImageNotThere: No image has that digest, or it ends before.
            StorageFault: It cannot be read.
        """
        # Not one at a time like what changes something: a load that takes long must not keep readers waiting.
        data, last = await anyio.to_thread.run_sync(self._images.archive_part, digest, offset, CHUNK_BYTES)
        return ArchivePart(data, last)

    async def run(
        self, name: str, image: str, env: Mapping[str, str] | None = None, client: str = CLIENT_DEFAULT
    ) -> ContainerInfo:
        """Create a container and start it.

        Raises:
            ImageNotThere: There is no such image.
            Taken: The name or the path belongs to another one; names it.
            UsageFault: A name, a path or the environment cannot be used.
            RuntimeMissing: This host cannot run such an image; says how to change that.
            LimitReached: There are too many containers.
        """
        async with self._orders:
            found = self._images.find(image, client)
            record = new_record(name, image, found, dict(env or {}), client)
            if record.id in self._instances:
                raise Taken(f"there is a container {record.id} already; remove it first, or choose another name")
            if len(self._instances) >= self._containers_max:
                raise LimitReached(f"this node holds {self._containers_max} containers, which is its limit")
            self._addresses.claim(record.id, client, record.base_path)
            try:
                await self._on_disk(self._images.put_container, record)
            except BaseException:
                self._addresses.release(record.id)
                raise
            instance = self._instances[record.id] = self._instance(record)
        instance.tell(StartOrdered())
        self._want_spare()
        return self._info(instance)

    def list(self) -> tuple[ContainerInfo, ...]:
        """List the containers, by id."""
        return tuple(self._info(self._instances[each]) for each in sorted(self._instances))

    async def stop(self, name: str) -> ContainerInfo:
        """Stop a container: its calls end with a fault, its storage stays. Harmless when it is stopped."""
        async with self._orders:
            instance = self._find(name)
            await self._set_started(instance, started=False)
            instance.tell(StopOrdered())
            return self._info(instance)

    async def start(self, name: str) -> ContainerInfo:
        """Start a stopped container. Harmless when it is started."""
        async with self._orders:
            instance = self._find(name)
            await self._set_started(instance, started=True)
            instance.tell(StartOrdered())
            self._want_spare()
            return self._info(instance)

    async def remove(self, name: str) -> ContainerInfo:
        """Remove a container, its storage and its log."""
        async with self._orders:
            instance = self._find(name)
            info = self._info(instance)
            await self._on_disk(self._images.drop_container, instance.record.id)
            instance.tell(RemoveOrdered())
            del self._instances[instance.record.id]
            self._addresses.release(instance.record.id)
            instance.console.remove()
            self._sweep()
        return info

    def logs(self, name: str, lines_max: int = 100) -> tuple[LogEntry, ...]:
        """Give the newest lines that a container wrote, oldest first."""
        return self._find(name).console.newest(lines_max)

    def services(self) -> tuple[ServiceInfo, ...]:
        """List what started containers offer."""
        return tuple(
            ServiceInfo(
                id=each.record.id,
                name=each.record.name,
                service_type=each.record.base_path,
                path=f"/{each.record.client}/{each.record.base_path}",
                base_path=f"/{each.record.base_path}",
                container=each.record.id,
            )
            for _, each in sorted(self._instances.items())
            if each.record.started
        )

    async def call(self, call: ServiceCall) -> ServiceReply:
        """Have the service that lives at the call's path answer it.

        Raises:
            NotThere: Nothing lives there.
            ServiceFault: The service did not answer well; the subclass says why, `status` says it in HTTP.
            UsageFault: The body is too long.
        """
        if len(call.body) > BODY_BYTES_MAX:
            raise UsageFault(f"the body has {len(call.body)} bytes; {BODY_BYTES_MAX} is the limit")
        container, url = self._addresses.find(call.path)
        reply = await self._instances[container].call(call.method, url, call.headers, call.body)
        self._want_spare()
        return reply

    async def read_program(self, record: ContainerRecord) -> str:
        """Read a container's program; for its instance."""
        program: bytes = await self._on_disk(self._images.program, record)
        try:
            return program.decode()
        except UnicodeDecodeError as error:  # Only of a record without a digest; others were looked at.
            raise StorageFault(f"the program of {record.id} is damaged: push its image again") from error

    async def take_worker(self) -> Worker:
        """Give an instance a worker, at the cost of the one that was idle longest if need be."""
        if self._workshop.full:
            idle = [each for each in self._instances.values() if each.lifecycle.state is State.IDLE]
            if idle:
                oldest = min(idle, key=lambda each: each.used_at)
                worker = oldest.worker
                oldest.tell(Squeezed())
                if worker is not None:
                    await worker.ended.wait()
        return await self._workshop.take()

    def statistics(self) -> dict[str, int]:
        """Count what is there."""
        return {
            "images": len(self._images.images),
            "containers": len(self._instances),
            "workers": sum(each.worker is not None for each in self._instances.values()),
            "spare_workers": int(self._workshop.spare_ready),
            "worker_processes": self._workshop.alive,
        }

    def worker_pids(self) -> dict[str, int]:
        """Give the process ids of the workers by container, for metrics; a container at rest has none."""
        pids = {name: each.worker.pid for name, each in self._instances.items() if each.worker is not None}
        return {name: pid for name, pid in pids.items() if pid is not None}

    def _want_spare(self) -> None:
        if any(each.lifecycle.state is State.COLD for each in self._instances.values()):
            self._workshop.want()

    async def _on_disk(self, do: Callable[..., _T], *arguments: Any) -> _T:
        """Run it in a thread, one at a time, to its end even when the caller leaves."""
        async with self._disk:
            with anyio.CancelScope(shield=True):
                done = await anyio.to_thread.run_sync(do, *arguments)
            return done  # noqa: RET504 - to the type checker a cancel scope may swallow

    async def _set_started(self, instance: Instance, *, started: bool) -> None:
        if instance.record.started != started:
            record = structs.replace(instance.record, started=started)
            await self._on_disk(self._images.put_container, record)
            instance.record = record

    def _find(self, name: str) -> Instance:
        if name in self._instances:
            return self._instances[name]
        found = [each for each in self._instances.values() if each.record.name == name]
        if len(found) != 1:
            what = "there is no container" if not found else "several clients have a container"
            raise NotThere(f"{what} named {name[:200]}")
        return found[0]

    def _instance(self, record: ContainerRecord) -> Instance:
        env = dict(record.env)
        limits = self._limits
        if TIME_LIMIT in env:
            limits = Limits(
                call_s=call_limit(env[TIME_LIMIT], CALL_LIMIT_S),
                idle_s=limits.idle_s,
                launch_s=limits.launch_s,
                calls_max=limits.calls_max,
            )
        info = {
            "serviceType": record.base_path,
            "apiRoot": f"/{record.client}/{record.base_path}",
            "httpPort": str(self._facts.http_port),
            "accountId": self._facts.account_id,
            "nodeId": self._facts.node_id,
        }
        return Instance(
            record,
            self,
            limits=limits,
            console=Console(self._logs, record.storage),
            info=tuple(info.items()),
            storage=self._storage.folder / f"{record.storage}.sqlite",
            on_ask=door(record.id, self._fetch),
        )

    def _info(self, instance: Instance) -> ContainerInfo:
        record = instance.record
        return ContainerInfo(
            id=record.id,
            client=record.client,
            name=record.name,
            image=record.image,
            image_id=record.image_id,
            digest=f"sha256:{record.digest}",
            env=record.env,
            base_path=f"/{record.base_path}",
            created_ms=record.created_ms,
            state="started" if record.started else "stopped",
            status=f"up, {instance.lifecycle.state.value}" if record.started else "down",
        )

    def _sweep(self) -> None:
        """Remove storage and logs of containers that are not there any more."""
        known = {each.record.storage for each in self._instances.values()}
        for vault in (self._storage, self._logs):
            for name in vault.names():
                if name.partition(".")[0] not in known:
                    vault.remove(name)


def _chunks(file: IO[bytes]) -> Iterable[bytes]:
    try:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise StorageFault(f"the archive cannot be read: {error.strerror}") from error
