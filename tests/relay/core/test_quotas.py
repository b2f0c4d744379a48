"""Quotas: what they admit, and which events they cause."""

from __future__ import annotations

import re
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import RendezvousError
from hybridrelay.events import Event, QuotaNear, QuotaReached, RelayQuotaNear, RelayQuotaReached
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.known import KnownConnections
from hybridrelay.relay.core.quotas import REPEAT_SECONDS, TRANSITIONS, Level, QuotaKind, Quotas, Use, classify
from hybridrelay.relay.model import HybridConnection, StoreChange
from hybridrelay.relay.quotas import NO_QUOTA, Edition, Editions, Limits, Quota

LATER = 2 * REPEAT_SECONDS


def connection(name: str = "db", limits: Limits | None = None, edition: str = "") -> HybridConnection:
    quota = NO_QUOTA if limits is None and not edition else Quota(edition, limits or Limits())
    return HybridConnection(name, ("relay",), (), 1.0, {}, quota=quota)


def quotas(limits: Limits | None = None, *, edition: str = "", editions: Editions | None = None) -> Quotas:
    return Quotas(KnownConnections({"db": connection("db", limits, edition)}), editions or Editions())


def change(made: Quotas, new: dict[str, HybridConnection], editions: Editions, now: float) -> None:
    """There are these hybrid connections and editions from now on."""
    change = StoreChange.between(made._connections, new)
    made._connections.apply(change)
    made.update((*change.changed, *change.deleted), editions, now)


def count_bytes(made: Quotas, by_connection: dict[str, int], total: int, now: float) -> None:
    made.count_bytes(by_connection, total, now)
    for name in made.limited:
        made.note_bytes(name, now)


def refused(kind: QuotaKind, used: int, made: Quotas, *, for_session: bool = False) -> Reason | None:
    try:
        if kind is QuotaKind.SENDERS:
            made.check_sender("db", used, 0.0, for_session=for_session)
        else:
            made.check_session("db", used, 0.0, for_session=for_session)
    except RendezvousError as exc:
        return exc.reason
    return None


@pytest.mark.parametrize(
    ("used", "limit", "use"),
    [
        (0, 1, Use.LITTLE), (1, 1, Use.ALL), (9, 1, Use.ALL), (69, 100, Use.LITTLE), (70, 100, None), (79, 100, None),
        (80, 100, Use.MUCH), (99, 100, Use.MUCH), (100, 100, Use.ALL), (2**60, 2**53 - 1, Use.ALL),
    ],
)  # fmt: skip
def test_how_much_is_used(used: int, limit: int, use: Use | None) -> None:
    assert classify(used, limit) is use


def test_a_quota_changes_its_level_with_its_use() -> None:
    for level in Level:
        assert TRANSITIONS.get((level, Use.ALL), level) is Level.REACHED
        assert TRANSITIONS.get((level, Use.LITTLE), level) is Level.FREE
    assert TRANSITIONS[Level.FREE, Use.MUCH] is Level.NEAR
    assert (Level.REACHED, Use.MUCH) not in TRANSITIONS, "it would be reached again with the next one"


@pytest.mark.parametrize("kind", [QuotaKind.SENDERS, QuotaKind.SESSIONS])
def test_without_a_limit_everything_is_admitted(kind: QuotaKind) -> None:
    for made in (quotas(), quotas(Limits(listeners=1)), Quotas(KnownConnections())):
        assert refused(kind, 10**9, made) is None
        made.note("db", kind, 10**9, 0.0)
        assert made.take() == []


@pytest.mark.parametrize(
    ("kind", "limits", "reason"),
    [
        (QuotaKind.SENDERS, Limits(senders=3), Reason.SENDER_QUOTA),
        (QuotaKind.SESSIONS, Limits(sessions=3), Reason.SESSION_QUOTA),
    ],
)
def test_a_count_that_is_reached_refuses_what_is_new(kind: QuotaKind, limits: Limits, reason: Reason) -> None:
    made = quotas(limits)
    assert [refused(kind, used, made) for used in (0, 2, 3, 4)] == [None, None, reason, reason]
    present = [refused(kind, used, made, for_session=True) for used in (3, 5, 6)]
    assert present == [None, None, reason], "what a running session needs has room, which is limited, too"


