"""What is wrong with a connector or forward, and whether it is ready."""

from __future__ import annotations

import attrs
import pytest

from hybridrelay.audit.record import SinkProblem
from hybridrelay.connectivity.snapshot import (
    CredentialSnapshot,
    EndpointSnapshot,
    RelaySnapshot,
    SessionState,
    TargetCheck,
    UnappliedSnapshot,
    UnkeptSnapshot,
    UpdateStatus,
)
from hybridrelay.monitoring.problems import MAX_PROBLEMS, endpoint_problems
from hybridrelay.monitoring.readiness import endpoint_checks
from hybridrelay.monitoring.values import Role

from .snapshots import DOWN, connection, endpoint, failed, relay, session

LISTENING = ("127.0.0.1:5432",)
FINE = connection("db", listening=LISTENING, is_connected=True)
BROKEN = connection("db", failed(), listening=LISTENING, failure=DOWN)
NOT_WRITTEN = SinkProblem("/var/audit", "No space left on device", is_required=True)
REACHED = TargetCheck("db", "db.internal:5432")
NOT_REACHED = TargetCheck("db", "db.internal:5432", "target-refused", "connection refused", "start the database")


@pytest.mark.parametrize(
    ("role", "snapshot", "stopping", "expected"),
    [
        ("connector", endpoint(), False, []),
        ("connector", endpoint(), True, ["stopping"]),
        ("connector", endpoint(connection("db", failed())), False, ["not-registered"]),
        ("connector", endpoint(connection("db", failed())), True, ["stopping"]),
        ("connector", endpoint(connection("db", relay("a"), failed("b"))), False, ["relay-failed"]),
        ("connector", endpoint(connection("a", relay("x"), failed("y")), connection("b", failed("x"))), False,
         ["not-registered", "relay-failed"]),
        ("connector", endpoint(connection("db", target="db:1", target_failure=DOWN)), False, ["target-unhealthy"]),
        ("connector", endpoint(sessions=(session(state=SessionState.RESUMING),)), False, ["session-resuming"]),
        ("connector", endpoint(audit=(NOT_WRITTEN,)), False, ["audit-failed"]),
        ("forward", endpoint(FINE), False, []),
        ("forward", endpoint(BROKEN), False, ["no-session"]),
        ("forward", endpoint(connection("db", listening=(), is_connected=True)), False, ["not-listening"]),
        ("forward", endpoint(connection("db", listening=(), is_connected=True)), True, ["stopping"]),
        ("client", endpoint(connection("db")), False, []),
        ("client", endpoint(connection("db", failure=DOWN)), False, ["no-session"]),
    ],
)  # fmt: skip
def test_each_problem_has_a_code_and_a_remedy(
    role: Role, snapshot: EndpointSnapshot, stopping: bool, expected: list[str]
) -> None:
    found = endpoint_problems(snapshot, role=role, stopping=stopping)
    assert [one.code for one in found] == expected
    assert all(one.detail and one.remedy for one in found)


def test_a_problem_says_why_and_what_to_do() -> None:
    (found,) = endpoint_problems(
        endpoint(connection("db", failed("a"), failed("b"))), role="connector", stopping=False
    )
    assert found.detail == "db is not registered at any relay: a: connection refused; b: connection refused"
    assert found.remedy == "check that the relay runs"
    (found,) = endpoint_problems(endpoint(connection("db", failed("a", None))), role="connector", stopping=False)
    assert "no relay has answered yet" in found.detail
    (found,) = endpoint_problems(endpoint(BROKEN), role="forward", stopping=False)
    assert found.detail == "db has no session for new connections: connection refused"


@pytest.mark.parametrize(
    ("relays", "says"),
    [((failed("a"),), "not registered at any relay"), ((relay("a"),), "its streams or datagrams are refused")],
)
def test_what_the_policy_denies_is_named_with_its_rule(relays: tuple[RelaySnapshot, ...], says: str) -> None:
    rule = 'DeniedTargets "*:22" (/etc/hybridrelay/policy.d/10.toml:3) denies db:22'
    snapshot = endpoint(connection("db", *relays, denial=rule))
    (found,) = endpoint_problems(snapshot, role="connector", stopping=False)
    assert (found.code, found.connection) == ("denied-by-policy", "db")
    assert rule in found.detail
    assert says in found.detail
    assert "hybridrelay policy show" in found.remedy


def test_a_denial_with_a_remedy_of_its_own() -> None:
    snapshot = endpoint(connection("dns", relay("a"), denial="AllowUdp is not set", denial_remedy="set AllowUdp"))
    (found,) = endpoint_problems(snapshot, role="connector", stopping=False)
    assert found.remedy == "set AllowUdp; no restart is needed"


def test_an_update_that_is_not_used() -> None:
    waiting = UpdateStatus(sequence=7, state="waiting", detail="none of its relays can be used")
    (found,) = endpoint_problems(
        endpoint(connection("db", relay("a"), update=waiting)), role="connector", stopping=False
    )
    assert (found.code, found.connection) == ("update-not-used", "db")
    assert found.detail == "update 7 of db is not used: none of its relays can be used"
    used = UpdateStatus(sequence=7, state="used")
    assert not endpoint_problems(
        endpoint(connection("db", relay("a"), update=used)), role="connector", stopping=False
    )


