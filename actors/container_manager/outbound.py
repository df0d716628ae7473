"""The way out for services: `context.http` and `fetch`, through whatever the node gives them.

    ask --http or https, and the node gives a way--> fetched --> answer
        --anything else-----------------------------------------> answer with the reason

It must never fetch anything itself, and an error never ends more than the one request.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from urllib.parse import urlsplit

import anyio
import msgspec

from atoll.actors.container_manager.errors import ContainerError, UsageFault
from atoll.actors.container_manager.fields import field_fault, is_clean_url, is_method
from atoll.actors.container_manager.messages import BODY_BYTES_MAX, HEADER_CHARACTERS_MAX, HEADERS_MAX, Headers
from atoll.actors.container_manager.runtimes import frames
from atoll.actors.container_manager.runtimes.javascript import Asks
from atoll.transport.errors import TransportError

log = logging.getLogger("atoll.containers")

FETCH_S = 30.0


class Outbound(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP request that a service makes with `context.http` or `fetch`."""

    container: str
    method: str
    url: str
    """`http` or `https`, checked; nothing else is."""
    headers: Headers = ()
    body: bytes = b""


class Inbound(msgspec.Struct, frozen=True, kw_only=True):
    """What came back."""

    status: int
    headers: Headers = ()
    body: bytes = b""


Fetch: TypeAlias = Callable[[Outbound], Awaitable[Inbound]]
"""Raises an `OSError`, a `TransportError` or a `ContainerError` where nothing comes back; the service gets its text."""


def door(container: str, fetch: Fetch | None) -> Asks:
    """Make what answers the HTTP requests of one container."""

    async def answer(ask: frames.HttpAsk) -> frames.HttpAnswer:
        try:
            with anyio.fail_after(FETCH_S):
                found = await _checked(container, fetch, ask)
        except TimeoutError:
            return frames.HttpAnswer(ask.call, ask.token, error=f"no answer came within {FETCH_S:g} s")
        except (OSError, TransportError, ContainerError) as error:
            return frames.HttpAnswer(ask.call, ask.token, error=str(error) or type(error).__name__)
        except Exception:
            # A mistake in `fetch` must not end every service of the node.
            log.exception("fetching %s for %s went wrong", ask.url, container)
            return frames.HttpAnswer(ask.call, ask.token, error="the node made a mistake; see its log")
        return frames.HttpAnswer(ask.call, ask.token, found.status, found.headers, found.body)

    return answer


async def _checked(container: str, fetch: Fetch | None, ask: frames.HttpAsk) -> Inbound:
    if fetch is None:
        raise UsageFault("this node gives services no way out")
    try:
        parts = urlsplit(ask.url)
        allowed = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        allowed = False
    # `urlsplit` passes over line breaks and tabs in silence.
    if not allowed or not is_clean_url(ask.url):
        raise UsageFault(f"{ask.url[:200]!r} is no http or https URL")
    if not is_method(ask.method):
        raise UsageFault(f"{ask.method!r} is no HTTP method")
    if fault := field_fault(ask.headers):
        raise UsageFault(fault)
    found = await fetch(
        Outbound(container=container, method=ask.method, url=ask.url, headers=ask.headers, body=ask.body)
    )
    if len(found.body) > BODY_BYTES_MAX:
        raise UsageFault(f"the answer has {len(found.body)} bytes; {BODY_BYTES_MAX} are taken")
    if len(found.headers) > HEADERS_MAX or any(len(n) + len(v) > HEADER_CHARACTERS_MAX for n, v in found.headers):
        raise UsageFault(f"the answer has more than {HEADERS_MAX} headers, or one of more than {HEADER_CHARACTERS_MAX}")
    return found
