"""What counts as a problem of a relay."""

from __future__ import annotations

import attrs
import pytest

from hybridrelay.audit.record import SinkProblem
from hybridrelay.errors import ConfigurationError
from hybridrelay.management.condition import (
    LastReload,
    Names,
    management_certificate_problem,
    relay_problems,
    reload_problems,
    sink_problems,
)
from hybridrelay.relay import CertificateSnapshot, PlacesSnapshot, RelaySnapshot
from hybridrelay.relay.snapshot import UnkeptKeySnapshot

DAY = 86400.0
NOW = 20_000 * DAY


def codes(snapshot: RelaySnapshot, unserved: tuple[str, ...] = (), count: int = 0) -> list[str]:
    return [one.code for one in relay_problems(snapshot, Names(list(unserved), count), NOW)]


def test_a_relay_without_problems() -> None:
    assert codes(RelaySnapshot(pairs=PlacesSnapshot(89, 100), control_channels=PlacesSnapshot(0, 100))) == []


@pytest.mark.parametrize(
    ("days", "expected"),
    [(-1, "certificate-expired"), (0, "certificate-expired"), (20, "certificate-expires"), (22, "")],
)
def test_a_certificate_that_expires(days: float, expected: str) -> None:
    certificate = CertificateSnapshot("public", "sha256:pin", NOW + days * DAY)
    assert codes(RelaySnapshot(certificates=(certificate,))) == ([expected] if expected else [])


@pytest.mark.parametrize(("days", "also"), [(30, []), (20, ["certificate-expires"])])
def test_a_certificate_that_is_not_renewed(days: float, also: list[str]) -> None:
    certificate = CertificateSnapshot("public", "sha256:pin", NOW + days * DAY, "permission denied", "chmod it")
    snapshot = RelaySnapshot(certificates=(certificate,))
    assert codes(snapshot) == ["certificate-not-renewed", *also]
    problem = relay_problems(snapshot, Names(), NOW)[0]
    assert "permission denied" in problem.detail
    assert problem.remedy == "chmod it"


def test_what_a_reload_could_not_use() -> None:
    assert reload_problems(LastReload(at=NOW, file="relay.toml")) == ()
    last = LastReload(
        at=NOW,
        file="relay.toml",
        failures=(("relay.toml: line 2: ports: no", "say yes"), ("audit-dir: full", None)),
        needs_restart=("workers", "max-pairs"),
    )
    one, other, restart = relay_problems(RelaySnapshot(), Names(), NOW, others=reload_problems(last))
    assert [one.code, other.code, restart.code] == ["reload-failed", "reload-failed", "restart-needed"]
    assert "2024-10-04 00:00 UTC" in one.detail
    assert one.detail.endswith("stays in use: relay.toml: line 2: ports: no")
    assert one.remedy == "say yes; then reload the relay (SIGHUP)"
    assert other.remedy == "correct it; then reload the relay (SIGHUP)"
    assert "2024-10-04 00:00 UTC" in restart.detail
    assert restart.detail.endswith("only after a restart: workers, max-pairs")


def test_a_sink_of_the_audit_log_that_cannot_be_written() -> None:
    (problem,) = sink_problems([SinkProblem("syslog logs:6514", "connection refused", is_required=False)])
    assert problem.code == "audit-failed"
    assert (
        problem.detail == "the audit log cannot be written to syslog logs:6514: connection refused; its records wait"
    )
    assert problem.remedy


def test_the_certificate_of_the_management_api_is_not_renewed() -> None:
    problem = management_certificate_problem(ConfigurationError("it is empty", remedy="write it"))
    assert (problem.code, problem.remedy) == ("certificate-not-renewed", "write it")
    assert "--management-tls-certificate" in problem.detail
    assert "it is empty" in problem.detail


def test_the_most_important_comes_first() -> None:
    full = PlacesSnapshot(90, 100)
    snapshot = RelaySnapshot(pairs=full, control_channels=full, unauthenticated=full)
    snapshot = attrs.evolve(snapshot, draining_since=NOW)
    assert codes(snapshot, ("a", "b"), 7) == [
        "draining", "pairs", "control-channels", "unauthenticated-slots", "no-listener", "no-listener", "no-listener",
    ]  # fmt: skip
    problems = relay_problems(snapshot, Names(["a", "b"], 7), NOW)
    assert [one.connection for one in problems[-3:]] == ["a", "b", None]
    assert "5 more" in problems[-1].detail
    assert all(one.remedy for one in problems)


def test_no_connector_can_reach_the_target() -> None:
    names = Names()
    for number in range(103):
        names.add(f"orders-{number}")
    found = relay_problems(RelaySnapshot(), Names(["other"], 1), NOW, unhealthy=names)
    assert [one.code for one in found] == ["no-listener", *["target-unhealthy"] * 101]
    assert found[1].connection == "orders-0"
    assert "orders-0" in found[1].detail
    assert found[-1].connection is None
    assert "3 more" in found[-1].detail
    assert all(one.remedy for one in found)


def test_a_key_that_programs_have_only_in_memory() -> None:
    snapshot = RelaySnapshot(
        unkept_keys=(UnkeptKeySnapshot("db", "sender", 1), UnkeptKeySnapshot("other", "sender", 2, ended_at=NOW))
    )
    one, other = relay_problems(snapshot, Names(), NOW)
    assert (one.code, one.connection) == ("key-not-kept", "db")
    assert one.detail.startswith("1 program that is connected has the new key of rule sender of db only in memory")
    assert one.detail.endswith("the old key is revoked at the end of the roll")
    assert other.detail.startswith("2 programs that are connected have")
    assert "the old key was revoked at" in other.detail
    assert "hybridrelay keys list other" in other.remedy