def test_there_is_a_limit() -> None:
    many = [connection(f"db{number}", failed()) for number in range(500)]
    resuming = tuple(session(number, state=SessionState.RESUMING) for number in range(500))
    for snapshot in (endpoint(*many, sessions=resuming), endpoint(sessions=resuming)):
        assert len(endpoint_problems(snapshot, role="connector", stopping=False)) == MAX_PROBLEMS


@pytest.mark.parametrize(
    ("role", "snapshot", "targets", "stopping", "expected"),
    [
        ("connector", endpoint(), (), False, []),
        ("connector", endpoint(connection("db", relay("a"), failed("b"))), (), False, []),
        ("connector", endpoint(connection("db", failed())), (), False, ["registered"]),
        ("connector", endpoint(), (REACHED,), False, []),
        ("connector", endpoint(), (NOT_REACHED,), False, ["target"]),
        ("connector", endpoint(), (), True, ["accepting"]),
        ("forward", endpoint(FINE), (), False, []),
        ("forward", endpoint(BROKEN), (), False, ["session"]),
        ("forward", endpoint(connection("db", is_connected=True)), (), False, ["listening"]),
        ("forward", endpoint(FINE), (), True, ["accepting"]),
        ("client", endpoint(connection("db")), (), False, []),
        ("client", endpoint(connection("db", failure=DOWN)), (), False, ["session"]),
    ],
)
def test_a_program_is_ready_unless_a_check_fails(
    role: Role,
    snapshot: EndpointSnapshot,
    targets: tuple[TargetCheck, ...],
    stopping: bool,
    expected: list[str],
) -> None:
    checks = endpoint_checks(snapshot, targets, role=role, stopping=stopping)
    assert [one.name for one in checks if not one.ok] == expected
    for one in checks:
        assert (one.detail is None) == (one.remedy is None) == one.ok
        assert (one.connection is None) == (one.name == "accepting")


def test_a_check_that_fails_says_why() -> None:
    checks = endpoint_checks(endpoint(connection("db", failed())), (NOT_REACHED,), role="connector", stopping=False)
    registered, target = (one for one in checks if not one.ok)
    assert (registered.connection, registered.detail) == ("db", "a.example: connection refused")
    assert registered.remedy == "check that the relay runs"
    assert target.detail == "the target db.internal:5432 cannot be reached: connection refused"
    assert target.remedy == "start the database"


def test_a_connector_without_a_required_sink_is_not_ready() -> None:
    checks = endpoint_checks(endpoint(audit=(NOT_WRITTEN,)), (), role="connector", stopping=False)
    (failed_check,) = [one for one in checks if not one.ok]
    assert (failed_check.name, "No space left" in (failed_check.detail or "")) == ("audit", True)

    optional = attrs.evolve(NOT_WRITTEN, is_required=False)
    assert all(one.ok for one in endpoint_checks(endpoint(audit=(optional,)), (), role="connector", stopping=False))


def test_what_expires_is_a_problem_with_its_end_and_what_to_do() -> None:
    expiring = CredentialSnapshot(
        kind="renewable-identity", label="billing", serial="0A", expires_at=1_800_000_000.0, is_problem=True,
        remedy="start a connector", failure=DOWN,
    )  # fmt: skip
    fine = attrs.evolve(expiring, is_problem=False)
    (found,) = endpoint_problems(
        endpoint(attrs.evolve(FINE, credentials=(expiring, fine))), role="forward", stopping=False
    )
    assert found.code == "identity-expires"
    assert found.detail == (
        "the identity billing (0A) in the connection string of db is valid until 2027-01-15 08:00 UTC, and could not "
        "be renewed: connection refused"
    )
    assert found.remedy == "start a connector"
    issuer = attrs.evolve(expiring, kind="issuer", label="", failure=None)
    (found,) = endpoint_problems(endpoint(attrs.evolve(FINE, credentials=(issuer,))), role="forward", stopping=False)
    assert found.detail.startswith("the issuer (0A) in the connection string of db is valid until")


def test_what_a_restart_would_lose_is_a_problem() -> None:
    unkept = UnkeptSnapshot(parts=("key", "update"), detail="the file is read-only", remedy="write it")
    (found,) = endpoint_problems(endpoint(attrs.evolve(FINE, unkept=unkept)), role="forward", stopping=False)
    assert (found.code, found.connection, found.remedy) == ("string-not-kept", "db", "write it")
    assert found.detail == (
        "a restart would lose what was received for the connection string of db: its new key and its last update. It "
        "is only in memory: the file is read-only"
    )


def test_what_is_in_files_and_not_in_use() -> None:
    failed = UnappliedSnapshot(code="reload-failed", detail="it is damaged", remedy="correct it")
    (found,) = endpoint_problems(endpoint(FINE, unapplied=(failed,)), role="connector", stopping=False)
    assert (found.code, found.detail, found.remedy) == ("reload-failed", "it is damaged", "correct it")
