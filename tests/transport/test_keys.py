"""Node ids and keys: their text, what follows from them, and files that are none."""

import stat

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st
from x25519 import public_of

from atoll.transport.errors import MalformedFrame, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey, SiteKeys, signature_valid

KEY = NodeKey(bytes(range(32)))


@given(st.binary(min_size=32, max_size=32))
def test_an_id_is_read_as_it_is_written_in_small_letters_or_large(data):
    node = NodeId(data)
    assert NodeId.parse(str(node)) == NodeId.parse(str(node).upper()) == node
    assert str(node).startswith(node.short)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 51,
        "a" * 53,
        "a" * 51 + "b",
        "a" * 52 + "====",
        "a" * 51 + "1",
        "\N{LATIN SMALL LETTER LONG S}" + "a" * 51,
        "é" * 52,
        "a" * 100_000,
    ],
    ids=["empty", "short", "long", "spare bits", "padding", "a digit", "a long s", "no ASCII", "very long"],
)
def test_a_text_that_is_no_id_is_refused_in_one_line(text):
    with pytest.raises(UsageError, match="expected 52 characters") as refused:
        NodeId.parse(text)
    assert len(str(refused.value)) < 200


def test_an_id_has_32_bytes_and_only_those_of_a_key_can_be_dialled():
    with pytest.raises(MalformedFrame, match="has 32 bytes, this one has 31"):
        NodeId(bytes(31))
    with pytest.raises(MalformedFrame, match="no key follows"):
        _ = NodeId(b"\xff" * 32).curve_key


@given(st.binary(min_size=32, max_size=32))
def test_what_follows_from_a_site_s_secret_is_hkdf(secret):
    def derived(label, length):
        return HKDF(hashes.SHA256(), length, salt=None, info=b"atoll site " + label).derive(secret)

    site = SiteKeys(secret)
    assert (site.tag, site.beacon_key, site.roster_key) == (
        derived(b"tag", 8),
        derived(b"beacon", 32),
        derived(b"roster", 32),
    )


def test_the_key_of_links_follows_from_the_id():
    assert KEY.node_id.curve_key == public_of(KEY.curve_secret)


def test_a_signature_is_good_for_its_message_and_its_signer_only():
    signature, other = KEY.sign(b"message"), NodeKey.generate().node_id
    assert signature_valid(KEY.node_id, b"message", signature)
    assert not signature_valid(KEY.node_id, b"another", signature)
    assert not signature_valid(other, b"message", signature)
    for malformed in (b"", signature[:-1], signature + b"x", bytes(64)):
        assert not signature_valid(KEY.node_id, b"message", malformed)


def test_a_key_is_made_once_and_kept_private(tmp_path):
    path = tmp_path / "state" / "node.key"
    made = NodeKey.load_or_create(path)
    assert NodeKey.load_or_create(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        NodeKey.load_or_create(path)


def test_a_file_that_is_no_key_is_left_alone(tmp_path):
    path = tmp_path / "node.key"
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match="14 bytes instead of 32; move it away"):
        NodeKey.load_or_create(path)
    assert path.read_bytes() == b"something else"


def test_no_secret_is_in_a_repr():
    site = SiteKeys(b"s" * 32)
    for shown in (repr(KEY), repr(site), repr(NodeKey(b"s" * 32))):
        assert "sss" not in shown
        assert repr(KEY.seed) not in shown


def test_what_follows_from_a_sites_secret_differs_by_purpose_and_by_site():
    one, other = SiteKeys(b"s" * 32), SiteKeys(b"t" * 32)
    keys = [one.tag, one.beacon_key, one.roster_key, other.tag, other.beacon_key, other.roster_key]
    assert len({key[:8] for key in keys}) == len(keys)
