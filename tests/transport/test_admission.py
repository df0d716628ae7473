"""Who may be what on a link, and what is shown to whom; and frames that no input may crash."""

import contextlib

import msgspec
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.transport.admission import CloudAdmission, SiteAdmission
from atoll.transport.base import Standing
from atoll.transport.errors import MalformedFrame, Refused, UsageError
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.link_frames import Assembly, Backlog, FrameKind, kind_of, read_bye, read_hello, read_ready

SITE = SiteKeys.generate()
OWN, PEER, CLOUD = (NodeKey.generate().node_id for _ in range(3))


def rules(**options):
    return SiteAdmission(keys=SITE, own=OWN, **options)


def test_who_proves_the_sites_secret_to_this_very_node_is_a_member():
    assert rules().judge(PEER, SITE.link_proof(PEER, OWN)) is Standing.MEMBER


@pytest.mark.parametrize(
    "shown",
    [
        b"",
        SITE.secret,
        SITE.link_proof(OWN, PEER),
        SITE.link_proof(PEER, CLOUD),
        SITE.link_proof(CLOUD, OWN),
        SITE.link_proof(PEER, OWN)[:31],
        SITE.link_proof(PEER, OWN) + b"\0",
        SiteKeys.generate().link_proof(PEER, OWN),
    ],
    ids=["nothing", "secret", "mirrored", "for another", "of another", "cut", "longer", "another site"],
)
def test_any_other_proof_leaves_a_neighbour(shown):
    assert rules().judge(PEER, shown) is Standing.NEIGHBOUR


def test_an_open_site_takes_everybody_and_a_pinned_cloud_is_a_cloud_whatever_it_shows():
    assert rules(open_site=True).judge(PEER, b"") is Standing.MEMBER
    assert rules(open_site=True, clouds={CLOUD}).judge(CLOUD, b"") is Standing.CLOUD
    assert rules(clouds={CLOUD}).judge(CLOUD, SITE.link_proof(CLOUD, OWN)) is Standing.CLOUD


def test_a_cloud_is_shown_the_enrolment_secret_and_nothing_of_the_site_others_never_see_it():
    mine = rules(clouds={CLOUD}, enrolment=b"one time")
    assert mine.credential_for(CLOUD) == b"one time"
    assert mine.credential_for(PEER) == SITE.link_proof(OWN, PEER)
    assert rules(clouds={CLOUD}).credential_for(CLOUD) == b""


def test_no_secret_is_in_a_repr():
    text = repr(rules(enrolment=b"one time")) + repr(CloudAdmission(lambda *_: Standing.NEIGHBOUR))
    assert "one time" not in text
    assert repr(SITE.secret)[2:-1] not in text


def test_an_enrolment_secret_too_long_for_a_greeting_is_refused_at_once():
    with pytest.raises(UsageError, match="at most 4096 bytes"):
        rules(enrolment=bytes(4097))


def test_a_cloud_shows_nothing_and_lets_its_registry_judge():
    asked = []

    def enrol(peer, shown):
        asked.append((peer, shown))
        if shown == b"spent":
            raise Refused("this secret was used")
        return Standing.GRANTED

    cloud = CloudAdmission(enrol)
    assert cloud.credential_for(PEER) == b""
    assert cloud.judge(PEER, b"right") is Standing.GRANTED
    with pytest.raises(Refused, match="was used"):
        cloud.judge(PEER, b"spent")
    assert asked == [(PEER, b"right"), (PEER, b"spent")]


@settings(max_examples=examples(300))
@given(st.binary(max_size=200) | st.builds(lambda kind, body: bytes([kind]) + body, st.integers(0, 6), st.binary()))
def test_no_bytes_make_the_reading_of_frames_fail_otherwise_than_as_malformed(frame):
    for read in (kind_of, read_hello, read_ready, lambda each: Assembly().take(kind_of(each), each)):
        with contextlib.suppress(MalformedFrame):
            if frame:
                read(frame)
    assert read_bye(b"\5" + frame).isprintable()


@settings(max_examples=examples(50))
@given(st.lists(st.sampled_from([0, 1, 100, 5000, 262_144, 262_145, 800_000]), max_size=25))
def test_what_a_backlog_takes_an_assembly_gives_back(sizes):
    backlog, assembly, got = Backlog(), Assembly(), []
    sent = [bytes([n]) * size for n, size in enumerate(sizes)]
    taken = [each for each in sent if backlog.bytes + len(each) <= 8 * 1024 * 1024]
    for each in taken:
        backlog.put(each)
    while (frame := backlog.frame()) is not None:
        assert backlog.frame() is frame
        backlog.sent()
        got += assembly.take(kind_of(frame), frame)
    assert got == taken
    assert (backlog.bytes, backlog.count) == (0, 0)


def test_a_batch_has_a_limit_and_pieces_must_have_an_end():
    with pytest.raises(MalformedFrame, match="at most 1024"):
        Assembly().take(FrameKind.MESSAGES, b"\2" + msgspec.msgpack.encode([b""] * 1025))
