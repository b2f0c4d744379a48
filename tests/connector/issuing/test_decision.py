"""Who gets an identity: the table, and a claim that is used for one key only."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.connector.issuing.decision import (
    KEPT_SECONDS,
    MAX_RENEWALS,
    MAX_USED_CLAIMS,
    RENEWALS_SECONDS,
    Decision,
    Requester,
    UsedClaim,
    UsedClaims,
    decide_issue,
    key_digest,
)
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import Role

NOW = 1_800_000_000.0
DAY = 86_400.0
KEY, OTHER = b"k" * 32, b"o" * 32
CLAIM = Requester("orders", Role.CLAIM, "billing", "0A", NOW + DAY, is_from_issuer=False)
APPLICATION = Requester("orders", Role.APPLICATION, "billing", "0B", NOW + 30 * DAY, is_from_issuer=True)
USED = UsedClaims((UsedClaim("orders", "0A", "billing", key_digest(KEY), NOW - 5, NOW + DAY),))


def recorded(**claims: int) -> UsedClaims:
    """So many used claims of each hybrid connection."""
    return UsedClaims(
        tuple(
            UsedClaim(name, f"{number:04X}", "x", "", NOW, NOW + DAY)
            for name, count in claims.items()
            for number in range(0x1000, 0x1000 + count)
        )
    )


FULL = recorded(orders=MAX_USED_CLAIMS)
OFTEN = [NOW - 1] * MAX_RENEWALS


def decide(
    requester: Requester,
    key: bytes = KEY,
    *,
    used: UsedClaims = UsedClaims(),  # noqa: B008 - immutable
    renewals: list[float] | None = None,
    issuer_ends: float = NOW + 300 * DAY,
    now: float = NOW,
) -> Decision:
    return decide_issue(requester, key, used=used, renewals=renewals or [], issuer_ends=issuer_ends, now=now)


def test_many_hybrid_connections_together_leave_room_for_others() -> None:
    """Each records as many as it can."""
    entries: tuple[UsedClaim, ...] = ()

    def fill(name: str) -> int:
        nonlocal entries
        for number in range(MAX_USED_CLAIMS + 1):
            claim = attrs.evolve(CLAIM, connection=name, serial=f"{number:X}")
            changed = decide(claim, used=UsedClaims(entries)).changed
            if changed is None:
                return number
            entries = changed.entries
        raise AssertionError("there is no limit")

    used = [fill(f"c{number}") for number in range(130)]
    assert used[0] == MAX_USED_CLAIMS // 2
    assert used[1:] == sorted(used[1:], reverse=True)
    assert used[10] >= 40
    assert used[-1] >= 1
    assert len(entries) <= MAX_USED_CLAIMS


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        (decide(CLAIM), Reason.NO_ERROR),
        (decide(attrs.evolve(CLAIM, is_from_issuer=True)), Reason.ISSUE_REFUSED),  # so a thief cannot fill the file
        (decide(CLAIM, used=USED), Reason.NO_ERROR),
        (decide(CLAIM, OTHER, used=USED), Reason.CLAIM_USED),
        (decide(CLAIM, used=FULL), Reason.LIMIT),
        (decide(CLAIM, used=recorded(orders=MAX_USED_CLAIMS // 2)), Reason.LIMIT),
        (decide(CLAIM, used=recorded(orders=MAX_USED_CLAIMS // 2 - 1)), Reason.NO_ERROR),
        (decide(CLAIM, used=recorded(payroll=MAX_USED_CLAIMS // 2)), Reason.NO_ERROR),
        (decide(CLAIM, used=recorded(payroll=MAX_USED_CLAIMS - 1)), Reason.NO_ERROR),
        (decide(CLAIM, used=recorded(payroll=MAX_USED_CLAIMS)), Reason.LIMIT),
        (decide(CLAIM, used=recorded(payroll=2048, orders=61)), Reason.NO_ERROR),
        (decide(CLAIM, used=recorded(payroll=2048, orders=62)), Reason.LIMIT),
        (decide(CLAIM, now=NOW + DAY), Reason.IDENTITY_EXPIRED),
        (decide(CLAIM, now=NOW + DAY - 1), Reason.NO_ERROR),
        (decide(CLAIM, issuer_ends=NOW + DAY), Reason.ISSUE_REFUSED),
        (decide(CLAIM, now=NOW - 900 * DAY), Reason.NO_ERROR),  # a slow clock
        (decide(APPLICATION), Reason.NO_ERROR),
        (decide(APPLICATION, used=FULL), Reason.NO_ERROR),
        (decide(APPLICATION, renewals=OFTEN), Reason.LIMIT),
        (decide(APPLICATION, renewals=OFTEN[1:]), Reason.NO_ERROR),
        (decide(APPLICATION, renewals=OFTEN, now=NOW + RENEWALS_SECONDS), Reason.NO_ERROR),
        (decide(APPLICATION, renewals=OFTEN, now=NOW - 2 * RENEWALS_SECONDS), Reason.NO_ERROR),
        (decide(APPLICATION, now=NOW + 30 * DAY), Reason.IDENTITY_EXPIRED),
        (decide(APPLICATION, issuer_ends=NOW - 1), Reason.ISSUE_REFUSED),
        (decide(attrs.evolve(APPLICATION, is_from_issuer=False)), Reason.ISSUE_REFUSED),
        (decide(attrs.evolve(CLAIM, role=Role.CONNECTOR)), Reason.IDENTITY_WRONG_ROLE),
    ],
)
def test_a_request_is_decided_as_in_the_table(decision: Decision, reason: Reason) -> None:
    assert decision.reason is reason
    assert (decision.changed is None) or reason is Reason.NO_ERROR


def test_a_claim_is_noted_with_its_key() -> None:
    assert decide(CLAIM).changed == UsedClaims(
        (UsedClaim("orders", "0A", "billing", key_digest(KEY), NOW, NOW + DAY),)
    )
    again = decide(CLAIM, used=USED)
    assert (again.changed, again.earlier) == (None, USED.entries[0])


def test_the_same_serial_of_another_hybrid_connection_is_another_claim() -> None:
    other = attrs.evolve(CLAIM, connection="others")
    assert decide(other, OTHER, used=USED).reason is Reason.NO_ERROR


def test_used_claims_are_forgotten_long_after_their_end() -> None:
    later = attrs.evolve(CLAIM, serial="0C", not_after=NOW + 60 * DAY)
    kept = decide(later, used=USED, now=NOW + DAY + KEPT_SECONDS - 1).changed
    assert kept is not None
    assert len(kept.entries) == 2
    forgotten = decide(later, used=USED, now=NOW + DAY + KEPT_SECONDS).changed
    assert forgotten is not None
    assert [one.serial for one in forgotten.entries] == ["0C"]


def test_a_clock_that_was_wrong_for_a_while_makes_no_claim_usable_again() -> None:
    other = attrs.evolve(CLAIM, serial="0C", not_after=NOW + 60 * DAY)
    wrong = decide(other, used=USED, now=NOW + 20 * DAY).changed
    assert wrong is not None
    assert decide(CLAIM, OTHER, used=wrong, now=NOW).reason is Reason.CLAIM_USED


def test_renewals_note_nothing() -> None:
    assert decide(APPLICATION, used=USED) == Decision(Reason.NO_ERROR)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([KEY, OTHER]), st.floats(0, 2 * DAY)), min_size=1, max_size=40
    )
)
def test_no_claim_ever_gets_two_keys(requests: list[tuple[int, bytes, float]]) -> None:
    used = UsedClaims()
    got: dict[int, set[bytes]] = {}
    for number, key, passed in requests:
        requester = attrs.evolve(CLAIM, serial=f"{number:02X}")
        decision = decide(requester, key, used=used, now=NOW + passed)
        if decision.changed is not None:
            used = decision.changed
        if decision.reason is Reason.NO_ERROR:
            got.setdefault(number, set()).add(key)
            assert used.find("orders", requester.serial) is not None
    assert all(len(keys) == 1 for keys in got.values())
