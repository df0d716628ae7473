"""Every way in which a grant can be bad is refused, with its own reason."""

import base64
import json

import pytest
from joserfc import jws
from joserfc.jwk import OctKey, OKPKey

from atoll.transport.errors import Expired, MalformedFrame, Refused
from atoll.transport.keys import NodeKey
from atoll.transport.tokens import GRANT_BYTES_MAX, check_grant, issue_grant

NOW = 1_800_000_000.0
CLOUD, BEARER, OTHER = NodeKey.generate(), NodeKey.generate(), NodeKey.generate()


def encode(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def grant(issuer=CLOUD, **changes):
    arguments = {
        "subject": BEARER.node_id,
        "audience": "atoll",
        "scopes": ["service:call"],
        "site": "home",
        "life_s": 3600,
        "now": NOW,
    }
    return issue_grant(issuer, **(arguments | changes))


def check(data, *, now=NOW, bearer=BEARER.node_id, audience="atoll"):
    return check_grant(data, issuer=CLOUD.node_id, bearer=bearer, audience=audience, now=now)


def forged(*, key=CLOUD, header=(), drop=(), claims=()):
    """A grant signed for real, with a header or claims that ours never have."""
    head, body, _ = grant().decode().split(".")

    def read(part):
        return json.loads(base64.urlsafe_b64decode(part + "=="))

    new_header = read(head) | dict(header)
    new_claims = {name: value for name, value in (read(body) | dict(claims)).items() if name not in drop}
    signer = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": encode(bytes(key.node_id)), "d": encode(key.seed)})
    registry = jws.JWSRegistry(algorithms=["Ed25519", "EdDSA"])
    # joserfc warns of the old name, which is the very thing this test writes.
    registry.algorithms["EdDSA"].security_warning = None
    return jws.serialize_compact(new_header, json.dumps(new_claims).encode(), signer, registry=registry).encode()


def test_a_good_grant_says_who_and_what():
    found = check(grant())
    assert found.subject == BEARER.node_id
    assert found.scopes == {"service:call"}
    assert found.site == "home"
    assert found.expires_at == NOW + 3600


@pytest.mark.parametrize("claim", ["iss", "sub", "aud", "exp", "iat", "jti", "scope", "site", "cnf"])
def test_a_missing_claim_is_refused(claim):
    with pytest.raises(Refused, match=claim):
        check(forged(drop=[claim]))


@pytest.mark.parametrize("header", [{"typ": "JWT"}, {"typ": "at+jwt"}, {"alg": "EdDSA"}, {"kid": "another"}], ids=str)
def test_a_wrong_header_is_refused(header):
    with pytest.raises(Refused, match=next(iter(header))):
        check(forged(header=header))


@pytest.mark.parametrize("claims", [{"exp": "soon"}, {"exp": True}, {"iat": 1.5}, {"scope": ["a"]}, {"site": 7}])
def test_a_claim_of_the_wrong_kind_is_refused(claims):
    with pytest.raises(MalformedFrame):
        check(forged(claims=claims))


def test_a_grant_of_another_issuer_is_refused():
    with pytest.raises(Refused, match="kid"):
        check(grant(issuer=OTHER))


def test_a_grant_signed_by_another_key_under_the_right_name_is_refused():
    with pytest.raises(Refused, match="not signed by the cloud"):
        check(forged(key=OTHER))


def test_another_bearer_is_refused():
    with pytest.raises(Refused, match="sub"):
        check(grant(), bearer=OTHER.node_id)


def test_a_thumbprint_of_another_key_is_refused():
    with pytest.raises(Refused, match="cnf"):
        check(forged(claims={"cnf": {"jkt": "A" * 43}}))


def test_another_audience_is_refused():
    with pytest.raises(Refused, match="aud"):
        check(grant(), audience="elsewhere")


def test_an_expired_grant_is_said_to_be_expired_beyond_the_skew():
    check(grant(), now=NOW + 3600 + 59)
    with pytest.raises(Expired):
        check(grant(), now=NOW + 3600 + 60)


def test_a_grant_from_the_future_is_refused():
    check(grant(), now=NOW - 59)
    with pytest.raises(Refused, match="future"):
        check(grant(), now=NOW - 61)


def test_no_signature_at_all_is_refused():
    head = encode(json.dumps({"alg": "none", "typ": "grant+jwt", "kid": CLOUD.node_id.short}).encode())
    body = grant().decode().split(".")[1]
    with pytest.raises(Refused, match="alg"):
        check(f"{head}.{body}.".encode())


def test_a_shared_secret_instead_of_a_signature_is_refused():
    header = {"alg": "HS256", "typ": "grant+jwt", "kid": CLOUD.node_id.short}
    key = OctKey.import_key(bytes(CLOUD.node_id))
    with pytest.raises(Refused, match="alg"):
        check(jws.serialize_compact(header, b"{}", key, algorithms=["HS256"]).encode())


@pytest.mark.parametrize("position", [5, 80, -20])
def test_an_altered_grant_is_refused(position):
    data = bytearray(grant())
    data[position] = ord("A") if data[position] != ord("A") else ord("B")
    with pytest.raises((Refused, MalformedFrame)):
        check(bytes(data))


@pytest.mark.parametrize("data", [b"", b"a.b", b"....", b"\xff\xfe.\x00.\x01", b"x" * (GRANT_BYTES_MAX + 1)])
def test_what_is_no_grant_is_malformed(data):
    with pytest.raises(MalformedFrame):
        check(data)
