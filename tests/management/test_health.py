"""What monitoring sees: metrics in the text format of Prometheus, and whether the relay is alive and ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from hybridrelay.events import ListenerRegistered
from hybridrelay.management.health import readiness
from hybridrelay.relay import CertificateSnapshot, RelaySnapshot
from hybridrelay.relay.counters import MAX_CONNECTIONS, OTHER

from .conftest import Api
from .live import listener

parser = pytest.importorskip("prometheus_client.parser")


async def families(api: Api) -> Mapping[str, Any]:
    answer = await api.client.request("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {one.name: one for one in parser.text_string_to_metric_families(answer.body.decode())}


def value(family: Any, **labels: str) -> float:
    (found,) = (one.value for one in family.samples if one.labels == labels)
    return float(found)


async def test_metrics_escape_odd_names(viewer: Api, api: Api) -> None:
    odd = 'a\\b "c"'
    api.relay.names = ["orders", odd]
    api.relay.held_listeners.append(listener(odd, "9" * 32))
    certificate = CertificateSnapshot("public", "sha256:pin", 5e9)
    api.relay.numbers = RelaySnapshot(certificates=(certificate,), waiting_handshakes=3)
    api.relay.counters(ListenerRegistered(connection=odd, instance="1"))
    found = await families(viewer)
    assert value(found["hybridrelay_listeners"], connection="orders") == 1
    assert value(found["hybridrelay_listeners"], connection=odd) == 1
    assert value(found["hybridrelay_senders"], connection=odd) == 0, "zeros are shown"
    assert value(found["hybridrelay_sessions"], connection="orders") == 1
    moved = found["hybridrelay_relayed_bytes"]
    assert moved.type == "counter"
    assert value(moved, connection="orders", direction="to_client") == 7
    assert value(moved, connection="orders", direction="to_connector") == 5
    assert value(found["hybridrelay_listener_connections"], connection=odd, result="success") == 1
    assert value(found["hybridrelay_places"], kind="pairs") == 1
    assert value(found["hybridrelay_places_limit"], kind="pairs") == 100
    assert value(found["hybridrelay_certificate_expiry_timestamp_seconds"], certificate="public") == 5e9
    assert value(found["hybridrelay_draining"]) == 0
    assert value(found["hybridrelay_waiting_handshakes"]) == 3
    (info,) = found["hybridrelay_build_info"].samples
    assert (info.value, info.labels["role"]) == (1, "relay")
    times = {(one.name, one.labels.get("le")): one.value for one in found["hybridrelay_rendezvous_seconds"].samples}
    assert times == {
        ("hybridrelay_rendezvous_seconds_bucket", "0.1"): 3,
        ("hybridrelay_rendezvous_seconds_bucket", "1.0"): 5,
        ("hybridrelay_rendezvous_seconds_bucket", "+Inf"): 6,
        ("hybridrelay_rendezvous_seconds_sum", None): 12.5,
        ("hybridrelay_rendezvous_seconds_count", None): 6,
    }
    assert all(one.documentation for one in found.values())


async def test_the_number_of_series_is_bounded(api: Api) -> None:
    api.relay.names = [f"db{number}" for number in range(MAX_CONNECTIONS + 7)]
    api.relay.held_listeners = [listener(name, "1" * 32) for name in api.relay.names[-9:]]
    listeners = (await families(api))["hybridrelay_listeners"]
    assert len(listeners.samples) == MAX_CONNECTIONS + 1
    assert value(listeners, connection=OTHER) == 7


async def test_a_relay_that_drains_is_alive_and_not_ready(viewer: Api, api: Api) -> None:
    assert (await viewer.call("GET", "/livez"))[1] == {"alive": True}
    answer, ready = await viewer.call("GET", "/readyz")
    assert (answer.status, ready["ready"]) == (200, True)
    assert {one["remedy"] for one in ready["checks"]} == {None}
    api.relay.drain()
    answer, ready = await viewer.call("GET", "/readyz")
    assert (answer.status, ready["ready"]) == (503, False)
    (failed,) = (one for one in ready["checks"] if not one["ok"])
    assert (failed["name"], failed["remedy"]) == ("accepting", "hybridrelay drain --undo")
    assert (await viewer.call("GET", "/livez"))[0].status == 200


def test_what_has_to_be_so_for_a_relay_to_be_ready() -> None:
    running = RelaySnapshot(is_running=True, certificates=(CertificateSnapshot("public", "pin", 100.0),))
    for snapshot, is_readable, now, expected in (
        (running, True, 99.0, []),
        (running, True, 100.0, ["certificate"]),
        (running, False, 99.0, ["registry"]),
        (attrs.evolve(running, draining_since=1.0), True, 99.0, ["accepting"]),
        (attrs.evolve(running, is_running=False), True, 99.0, ["serving"]),
    ):
        checks = readiness(snapshot, is_readable=is_readable, now=now)
        assert [one.name for one in checks if not one.ok] == expected
        assert all(one.ok == (one.remedy is None) for one in checks)
