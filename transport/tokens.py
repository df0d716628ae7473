"""Node grants: the cloud's signed word, checked off line, that a key belongs to it and what it may do.

A grant is a JWT (RFC 7519) signed with Ed25519 (RFC 8037, RFC 9864) and bound to its bearer's key by the key's
thumbprint (RFC 7800, RFC 7638). Every claim below is required; a grant without one is refused.

    header   alg Ed25519, typ grant+jwt, kid = the issuer's short id
    claims   iss issuer id, sub bearer id, aud, exp, iat, jti, scope, site, cnf.jkt
"""

import base64
import json
import os
from collections.abc import Sequence
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from atoll.transport.errors import Expired, MalformedFrame, Refused
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey

GRANT_BYTES_MAX = 4096
SKEW_S = 60.0
"""How far two hosts' wall clocks may differ."""
_ALGORITHM = "Ed25519"
_TYPE = "grant+jwt"
_CLAIMS = ("iss", "sub", "aud", "exp", "iat", "jti", "scope", "site", "cnf")
_REGISTRY = jws.JWSRegistry(algorithms=[_ALGORITHM])


class Grant(msgspec.Struct, frozen=True):
    """What a genuine grant says."""

    subject: NodeId
    scopes: frozenset[str]
    site: str
    expires_at: float
    """Unix seconds."""


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _public(node: NodeId) -> OKPKey:
    return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": _base64(node)})


def issue_grant(
    issuer: NodeKey, *, subject: NodeId, audience: str, scopes: Sequence[str], site: str, life_s: float, now: float
) -> bytes:
    """Sign a grant for `subject`, good from `now` (Unix seconds) for `life_s` seconds."""
    key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": _base64(issuer.node_id), "d": _base64(issuer.seed)})
    claims = {
        "iss": str(issuer.node_id),
        "sub": str(subject),
        "aud": audience,
        "exp": int(now + life_s),
        "iat": int(now),
        "jti": _base64(os.urandom(16)),
        "scope": " ".join(scopes),
        "site": site,
        "cnf": {"jkt": _public(subject).thumbprint()},
    }
    header = {"alg": _ALGORITHM, "typ": _TYPE, "kid": issuer.node_id.short}
    return jws.serialize_compact(header, json.dumps(claims).encode(), key, registry=_REGISTRY).encode()


def check_grant(grant: bytes, *, issuer: NodeId, bearer: NodeId, audience: str, now: float) -> Grant:
    """Read a grant that `bearer`, whose key is already proved, shows.

    Raises:
        MalformedFrame: It is no JWT of ours (the bearer's fault).
        Refused: Signed by another key, for another bearer or audience, or a claim is missing; the text says which.
        Expired: It was good once.
    """
    if len(grant) > GRANT_BYTES_MAX:
        raise MalformedFrame(f"a grant has at most {GRANT_BYTES_MAX} bytes, this one {len(grant)}")
    try:
        token = jws.extract_compact(grant)
        header = token.headers()
    except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedFrame(f"not a grant: {error}") from error
    for name, expected in (("alg", _ALGORITHM), ("typ", _TYPE), ("kid", issuer.short)):
        if header.get(name) != expected:
            raise Refused(f"a grant's header says {name}={expected!r}, this one {header.get(name)!r}")
    try:
        payload = jws.deserialize_compact(grant, _public(issuer), registry=_REGISTRY).payload
    except (JoseError, ValueError, TypeError) as error:
        raise Refused(f"this grant is not signed by the cloud {issuer.short}") from error
    return _judged(payload, issuer=issuer, bearer=bearer, audience=audience, now=now)


def _judged(payload: bytes | None, *, issuer: NodeId, bearer: NodeId, audience: str, now: float) -> Grant:
    try:
        claims: Any = json.loads(payload or b"")
    except (ValueError, RecursionError) as error:
        raise MalformedFrame("a grant's claims are not JSON") from error
    if not isinstance(claims, dict):
        raise MalformedFrame("a grant's claims are not an object")
    missing = [name for name in _CLAIMS if name not in claims]
    if missing:
        raise Refused(f"a grant without {', '.join(missing)} proves nothing")
    expected = {
        "iss": str(issuer),
        "sub": str(bearer),
        "aud": audience,
        "cnf": {"jkt": _public(bearer).thumbprint()},
    }
    for name, value in expected.items():
        if claims[name] != value:
            raise Refused(f"this grant's {name} is another's: {claims[name]!r}")
    times = (claims["iat"], claims["exp"])
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in times):
        raise MalformedFrame("a grant's iat and exp are whole seconds")
    if not isinstance(claims["scope"], str) or not isinstance(claims["site"], str):
        raise MalformedFrame("a grant's scope and site are text")
    issued_at, expires_at = times
    if now < issued_at - SKEW_S:
        raise Refused("this grant was issued in the future: compare the clocks of the two hosts")
    if now >= expires_at + SKEW_S:
        raise Expired("this grant has run out: the node asks the cloud for a new one when it is reachable")
    return Grant(bearer, frozenset(claims["scope"].split()), claims["site"], float(expires_at))
