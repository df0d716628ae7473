"""How much of a stretch of time the host stood still, wherever the stretch lies."""

import pytest

from atoll.testing.host_pauses import HostPauses


def told(*pauses):
    """Pauses that a process is said to have told: when each ended, and how long it was."""
    found = HostPauses()
    found._pauses.extend(pauses)
    return found


@pytest.mark.parametrize(
    ("pauses", "stretch_s", "most_s"),
    [
        ([], 1.0, 0.0),
        ([(10.0, 2.0)], 1.0, 1.0),
        ([(10.0, 2.0)], 3.0, 2.0),
        ([(10.0, 1.0), (12.0, 1.0)], 3.0, 2.0),
        ([(10.0, 1.0), (12.0, 1.0)], 2.5, 1.5),
        ([(10.0, 1.0), (12.0, 0.5), (20.0, 1.2)], 2.0, 1.2),
        ([(10.0, 0.5), (11.0, 1.0)], 1.2, 1.0 + 0.2),
    ],
)
def test_the_worst_stretch_is_found(pauses, stretch_s, most_s):
    assert told(*pauses).most_s(stretch_s) == pytest.approx(most_s)
