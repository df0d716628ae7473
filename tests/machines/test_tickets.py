"""Tickets: what is good is admitted, everything else is refused with its own reason."""

from pathlib import Path

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_keys import ISSUER, RELAY, STRANGER

from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.tickets import (
    BEP_ROLES,
    NO_HOLDER,
    SEP_ROLES,
    TICKET_BYTES,
    TICKET_BYTES_MAX,
    Role,
    Ticket,
    check,
    issue,
    judge,
)
from atoll.transport.errors import Expired, MalformedFrame, Refused, UsageError

GOLDEN = Path(__file__).parent.parent / "golden" / "ticket.hex"
HOLDER = bytes(range(32))
SUBJECT = bytes(range(16))
NOW = 1_800_000_000


def sep_ticket(**changes):
    fields = {
        "role": Role.REGISTER,
        "subject": SUBJECT,
        "relay": RELAY.node_id,
        "expires_at": NOW + 60,
        "quota_bytes": 1000,
        "holder": HOLDER,
    }
    return issue(changes.pop("key", ISSUER), **(fields | changes))


def verdict(data, **changes):
    asked = {
        "issuer": ISSUER.node_id,
        "relay": RELAY.node_id,
        "roles": SEP_ROLES,
        "holder": HOLDER,
        "now": NOW,
    }
    return judge(data, **(asked | changes))


def test_a_good_ticket_says_what_was_issued_and_nothing_of_who():
    ticket = verdict(sep_ticket())
    assert isinstance(ticket, Ticket)
    assert (ticket.role, ticket.subject, ticket.expires_at) == (Role.REGISTER, SUBJECT, NOW + 60)
    assert (ticket.quota_bytes, ticket.holder) == (1000, HOLDER)
    assert "node" not in ticket.__struct_fields__


def test_a_ticket_is_short_and_keeps_its_bytes():
    data = sep_ticket()
    assert len(data) == TICKET_BYTES <= TICKET_BYTES_MAX
    assert data.hex() == GOLDEN.read_text().strip()


@pytest.mark.parametrize(
    ("data", "asked", "reason"),
    [
        (sep_ticket(expires_at=NOW), {}, Reason.EXPIRED),
        (sep_ticket(key=STRANGER), {}, Reason.FOREIGN_ISSUER),
        (sep_ticket(relay=STRANGER.node_id), {}, Reason.FOREIGN_RELAY),
        (sep_ticket(), {"roles": BEP_ROLES}, Reason.WRONG_ROLE),
        (sep_ticket(), {"roles": {Role.REACH}}, Reason.WRONG_ROLE),
        (sep_ticket(), {"holder": NO_HOLDER}, Reason.FOREIGN_HOLDER),
        (sep_ticket(), {"holder": None}, Reason.FOREIGN_HOLDER),
        (sep_ticket(role=Role.OFFER, holder=NO_HOLDER), {"roles": BEP_ROLES}, Reason.FOREIGN_HOLDER),
        (sep_ticket()[:-1] + bytes([sep_ticket()[-1] ^ 1]), {}, Reason.FORGED),
        (b"", {}, Reason.MALFORMED),
        (sep_ticket() + b"x", {}, Reason.MALFORMED),
        (b"\x01" + sep_ticket()[1:], {}, Reason.MALFORMED),
        (sep_ticket()[:1] + b"\x09" + sep_ticket()[2:], {}, Reason.MALFORMED),
    ],
)
def test_what_is_wrong_is_named(data, asked, reason):
    assert verdict(data, **asked) is reason


def test_check_raises_by_whose_fault_it_is():
    asked = {"issuer": ISSUER.node_id, "relay": RELAY.node_id, "roles": SEP_ROLES, "holder": HOLDER}
    assert check(sep_ticket(), now=NOW, **asked).subject == SUBJECT
    with pytest.raises(MalformedFrame, match="not a ticket"):
        check(b"garbage", now=NOW, **asked)
    with pytest.raises(Expired, match="ask for a new one"):
        check(sep_ticket(), now=NOW + 60, **asked)
    with pytest.raises(Refused, match="another relay"):
        check(sep_ticket(relay=STRANGER.node_id), now=NOW, **asked)


def test_a_ticket_that_could_never_be_used_is_not_issued():
    with pytest.raises(UsageError):
        sep_ticket(holder=NO_HOLDER)
    with pytest.raises(UsageError):
        sep_ticket(role=Role.CALL)
    with pytest.raises(UsageError):
        sep_ticket(subject=b"short")
    with pytest.raises(UsageError):
        sep_ticket(expires_at=2**32)
    with pytest.raises(UsageError):
        sep_ticket(rate_bytes_s=2**32)
    with pytest.raises(UsageError, match="purse"):
        sep_ticket(purse=b"short")
    with pytest.raises(UsageError, match="purse"):
        sep_ticket(tunnels_max=3)


def test_every_flipped_bit_is_refused():
    good = sep_ticket()
    for bit in range(len(good) * 8):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        assert isinstance(verdict(bytes(flipped)), Reason), f"bit {bit}"


@settings(max_examples=examples(200))
@given(st.binary(max_size=300))
def test_no_bytes_crash_the_judge(data):
    assert isinstance(verdict(data), Reason)


@settings(max_examples=examples(50))
@given(
    role=st.sampled_from(list(Role)),
    subject=st.binary(min_size=16, max_size=16),
    holder=st.binary(min_size=32, max_size=32).filter(any),
    life_s=st.integers(1, 2**31),
    quota=st.fixed_dictionaries(
        {
            "quota_bytes": st.integers(0, 2**64 - 1),
            "rate_bytes_s": st.integers(0, 2**32 - 1),
            "purse": st.binary(min_size=8, max_size=8).filter(any),
            "tunnels_max": st.integers(0, 2**16 - 1),
        }
    ),
)
def test_what_is_issued_is_read_back(role, subject, holder, life_s, quota):
    bound = holder if role in SEP_ROLES else NO_HOLDER
    fields = {"role": role, "subject": subject, "holder": bound, "expires_at": NOW + life_s}
    data = sep_ticket(**fields, **quota)
    ticket = verdict(data, roles=list(Role), holder=holder if role in SEP_ROLES else None)
    assert isinstance(ticket, Ticket)
    assert (ticket.role, ticket.subject) == (role, subject)
    assert {name: getattr(ticket, name) for name in quota} == quota