def test_the_limits_of_the_edition_are_used_where_none_is_set() -> None:
    editions = Editions([Edition(name="small", limits=Limits(senders=1, sessions=5))])
    made = quotas(Limits(sessions=7), edition="small", editions=editions)
    assert refused(QuotaKind.SENDERS, 1, made) is Reason.SENDER_QUOTA
    assert refused(QuotaKind.SESSIONS, 5, made) is None
    assert refused(QuotaKind.SESSIONS, 7, made) is Reason.SESSION_QUOTA
    assert editions.limits(Quota("small")).listeners == 25, "that has a default"
    change(made, {"db": connection()}, editions, 0.0)
    assert refused(QuotaKind.SENDERS, 99, made) is None


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("whose", ["connection", "relay"])
def test_bytes_that_are_used_up(whose: str, ends: bool) -> None:
    limits = Limits(bytes_per_month=100, end_at_limit=ends)
    if whose == "connection":
        made = quotas(limits)
    else:
        made = quotas(editions=Editions([Edition(name="small", limits=limits)], "small"))
    count_bytes(made, {"db": 99}, 99, 0.0)
    assert refused(QuotaKind.SESSIONS, 0, made) is None
    assert not made.is_overdrawn("db")
    count_bytes(made, {"db": 50 if whose == "relay" else 100}, 100, LATER)
    assert refused(QuotaKind.SESSIONS, 0, made) is Reason.TRANSFER_QUOTA
    assert refused(QuotaKind.SENDERS, 0, made) is None, "only sessions move bytes"
    assert (refused(QuotaKind.SESSIONS, 0, made, for_session=True) is None) is not ends
    assert made.is_overdrawn("db") is ends
    kinds: list[type[Event]] = (
        [QuotaNear, QuotaReached] if whose == "connection" else [RelayQuotaNear, RelayQuotaReached]
    )
    assert [type(one) for one in made.take()] == kinds
    count_bytes(made, {}, 0, 2 * LATER)
    assert refused(QuotaKind.SESSIONS, 0, made) is None, "the next period has begun"


def test_a_refusal_because_of_the_whole_relay_says_nothing_about_others() -> None:
    made = quotas(editions=Editions([Edition(name="small", limits=Limits(bytes_per_month=100))], "small"))
    count_bytes(made, {"other": 12345}, 12345, 0.0)
    with pytest.raises(RendezvousError, match="edition of the relay") as caught:
        made.check_session("db", 0, 0.0, for_session=False)
    assert caught.value.reason is Reason.TRANSFER_QUOTA
    assert not re.search("[0-9]", str(caught.value))


@pytest.mark.parametrize("kind", [QuotaKind.SENDERS, QuotaKind.SESSIONS])
def test_a_refusal_shows_at_once_that_the_quota_is_used_up(kind: QuotaKind) -> None:
    made = quotas(Limits(senders=2, sessions=2))
    assert refused(kind, 1, made) is None
    assert list(made.most_used()) == []
    assert refused(kind, 2, made) is not None
    assert list(made.most_used()) == [("db", kind, 2, 2)]
    assert [type(one) for one in made.take()] == [QuotaReached]


def test_each_event_once_and_again_after_it_was_little() -> None:
    made = quotas(Limits(sessions=10))

    def note(used: int, now: float) -> list[type[Event]]:
        made.note("db", QuotaKind.SESSIONS, used, now)
        return [type(one) for one in made.take()]

    assert note(7, 0.0) == []
    assert note(8, 1.0) == [QuotaNear]
    assert note(9, 2.0) == note(7, 3.0) == note(8, 4.0) == []
    assert note(10, 5.0) == [QuotaReached]
    assert note(9, 6.0) == note(10, 7.0) == []
    assert note(0, 8.0) == []
    assert note(10, 9.0) == [], "it changes all the time"
    assert note(0, LATER) == []
    assert note(10, LATER) == [QuotaReached]
    made.note("db", QuotaKind.SESSIONS, 0, LATER)
    change(made, {"db": connection(limits=Limits(sessions=20))}, Editions(), LATER)
    made.note("db", QuotaKind.SESSIONS, 20, LATER)
    (event,) = made.take()
    assert event == QuotaReached(connection="db", quota="sessions", used=20, limit=20), "another limit is news"


