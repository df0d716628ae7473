"""The benchmark of streams moves what it says."""

from atoll.bench.streams import KINDS


def test_every_kind_moves_its_bytes():
    assert all(1_000_000 <= work(1_000_000) <= 6_000_000 for work in KINDS.values())
