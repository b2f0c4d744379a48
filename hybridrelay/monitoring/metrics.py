"""The metrics of a connector or client for Prometheus. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .._histogram import HistogramSnapshot
from ..connectivity.counters import CAUSES
from ..connectivity.snapshot import EndpointSnapshot, RelayState
from ..management.exposition import Sample, counter, gauge, histogram
from ..protocol.control_states import TargetHealth
from .values import Role

__all__ = ["MAX_CONNECTIONS", "OTHER", "endpoint_metrics"]

#: How many hybrid connections have labels of their own. All others are added up as `OTHER`, as at a relay.
MAX_CONNECTIONS = 1000
OTHER = "_other"


def endpoint_metrics(
    snapshot: EndpointSnapshot, *, role: Role, version: str, loop_lag: HistogramSnapshot, descriptors: int | None
) -> str:
    """Return all metrics in the text format of Prometheus.

    Args:
        snapshot: the state of the program.
        role: the role of the program.
        version: the version of the program.
        loop_lag: how late the event loop was.
        descriptors: the number of open descriptors of the process, if it is known.
    """
    labels = {one.name: one.name for one in snapshot.connections[:MAX_CONNECTIONS]}
    parts = [
        *_of_connections(snapshot, labels),
        *(_of_targets(snapshot, labels) if role == "connector" else ()),
        *_of_credentials(snapshot, labels),
        *_of_keeping(snapshot, labels),
        *_of_sessions(snapshot),
        *_of_counters(snapshot, labels, role),
        histogram("hybridrelay_loop_lag_seconds", "How late the event loop was.", *_parts(loop_lag)),
    ]
    if descriptors is not None:
        parts.append(gauge("hybridrelay_open_files", "Open descriptors of the process.", [({}, descriptors)]))
    parts.append(gauge("hybridrelay_build_info", "Always 1.", [({"version": version, "role": role}, 1)]))
    return "".join(parts)


def _parts(one: HistogramSnapshot) -> tuple[tuple[float, ...], tuple[int, ...], float]:
    return one.bounds, one.counts, one.total


def _of_connections(snapshot: EndpointSnapshot, labels: dict[str, str]) -> Iterator[str]:
    registered: Counter[tuple[str, str]] = Counter()
    streams: Counter[str] = Counter()
    for connection in snapshot.connections:
        label = labels.get(connection.name, OTHER)
        streams[label] += connection.streams
        for relay in connection.relays:
            registered[label, relay.host] += relay.state is RelayState.REGISTERED
    yield gauge(
        "hybridrelay_registered",
        "Connector: whether it is registered at the relay. Client: whether it has a control channel there.",
        [({"connection": name, "relay": relay}, value) for (name, relay), value in registered.items()],
    )
    yield gauge(
        "hybridrelay_streams",
        "Streams that have not ended.",
        [({"connection": name}, value) for name, value in streams.items()],
    )


def _of_targets(snapshot: EndpointSnapshot, labels: dict[str, str]) -> Iterator[str]:
    healthy: dict[str, int] = {}
    for connection in snapshot.connections:
        if connection.target_health is not TargetHealth.UNKNOWN:
            label = labels.get(connection.name, OTHER)
            healthy[label] = min(int(connection.target_health is TargetHealth.HEALTHY), healthy.get(label, 1))
    yield gauge(
        "hybridrelay_target_healthy",
        "Whether connecting to the target succeeds. Not present before this is known.",
        [({"connection": name}, value) for name, value in healthy.items()],
    )


def _of_credentials(snapshot: EndpointSnapshot, labels: dict[str, str]) -> Iterator[str]:
    first: dict[tuple[str, str], float] = {}
    for connection in snapshot.connections:
        for one in connection.credentials:
            key = labels.get(connection.name, OTHER), "issuer" if one.kind == "issuer" else "identity"
            first[key] = min(one.expires_at, first.get(key, one.expires_at))
    yield gauge(
        "hybridrelay_identity_expiry_timestamp_seconds",
        "When the identity or the issuer in a connection string expires.",
        [({"connection": name, "what": what}, at) for (name, what), at in first.items()],
    )


def _of_keeping(snapshot: EndpointSnapshot, labels: dict[str, str]) -> Iterator[str]:
    kept: dict[str, int] = {}
    for connection in snapshot.connections:
        label = labels.get(connection.name, OTHER)
        kept[label] = min(int(connection.unkept is None), kept.get(label, 1))
    yield gauge(
        "hybridrelay_connection_string_kept",
        "Whether everything that was received for the connection string (a new key, an update, a renewed identity) "
        "is stored. If not, a restart would lose it.",
        [({"connection": name}, value) for name, value in kept.items()],
    )


def _of_sessions(snapshot: EndpointSnapshot) -> Iterator[str]:
    held: list[Sample] = [
        ({"kind": "queued"}, snapshot.queued),
        ({"kind": "unread"}, snapshot.unread),
        ({"kind": "unacknowledged"}, snapshot.unacknowledged),
        ({"kind": "reserved"}, snapshot.reserved),
    ]
    yield gauge("hybridrelay_session_bytes", "Memory that sessions use, or have reserved for their peers.", held)
    yield gauge(
        "hybridrelay_transport",
        "Whether a channel uses the transport now.",
        [({"transport": name}, int(is_used)) for name, is_used in snapshot.transports.items()],
    )


def _of_counters(snapshot: EndpointSnapshot, labels: dict[str, str], role: Role) -> Iterator[str]:
    counters = snapshot.counters
    opened: Counter[tuple[str, str]] = Counter()
    for (name, result), value in counters.streams_opened.items():
        opened[labels.get(name, OTHER), result] += value
    yield counter(
        "hybridrelay_streams_opened_total",
        "Streams that were requested, by result: success, or the reason why they were not opened.",
        [({"connection": name, "result": result}, value) for (name, result), value in opened.items()],
    )
    yield counter(
        "hybridrelay_session_resumes_total",
        "Sessions that lost their data channel, by result: success if they resumed, otherwise why they did not.",
        [({"result": result}, value) for result, value in counters.session_resumes.items()],
    )
    yield counter(
        "hybridrelay_datagrams_total",
        "Datagrams that were passed on, by direction.",
        [({"direction": one}, counters.datagrams[one]) for one in ("to_target", "to_client")],
    )
    yield counter(
        "hybridrelay_datagrams_dropped_total",
        "Datagrams that this program has dropped, by cause: no room (queue), late (age), too long (size), a full "
        "buffer of a socket (system), or a flow that could not be opened or has failed (refused).",
        [({"cause": one}, counters.datagrams_dropped[one]) for one in CAUSES],
    )
    if role == "connector":
        connecting = counters.target_connect.snapshot()
        yield histogram(
            "hybridrelay_target_connect_seconds", "How long connecting to a target took.", *_parts(connecting)
        )
        yield counter(
            "hybridrelay_policy_refusals_total",
            "Requests that the policy has refused, by the kind of rule that refused them.",
            [({"rule": rule}, value) for rule, value in counters.policy_refusals.items()],
        )
