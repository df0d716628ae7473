"""Dials a relay's WebSocket port: a bearer for networks that let only HTTPS through.

    dialling --TLS, the certificate is right--> --WebSocket--> --preamble, OK--> a byte pipe to the other end

It is the same bearer as over TCP, preamble and answer included (`bearer.py`); only what carries it differs, and the
other end need not know. The certificate is exactly the one whose fingerprint came with the route, whoever signed it.
No ticket is shown before that is certain (`doors.py` shows it).
"""

import hashlib
import hmac
import ssl

import anyio
from anyio.streams.tls import TLSAttribute, TLSStream
from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.uri import WebSocketURI

from atoll.transport.bearer import make_bearer_ready, raw_socket_of
from atoll.transport.errors import MalformedFrame, Refused
from atoll.transport.websocket_bytes import MESSAGE_BYTES_MAX, WebSocketBytes

WEBSOCKET_PATH = "/bearer"
SEP_PATH = "/sep"
"""Leads to the relay's SEP port, for what ZeroMQ would say there."""
HANDSHAKE_BYTES = 4096


def fingerprint_of(certificate: bytes) -> bytes:
    """Give what a certificate (DER) is pinned by: its SHA-256."""
    return hashlib.sha256(certificate).digest()


async def open_websocket(host: str, port: int, fingerprint: bytes, *, path: str = WEBSOCKET_PATH) -> WebSocketBytes:
    """Open a WebSocket to the relay whose certificate has that fingerprint, and say nothing yet.

    Raises:
        Refused: It is not the relay whose certificate was expected.
        MalformedFrame: What answers is no relay.
        OSError, EndOfStream, BrokenResourceError: It did not come to be.
    """
    tcp = await anyio.connect_tcp(host, port)
    try:
        make_bearer_ready(raw_socket_of(tcp))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Compared below, whole: neither its signer nor its name matter.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        tls = await TLSStream.wrap(
            tcp, server_side=False, hostname=host, ssl_context=context, standard_compatible=False
        )
        _check_pinned(tls, fingerprint)
        return await _handshake(tls, host, port, path)
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
