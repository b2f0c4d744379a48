"""The metrics of a connector or forward, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from hybridrelay._histogram import HistogramSnapshot
from hybridrelay.connectivity.snapshot import CredentialSnapshot, EndpointSnapshot, UnkeptSnapshot
from hybridrelay.monitoring.metrics import MAX_CONNECTIONS, OTHER, endpoint_metrics
from hybridrelay.monitoring.values import Role
from hybridrelay.protocol.control_states import TargetHealth
from hybridrelay.protocol.reasons import Reason

from .snapshots import connection, endpoint, failed, relay

parser = pytest.importorskip("prometheus_client.parser")

LAG = HistogramSnapshot((0.1, 1.0), (3, 2, 1), 12.5)
#: Those of a connector.
NAMES = {
    "hybridrelay_registered",
    "hybridrelay_connection_string_kept",
    "hybridrelay_identity_expiry_timestamp_seconds",
    "hybridrelay_streams",
    "hybridrelay_streams_opened",
    "hybridrelay_target_connect_seconds",
    "hybridrelay_target_healthy",
    "hybridrelay_session_resumes",
    "hybridrelay_session_bytes",
    "hybridrelay_transport",
    "hybridrelay_policy_refusals",
    "hybridrelay_datagrams",
    "hybridrelay_datagrams_dropped",
    "hybridrelay_build_info",
    "hybridrelay_open_files",
    "hybridrelay_loop_lag_seconds",
}


def families(snapshot: EndpointSnapshot, role: Role = "connector", descriptors: int | None = 12) -> Mapping[str, Any]:
    text = endpoint_metrics(snapshot, role=role, version="1.2.3", loop_lag=LAG, descriptors=descriptors)
    return {one.name: one for one in parser.text_string_to_metric_families(text)}


def samples(family: Any) -> dict[tuple[tuple[str, str], ...], float]:
    return {tuple(sorted(one.labels.items())): one.value for one in family.samples}


def test_each_program_has_these_metrics() -> None:
    assert set(families(endpoint())) == NAMES
    of_connector_only = {
        "hybridrelay_target_connect_seconds",
        "hybridrelay_target_healthy",
        "hybridrelay_policy_refusals",
    }
    assert set(families(endpoint(), role="forward")) == NAMES - of_connector_only
    assert set(families(endpoint(), descriptors=None)) == NAMES - {"hybridrelay_open_files"}
    assert all(one.documentation for one in families(endpoint()).values())


def test_the_values_of_metrics_are_those_of_the_snapshot() -> None:
    odd = 'a\\b "c"\n'
    snapshot = endpoint(connection("db", relay("a"), failed("b"), streams=3), connection(odd, failed("a"), streams=0))
    counters = snapshot.counters
    counters.stream_opened("db")
    counters.stream_opened(odd, Reason.TARGET_REFUSED)
    counters.session_resumes["success"] += 2
    counters.policy_refusals["deny-list-label"] += 1
    counters.target_connect.observe(0.03)
    found = families(snapshot)
    assert samples(found["hybridrelay_registered"]) == {
        (("connection", "db"), ("relay", "a")): 1,
        (("connection", "db"), ("relay", "b")): 0,
        (("connection", odd), ("relay", "a")): 0,
    }
    assert samples(found["hybridrelay_streams"]) == {(("connection", "db"),): 3, (("connection", odd),): 0}
    opened = found["hybridrelay_streams_opened"]
    assert opened.type == "counter"
    assert samples(opened) == {
        (("connection", "db"), ("result", "success")): 1,
        (("connection", odd), ("result", "target-refused")): 1,
    }
    held = {"queued": 1, "unread": 2, "unacknowledged": 3, "reserved": 4}
    assert samples(found["hybridrelay_session_bytes"]) == {(("kind", kind),): value for kind, value in held.items()}
    assert samples(found["hybridrelay_transport"]) == {
        (("transport", "tcp"),): 1,
        (("transport", "websocket"),): 0,
    }
    assert samples(found["hybridrelay_session_resumes"]) == {(("result", "success"),): 2}
    assert samples(found["hybridrelay_policy_refusals"]) == {(("rule", "deny-list-label"),): 1}
    assert samples(found["hybridrelay_open_files"]) == {(): 12}
    assert samples(found["hybridrelay_build_info"]) == {(("role", "connector"), ("version", "1.2.3")): 1}
    times = {(one.name, one.labels.get("le")): one.value for one in found["hybridrelay_loop_lag_seconds"].samples}
    assert times["hybridrelay_loop_lag_seconds_bucket", "1.0"] == 5
    assert times["hybridrelay_loop_lag_seconds_sum", None] == 12.5
    connect = {one.labels.get("le"): one.value for one in found["hybridrelay_target_connect_seconds"].samples}
    assert (connect["0.025"], connect["0.05"], connect["+Inf"]) == (0, 1, 1)


def test_the_number_of_series_is_bounded() -> None:
    names = [f"db{number}" for number in range(MAX_CONNECTIONS + 7)]
    snapshot = endpoint(*(connection(name, relay("a"), streams=1) for name in names))
    for name in names:
        snapshot.counters.stream_opened(name)
    found = families(snapshot)
    for family, labels in (
        ("hybridrelay_streams", ()),
        ("hybridrelay_registered", (("relay", "a"),)),
        ("hybridrelay_streams_opened", (("result", "success"),)),
    ):
        values = samples(found[family])
        assert len(values) == MAX_CONNECTIONS + 1
        assert values[("connection", OTHER), *labels] == 7


def test_when_identities_and_issuers_expire() -> None:
    def one(kind: str, expires_at: float) -> CredentialSnapshot:
        return CredentialSnapshot(
            kind=kind, label="a", serial="0A", expires_at=expires_at, is_problem=False, remedy=""
        )

    db = attrs.evolve(connection("db"), credentials=(one("identity", 5.0), one("issuer", 7.0)))
    other = attrs.evolve(connection("other"), credentials=(one("renewable-identity", 9.0),))
    found = families(endpoint(db, other))["hybridrelay_identity_expiry_timestamp_seconds"]
    assert {(one.labels["connection"], one.labels["what"]): one.value for one in found.samples} == {
        ("db", "identity"): 5.0,
        ("db", "issuer"): 7.0,
        ("other", "identity"): 9.0,
    }


def test_what_a_restart_would_lose() -> None:
    unkept = UnkeptSnapshot(parts=("key",), detail="read-only", remedy="")
    found = families(endpoint(connection("db", unkept=unkept), connection("other")))
    values = samples(found["hybridrelay_connection_string_kept"])
    assert {dict(labels)["connection"]: value for labels, value in values.items()} == {"db": 0, "other": 1}


def test_the_health_of_targets() -> None:
    healths = {"up": TargetHealth.HEALTHY, "down": TargetHealth.UNHEALTHY, "new": TargetHealth.UNKNOWN}
    several = [connection(name, target_health=health) for name, health in healths.items()]
    many = [connection(f"c{number}") for number in range(MAX_CONNECTIONS - 3)]
    others = [connection(f"other {name}", target_health=health) for name, health in healths.items()]
    found = samples(families(endpoint(*several, *many, *others))["hybridrelay_target_healthy"])
    assert found == {
        (("connection", "up"),): 1,
        (("connection", "down"),): 0,
        (("connection", OTHER),): 0,
    }, "of those without a label of their own, one is unhealthy"
