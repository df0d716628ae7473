"""The event loops that benchmarks compare."""

import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

_Result = TypeVar("_Result")

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


def available_loops() -> tuple[str, ...]:
    """Name the loops that are installed here."""
    return tuple(name for name in LOOPS if importlib.util.find_spec(name) is not None)


def run_on(loop: str, main: Callable[..., Awaitable[_Result]], *arguments: Any) -> _Result:
    """Run an async function on the loop of that name."""
    backend, options = LOOPS[loop]
    return anyio.run(main, *arguments, backend=backend, backend_options=options)
