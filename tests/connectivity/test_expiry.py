"""What will end soon is said once for each threshold."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.connectivity.expiry import (
    Credential,
    CredentialKind,
    ExpiryNotices,
    credentials_of,
    watch_expiry,
)
from hybridrelay.connectivity.snapshot import FailureSnapshot
from hybridrelay.events import Event, EventStream, IdentityExpiresSoon
from hybridrelay.security import (
    ConnectionString,
    Endpoint,
    HostPort,
    Identity,
    Role,
    Secret,
    authority_for_connectors,
    certify_claim,
    create_authority,
    create_issuer,
    new_private_key,
)

DAY = 86_400.0
NOW = 1_800_000_000.0
PLAIN = Credential("orders", CredentialKind.IDENTITY, "billing", "0A", NOW)
RENEWABLE = attrs.evolve(PLAIN, kind=CredentialKind.RENEWABLE)
ISSUER = attrs.evolve(PLAIN, kind=CredentialKind.ISSUER, label="")


@pytest.mark.parametrize(
    ("one", "days_before", "threshold"),
    [
        (PLAIN, 60.01, None), (PLAIN, 60, 60), (PLAIN, 30.1, 60), (PLAIN, 30, 30), (PLAIN, 8, 14), (PLAIN, 0.5, 1),
        (PLAIN, 0, 0), (PLAIN, -9, 0), (RENEWABLE, 30, None), (RENEWABLE, 21, 21), (RENEWABLE, 2, 3),
        (ISSUER, 61, None), (ISSUER, 59, 60), (ISSUER, -1, 0),
    ],
)  # fmt: skip
def test_a_credential_is_a_problem_from_its_first_threshold_on(
    one: Credential, days_before: float, threshold: int | None
) -> None:
    assert one.threshold(NOW - days_before * DAY) == threshold
    assert one.snapshot(NOW - days_before * DAY).is_problem is (threshold is not None)


def test_each_threshold_is_said_once() -> None:
    notices = ExpiryNotices()
    said = [
        (hour, event.days) for hour in range(70 * 24) for event in notices.due([PLAIN], NOW - 65 * DAY + hour * 3600)
    ]
    assert [days for _, days in said] == [60, 30, 14, 7, 3, 1, 0]
    assert all(isinstance(hour, int) for hour, _ in said)


def test_a_clock_that_goes_back_says_nothing_again() -> None:
    notices = ExpiryNotices()
    assert len(notices.due([PLAIN], NOW - 2 * DAY)) == 1
    for earlier in (40 * DAY, 1000 * DAY, NOW):  # at 1970, no threshold has been reached
        assert notices.due([PLAIN], NOW - earlier) == []
    assert notices.due([PLAIN], NOW - 2 * DAY) == []
    assert len(notices.due([PLAIN], NOW - DAY)) == 1


def test_one_that_was_replaced_is_said_anew() -> None:
    notices = ExpiryNotices()
    assert len(notices.due([PLAIN, ISSUER], NOW - DAY)) == 2
    other = attrs.evolve(PLAIN, serial="0B")
    (event,) = notices.due([other, ISSUER], NOW - DAY)
    assert (event.serial, event.what, event.label, event.days) == ("0B", "identity", "billing", 1)
    assert "connections issue" in event.remedy


def test_what_expires_in_connection_strings() -> None:
    authority = create_authority("orders", now=NOW)
    issuer = create_issuer(authority, now=NOW)
    plain = ConnectionString(
        endpoints=(Endpoint("relay.example.com"),), key_name="a", key=Secret("k"), entity_path="orders"
    )
    assert credentials_of(plain) == ()
    identity = authority.issue(Role.APPLICATION, "billing", now=NOW)
    (one,) = credentials_of(attrs.evolve(plain, identity=identity, authority=authority.certificate))
    assert one == Credential(
        "orders", CredentialKind.IDENTITY, "billing", identity.serial, identity.details.not_after
    )
    renewable = attrs.evolve(identity, issuer=issuer.certificate)
    (one,) = credentials_of(attrs.evolve(plain, identity=renewable, authority=authority.certificate))
    assert one.kind is CredentialKind.RENEWABLE
    connector = attrs.evolve(
        plain, target=HostPort("db", 1), identity=authority.issue(Role.CONNECTOR, "hq", now=NOW), issuer=issuer,
        authority=authority_for_connectors(authority),
    )  # fmt: skip
    assert [one.kind for one in credentials_of(connector)] == [CredentialKind.IDENTITY, CredentialKind.ISSUER]
    key = new_private_key()
    claim = Identity(certify_claim(authority, "a", key, now=NOW, expires_at=NOW + 60), key)
    assert credentials_of(attrs.evolve(plain, identity=claim, authority=authority.certificate)) == ()


async def test_a_running_program_says_it(autojump_clock: trio.testing.MockClock) -> None:
    events: list[Event] = []
    with trio.move_on_after(70 * DAY):
        await watch_expiry(
            lambda: [PLAIN],
            ExpiryNotices(),
            EventStream(events.append),
            lambda: NOW - 65 * DAY + trio.current_time(),
        )
    assert len(events) == 7
    assert all(isinstance(event, IdentityExpiresSoon) for event in events)


def test_why_it_was_not_renewed_comes_first() -> None:
    failure = FailureSnapshot(reason="no-listener", detail="no connector is listening", remedy="start one")
    shown = RENEWABLE.snapshot(NOW - 29 * DAY, failure)
    assert (shown.is_problem, shown.remedy, shown.failure) == (True, "start one", failure)