def test_the_number_of_hybrid_connections() -> None:
    editions = Editions([Edition(name="small", connections=5)], "small")
    made = Quotas(KnownConnections({str(number): connection(str(number)) for number in range(4)}), editions)
    count_bytes(made, {}, 0, 0.0)
    assert made.take() == [RelayQuotaNear(quota="hybrid connections", used=4, limit=5)]
    assert list(made.most_used()) == [(None, QuotaKind.CONNECTIONS, 4, 5)]
    change(made, {}, editions, 1.0)
    count_bytes(made, {}, 0, 1.0)
    assert list(made.most_used()) == []


def test_what_was_deleted_is_forgotten() -> None:
    made = quotas(Limits(sessions=1))
    made.note("db", QuotaKind.SESSIONS, 1, 0.0)
    change(made, {}, Editions(), LATER)
    assert made.limited == ()
    change(made, {"db": connection(limits=Limits(sessions=1))}, Editions(), LATER)
    made.take()
    made.note("db", QuotaKind.SESSIONS, 1, LATER)
    assert [type(one) for one in made.take()] == [QuotaReached]


@given(st.integers(1, 2**53 - 1), st.lists(st.integers(0, 2**54), max_size=30))
def test_the_level_says_what_is_admitted(limit: int, uses: list[int]) -> None:
    made = quotas(Limits(bytes_per_month=limit))
    for number, used in enumerate(uses):
        count_bytes(made, {"db": used}, used, number * LATER)
        events = made.take()
        assert (refused(QuotaKind.SESSIONS, 0, made) is Reason.TRANSFER_QUOTA) == (used >= limit)
        assert all(
            attrs.asdict(one) == {"connection": "db", "quota": "bytes", "used": used, "limit": limit}
            for one in events
        )
        assert len(events) <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"listeners": 0}, {"listeners": 1001}, {"senders": 0}, {"sessions": 10**6 + 1}, {"bytes_per_month": 0},
        {"bytes_per_month": 2**53}, {"bytes_per_second": 65535},
    ],
)  # fmt: skip
def test_limits_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Limits(**wrong)


@pytest.mark.parametrize(
    ("kind", "limits", "raised"),
    [
        (QuotaKind.BYTES, Limits(bytes_per_month=100), Limits(bytes_per_month=130)),
        (QuotaKind.SESSIONS, Limits(sessions=100), Limits(sessions=130)),
        (QuotaKind.SENDERS, Limits(senders=100), Limits(senders=130)),
        (QuotaKind.LISTENERS, Limits(listeners=100), Limits(listeners=130)),
    ],
)
def test_a_limit_that_is_removed_is_nearly_used_no_longer(kind: QuotaKind, limits: Limits, raised: Limits) -> None:
    made = quotas(limits)
    made.note("db", kind, 120, 0.0)
    assert list(made.most_used()) == [("db", kind, 120, 100)]
    change(made, {"db": connection(limits=raised)}, Editions(), 1.0)
    assert list(made.most_used()) == [("db", kind, 120, 130)], "four fifths are used all the same"
    for unlimited in ({"db": connection()}, {}):
        made = quotas(limits)
        made.note("db", kind, 120, 0.0)
        change(made, unlimited, Editions(), 1.0)
        assert list(made.most_used()) == []


def test_the_limits_of_an_edition_that_the_relay_no_longer_uses_are_nearly_used_no_longer() -> None:
    editions = Editions([Edition(name="small", connections=1, limits=Limits(bytes_per_month=100))], in_use="small")
    made = quotas(editions=editions)
    count_bytes(made, {"db": 120}, 120, 0.0)
    assert {kind for _, kind, _, _ in made.most_used()} == {QuotaKind.BYTES, QuotaKind.CONNECTIONS}
    change(made, {"db": connection()}, Editions(), 1.0)
    assert list(made.most_used()) == []
