"""What is decided about a claim: who gets its content, what a further taker is told, and what is forgotten."""

from __future__ import annotations

import contextlib
import hashlib
from contextlib import AbstractContextManager
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import ConfigurationError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.claims import (
    KEPT_SECONDS,
    MAX_CLAIMS_PER_CONNECTION,
    MAX_OPEN_CLAIMS,
    MAX_OPEN_CLAIMS_PER_CONNECTION,
    Claim,
    ClaimState,
    allowed_claims,
    decide_take,
    to_forget,
)
from hybridrelay.relay.store.checks import check_new_claim

PROOF = bytes(range(32))
CLAIM = Claim("ab" * 16, "orders", hashlib.sha256(PROOF).hexdigest(), b"sealed", 100.0, 200.0)


def test_the_first_taker_gets_the_content_and_nothing_is_left() -> None:
    take = decide_take(CLAIM, PROOF, "192.0.2.1", 150.0)
    assert (take.reason, take.sealed) == (Reason.NO_ERROR, b"sealed")
    assert take.changed == attrs.evolve(CLAIM, sealed=None, taken_at=150.0, taken_by="192.0.2.1")


def test_a_second_taker_learns_that_it_is_the_second_and_is_counted() -> None:
    taken = decide_take(CLAIM, PROOF, "192.0.2.1", 150.0).changed
    again = decide_take(taken, PROOF, "198.51.100.7", 160.0)
    assert (again.reason, again.sealed) == (Reason.CLAIM_TAKEN, None)
    assert again.claim is taken
    assert again.changed is not None
    assert (again.changed.taken_at, again.changed.taken_by) == (150.0, "192.0.2.1")
    seen = again.changed.taken_again, again.changed.taken_again_at, again.changed.taken_again_by
    assert seen == (1, 160.0, "198.51.100.7")
    # Also after the time at which it would have expired: it was taken, and this is what matters.
    late = decide_take(again.changed, PROOF, "198.51.100.7", 1e6)
    assert late.reason is Reason.CLAIM_TAKEN
    assert late.changed is not None
    assert late.changed.taken_again == 2


@pytest.mark.parametrize(
    ("claim", "now", "disabled", "reason"),
    [
        (CLAIM, 200.0, False, Reason.CLAIM_EXPIRED),
        (CLAIM.revoked(120.0), 150.0, False, Reason.CLAIM_REVOKED),
        (CLAIM.revoked(120.0), 250.0, False, Reason.CLAIM_REVOKED),
        (CLAIM, 150.0, True, Reason.CONNECTION_DISABLED),
        (None, 150.0, False, Reason.CLAIM_UNKNOWN),
    ],
)
def test_refusals_change_nothing(claim: Claim | None, now: float, disabled: bool, reason: Reason) -> None:
    take = decide_take(claim, PROOF, "192.0.2.1", now, disabled=disabled)
    assert (take.reason, take.sealed, take.changed) == (reason, None, None)


@given(
    st.binary(max_size=64).filter(lambda data: data != PROOF),
    st.sampled_from([None, CLAIM, CLAIM.revoked(1.0), attrs.evolve(CLAIM, taken_at=3.0), CLAIM.without_content()]),
    st.floats(0, 1e6),
    st.booleans(),
)
def test_a_wrong_proof_learns_nothing(proof: bytes, claim: Claim | None, now: float, disabled: bool) -> None:
    assert decide_take(claim, proof, "x", now, disabled=disabled) == decide_take(None, proof, "y", 0.0)


def test_a_claim_ends_when_it_is_taken_revoked_or_expired() -> None:
    assert CLAIM.state(199.0) is ClaimState.OPEN
    assert CLAIM.state(200.0) is ClaimState.EXPIRED
    assert CLAIM.ended_at(199.0) is None
    assert CLAIM.ended_at(201.0) == 200.0
    assert CLAIM.revoked(150.0).ended_at(151.0) == 150.0
    assert attrs.evolve(CLAIM, taken_at=160.0).ended_at(151.0) == 160.0


