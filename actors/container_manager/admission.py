"""Decides whether a container may be as somebody wants it: its name, environment, path, time limit and runtime.

    wanted --all checks pass--> ContainerRecord
           --one does not-----> UsageFault or RuntimeMissing, and nothing was changed

It knows no other containers: whether a name or a path is free is `Containers`' to say.
"""

import importlib.util
import secrets
import time

from atoll.actors.container_manager.addresses import base_path
from atoll.actors.container_manager.archive import NAME
from atoll.actors.container_manager.errors import RuntimeMissing, UsageFault
from atoll.actors.container_manager.images import ContainerRecord, ImageRecord, check_client
from atoll.actors.container_manager.lifecycle import call_limit
from atoll.actors.container_manager.messages import NAME_CHARACTERS_MAX
from atoll.actors.container_manager.runtimes.javascript import INSTALL

ENV_ITEMS_MAX = 100
ENV_CHARACTERS_MAX = 16 * 1024
TIME_LIMIT = "MCM.MAX_EXECUTION_TIME_SEC"


def new_record(name: str, image: str, found: ImageRecord, env: dict[str, str], client: str) -> ContainerRecord:
    """Make the record of a new container; `image` is what the caller named it, `found` what that is.

    Raises:
        UsageFault: The name, the client, the path or the environment cannot be used.
        RuntimeMissing: This host cannot run such an image; says how to change that.
    """
    check_client(client)
    if not NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        raise UsageFault(f"{name[:200]!r} cannot name a container: a-z, 0-9 and ._- are taken")
    if len(env) > ENV_ITEMS_MAX or sum(len(key) + len(value) for key, value in env.items()) > ENV_CHARACTERS_MAX:
        raise UsageFault(f"env may have {ENV_ITEMS_MAX} items and {ENV_CHARACTERS_MAX} characters")
    try:
        call_limit(env.get(TIME_LIMIT))
    except ValueError as error:
        raise UsageFault(f"{TIME_LIMIT}: {error}") from error
    check_runtime(found.runtime)
    return ContainerRecord(
        client=client,
        name=name,
        image=image,
        image_id=found.id,
        runtime=found.runtime,
        digest=found.digest,
        base_path=base_path(name, env),
        created_ms=time.time_ns() // 1_000_000,
        env=tuple(sorted(env.items())),
        storage=secrets.token_hex(8),
        program_digest=found.program_digest,
    )


def check_runtime(runtime: str) -> None:
    """Check that this host can run such images.

    Raises:
        RuntimeMissing: It cannot; the text says how to change that.
    """
    if runtime != "js":
        raise RuntimeMissing(f"images of the runtime {runtime!r} cannot be run yet; JavaScript (index.js) can")
    if importlib.util.find_spec("quickjs_rs") is None:
        raise RuntimeMissing(f"JavaScript is not installed on this host; run: {INSTALL}")
