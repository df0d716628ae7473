"""Dials a relay's WebSocket port: a bearer for networks that let only HTTPS through.

    dialling --TLS, the certificate is right--> --WebSocket--> --preamble, OK--> a byte pipe to the other end

It is the same bearer as over TCP, preamble and answer included (`bearer.py`); only what carries it differs, and the
other end need not know. The certificate is either one that this host's authorities vouch for, for the name that was
dialled, or exactly the one whose fingerprint came with the route. No ticket is shown before that is certain.
"""

import hashlib
import hmac
import ssl

import anyio
import anyio.abc
from anyio.streams.tls import TLSAttribute, TLSStream
from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.uri import WebSocketURI

from atoll.transport.bearer import DIAL_TIMEOUT_S, make_bearer_ready, raw_socket_of, show_ticket
from atoll.transport.errors import MalformedFrame, Refused, UsageError
from atoll.transport.websocket_bytes import MESSAGE_BYTES_MAX, WebSocketBytes

WEBSOCKET_PATH = "/bearer"
SEP_PATH = "/sep"
"""Leads to the relay's SEP port, for what ZeroMQ would say there."""
FINGERPRINT_BYTES = 32
HANDSHAKE_BYTES = 4096


def fingerprint_of(certificate: bytes) -> bytes:
    """Give what a certificate (DER) is pinned by: its SHA-256."""
    return hashlib.sha256(certificate).digest()


async def dial_websocket_bearer(
    host: str,
    port: int,
    ticket: bytes,
    *,
    fingerprint: bytes | None = None,
    context: ssl.SSLContext | None = None,
    timeout_s: float = DIAL_TIMEOUT_S,
) -> WebSocketBytes:
    """Dial our half of a tunnel at a relay's WebSocket port and wait until the other half is there too.

    With a `fingerprint` the relay must have that very certificate, whoever signed it; else `context` decides (without
    one, this host's authorities). `timeout_s` bounds everything, the wait for the other end included. The caller closes
    the stream; `send_eof` ends one direction.

    Raises:
        BearerRefused: The relay said no, with its reason.
        Refused: It is not the relay whose certificate was expected.
        Unreachable: Nobody answers there, or the connection broke before the answer.
        Expired: No answer within `timeout_s`.
        MalformedFrame: What answers is no relay.
        UsageError: The ticket or the fingerprint has a wrong length.
    """
    if fingerprint is not None and len(fingerprint) != FINGERPRINT_BYTES:
        raise UsageError(f"a certificate's fingerprint has {FINGERPRINT_BYTES} bytes, not {len(fingerprint)}")
    where = f"the relay's WebSocket port {host}:{port}"
    return await show_ticket(
        ticket, lambda: open_websocket(host, port, fingerprint, context), where, timeout_s=timeout_s
    )


async def open_websocket(
    host: str,
    port: int,
    fingerprint: bytes | None,
    context: ssl.SSLContext | None = None,
    *,
    path: str = WEBSOCKET_PATH,
) -> WebSocketBytes:
    """Open a WebSocket to a relay whose certificate is right, and say nothing yet.

    Raises:
        Refused: It is not the relay whose certificate was expected.
        MalformedFrame: What answers is no relay.
        OSError, EndOfStream, BrokenResourceError: It did not come to be.
    """
    tcp = await anyio.connect_tcp(host, port)
    try:
        make_bearer_ready(raw_socket_of(tcp))
        if fingerprint is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        elif context is None:
            context = ssl.create_default_context()
        tls = await TLSStream.wrap(
            tcp, server_side=False, hostname=host, ssl_context=context, standard_compatible=False
        )
        if fingerprint is not None:
            _check_pinned(tls, fingerprint)
        return await _handshake(tls, host, port, path)
    except ssl.SSLCertVerificationError as error:
        await anyio.aclose_forcefully(tcp)
        where = f"the relay's WebSocket port {host}:{port}"
        raise Refused(f"{where} shows a certificate that is not trusted here: {error.verify_message}") from error
    except BaseException:
        await anyio.aclose_forcefully(tcp)
        raise


def _check_pinned(tls: TLSStream, fingerprint: bytes) -> None:
    shown = tls.extra(TLSAttribute.peer_certificate_binary)  # noqa: S610 - anyio's, not Django's
    if shown is None or not hmac.compare_digest(fingerprint_of(shown), fingerprint):
        raise Refused("the relay has another certificate than its route says; ask for a new route")


async def _handshake(tls: TLSStream, host: str, port: int, path: str) -> WebSocketBytes:
    uri = WebSocketURI(secure=True, host=host, port=port, path=path, query="")
    protocol = ClientProtocol(uri, max_size=MESSAGE_BYTES_MAX)
    protocol.send_request(protocol.connect())
    await tls.send(b"".join(protocol.data_to_send()))
    events = protocol.events_received()
    while not events and protocol.handshake_exc is None:
        protocol.receive_data(await tls.receive(HANDSHAKE_BYTES))
        events = protocol.events_received()
    if protocol.handshake_exc is not None:
        error = protocol.handshake_exc
        words = error if isinstance(error, WebSocketException) else "its answer is no HTTP"
        raise MalformedFrame(f"{host}:{port} does not speak WebSocket; is this a relay's port? ({words})")
    return WebSocketBytes(tls, protocol, events[1:])