def test_a_claim_that_has_expired_by_a_clock_that_was_ahead_has_expired() -> None:
    """Its content was deleted. Otherwise it would be taken without any, and the alarm would be raised later."""
    emptied = CLAIM.without_content()
    assert emptied.state(150.0) is ClaimState.EXPIRED
    take = decide_take(emptied, PROOF, "192.0.2.1", 150.0)
    assert (take.reason, take.sealed, take.changed) == (Reason.CLAIM_EXPIRED, None, None)


def test_what_ended_long_ago_is_forgotten_and_what_is_open_never() -> None:
    assert to_forget([CLAIM], 199.0) == []
    assert to_forget([CLAIM], 200.0 + KEPT_SECONDS) == []
    assert to_forget([CLAIM], 201.0 + KEPT_SECONDS) == [CLAIM]
    opened = [attrs.evolve(CLAIM, id=f"{n:032x}", expires_at=1e9) for n in range(MAX_CLAIMS_PER_CONNECTION)]
    ended = [attrs.evolve(CLAIM, id=f"{n:032x}", taken_at=100.0 + n) for n in range(5000, 5003)]
    assert to_forget(opened, 300.0) == []
    assert to_forget([*opened[:-1], *ended], 6000.0) == ended[:2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "AB" * 16},
        {"id": "ab"},
        {"proof_digest": "0" * 63},
        {"sealed": b""},
        {"sealed": bytes(16 * 1024 + 1)},
        {"note": "x" * 129},
        {"note": "two\nlines"},
    ],
)
def test_impossible_claims_do_not_exist(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        attrs.evolve(CLAIM, **wrong)


def test_the_content_is_not_shown() -> None:
    assert "sealed" not in repr(CLAIM)
    assert CLAIM.proof_digest not in repr(CLAIM)


def test_a_taker_that_asks_again_is_not_a_thief() -> None:
    """The relay was killed, or the channel was lost, after the content had been sent."""
    first, other = bytes(16), bytes(range(16))
    taken = decide_take(CLAIM, PROOF, "192.0.2.1", 150.0, attempt=first).changed
    assert taken is not None
    again = decide_take(taken, PROOF, "198.51.100.7", 160.0, attempt=first)
    assert (again.reason, again.sealed, again.changed) == (Reason.CLAIM_LOST, None, None)
    for attempt in (other, b""):
        alarm = decide_take(taken, PROOF, "192.0.2.1", 160.0, attempt=attempt)
        assert (alarm.reason, alarm.changed and alarm.changed.taken_again) == (Reason.CLAIM_TAKEN, 1)


def test_takers_that_state_no_attempt_are_not_taken_for_each_other() -> None:
    taken = decide_take(CLAIM, PROOF, "192.0.2.1", 150.0).changed
    assert decide_take(taken, PROOF, "192.0.2.1", 160.0).reason is Reason.CLAIM_TAKEN


def test_open_claims_of_many_hybrid_connections() -> None:
    """Each opens as many as it can, one after the other."""
    opened: list[int] = []
    while (open_ := sum(opened)) < MAX_OPEN_CLAIMS:
        ours = 0
        while open_ + ours < MAX_OPEN_CLAIMS and ours < allowed_claims(open_ + ours):
            ours += 1
        assert ours > 0, "another one always gets some"
        opened.append(ours)
    assert sum(opened) == MAX_OPEN_CLAIMS
    assert opened[0] == MAX_OPEN_CLAIMS_PER_CONNECTION
    assert min(opened[:50]) >= 4
    assert len(opened) >= 150


@pytest.mark.parametrize(("open_", "ours", "is_admitted"), [(1000, 0, False), (999, 0, True), (999, 1, False)])
def test_the_last_claims_that_may_be_open(open_: int, ours: int, is_admitted: bool) -> None:
    now = 1000.0
    claim = attrs.evolve(CLAIM, created_at=now, expires_at=now + 60.0)
    refused = pytest.raises(ConfigurationError, match="at most 1000 claims")
    expected: AbstractContextManager[object] = contextlib.nullcontext() if is_admitted else refused
    with expected:
        check_new_claim(claim, is_taken=False, open_=open_, open_of_connection=ours, now=now)
