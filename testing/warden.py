"""Starts a warden process and talks to it; see `warden_main.py` for what the warden does.

    Warden(power)  --open-->  holding  --close, or the end of this process-->  gone

`power` is what the warden needs: `none` (guard processes only), `root` (make namespaces), `user` (make them as an
ordinary user, inside a user namespace of its own). This process never changes namespaces itself.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from atoll.testing import warden_main
from atoll.testing.errors import LabUnavailable

Power: TypeAlias = Literal["none", "root", "user"]

ANSWER_S = 60.0
"""Setting up the namespaces of two hundred nodes takes some seconds; this is far beyond."""
ANSWER_BYTES_MAX = 1024 * 1024
END_S = 10.0
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where `ip` and `nft` are, and where an ordinary user's PATH often does not lead."""


def search_path() -> str:
    """Give PATH with the system's folders in it."""
    return f"{os.environ.get('PATH', os.defpath)}:{SBIN}"


def find_tool(name: str) -> str | None:
    """Give where a program is."""
    return shutil.which(name, path=search_path())


class Warden:
    """One warden process; `open` and `close` it in the same task."""

    def __init__(self, power: Power) -> None:
        self.power = power
        self.pid = 0
        self._process: Process | None = None
        self._answers: BufferedByteReceiveStream | None = None
        self._files: dict[str, int] = {}
        self._lock = anyio.Lock()

    async def open(self) -> None:
        """Start it.

        Raises:
            LabUnavailable: It has not the power that it needs.
        """
        command = [sys.executable, "-I", "-S", str(Path(warden_main.__file__)), "hold", self.power]
        self._process = await anyio.open_process(
            command, stderr=None, env={"PATH": search_path(), "LC_ALL": "C"}, start_new_session=True
        )
        if self._process.stdout is None:
            raise RuntimeError("the warden has no stdout though one was asked for")
        self._answers = BufferedByteReceiveStream(self._process.stdout)
        hello = await self._answer()
        if refusal := hello.get("error"):
            await self.close()
            raise LabUnavailable(f"no user namespace can be made: {refusal}", userns_remedy())
        self.pid = hello["pid"]

    async def close(self) -> None:
        """End it with everything it holds."""
        if self._process is None:
            return
        process, self._process = self._process, None
        with anyio.CancelScope(shield=True):
            if process.stdin is not None:
                await process.stdin.aclose()
            with anyio.move_on_after(END_S):
                await process.wait()
            if process.returncode is None:
                process.kill()
            await process.aclose()

    async def ask(self, **request: Any) -> dict[str, Any]:
        """Have one request done.

        Raises:
            LabUnavailable: It could not be done; the text says what the system said.
        """
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("this warden is not open")
        # Shielded, for an answer that nobody waits for would be taken for the next one's.
        with anyio.CancelScope(shield=True):
            async with self._lock:
                try:
                    await self._process.stdin.send(json.dumps(request).encode() + b"\n")
                    reply = await self._answer()
                except (anyio.BrokenResourceError, anyio.IncompleteRead, anyio.EndOfStream) as error:
                    raise LabUnavailable("the warden of the lab is gone", "start again") from error
        if refusal := reply.get("error"):
            raise LabUnavailable(str(refusal), "see what the system says there; `--loopback` needs none of it")
        return reply

    async def open_namespaces(self, names: Sequence[str]) -> None:
        """Make a network namespace for every name.

        Raises:
            LabUnavailable: The system refuses.
        """
        try:
            reply = await self.ask(do="open", names=list(names))
        except LabUnavailable as error:
            remedy = "run as root, or as a user who may make user namespaces" if self.power == "root" else ""
            raise LabUnavailable(
                f"no network namespace can be made: {error.what}", remedy or userns_remedy()
            ) from error
        self._files.update(reply["files"])

    def file_of(self, namespace: str) -> str:
        """Give the path by which a namespace is reached from any process of this user."""
        return f"/proc/{self.pid}/fd/{self._files[namespace]}"

    def command(self, namespace: str, argv: Sequence[str]) -> list[str]:
        """Give what to start so that `argv` runs in the namespace, under the same process number."""
        user = f"/proc/{self.pid}/ns/user" if self.power == "user" else "-"
        script = str(Path(warden_main.__file__))
        return [sys.executable, "-I", "-S", script, "enter", self.file_of(namespace), user, *argv]

    async def _answer(self) -> dict[str, Any]:
        if self._answers is None:
            raise RuntimeError("this warden is not open")
        with anyio.fail_after(ANSWER_S):
            reply: dict[str, Any] = json.loads(await self._answers.receive_until(b"\n", ANSWER_BYTES_MAX))
            return reply


def userns_remedy() -> str:
    """Say what keeps an ordinary user from making user namespaces here, and what to do."""
    switches = {
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "AppArmor restricts user namespaces here: `sysctl kernel.apparmor_restrict_unprivileged_userns=0` as root",
        ),
        "/proc/sys/kernel/unprivileged_userns_clone": (
            "0",
            "they are kept for root here: `sysctl kernel.unprivileged_userns_clone=1` as root",
        ),
        "/proc/sys/user/max_user_namespaces": (
            "0",
            "their number is limited to none here: `sysctl user.max_user_namespaces=1000` as root",
        ),
    }
    for file, (value, remedy) in switches.items():
        path = Path(file)
        if path.exists() and path.read_text().strip() == value:
            return f"{remedy}, or run as root, or use --loopback"
    return "run as root (in a container: with CAP_NET_ADMIN and CAP_SYS_ADMIN), or use --loopback"
