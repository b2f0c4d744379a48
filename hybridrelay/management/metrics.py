"""The metrics of a relay for Prometheus, computed for each request from its counters and its current state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import trio

from .._histogram import HistogramSnapshot
from .._statistics import open_descriptors
from .._threads import run_in_thread
from .._version import __version__
from ..relay import LiveRelay
from ..relay.claims import OpenClaim
from ..relay.snapshot import ConnectionSnapshot, PlacesSnapshot, RelaySnapshot
from ..relay.usage import TOTAL
from .exposition import Sample, counter, gauge, histogram

__all__ = ["relay_metrics"]

#: How many hybrid connections are read before other tasks may run: about half a millisecond.
_AT_A_TIME = 100


async def relay_metrics(relay: LiveRelay, claims: Sequence[OpenClaim]) -> str:
    """Return all metrics in the text format. Other tasks run in the meantime, so the numbers may have been taken at
    different times.

    Args:
        relay: the relay.
        claims: the open claims.
    """
    descriptors = await run_in_thread(open_descriptors)
    by_label = await _by_label(relay)
    parts = []
    for part in (
        *_of_connections(by_label),
        *_of_claims(relay, claims),
        *_of_counters(relay),
        *_of_relay(relay.snapshot(), descriptors),
    ):
        parts.append(part)
        await trio.lowlevel.checkpoint()
    rendezvous = "The time from the offer to a listener until both data channels were open."
    parts += [
        _histogram("hybridrelay_rendezvous_seconds", rendezvous, relay.rendezvous_times()),
        *_of_usage(relay),
        _histogram("hybridrelay_loop_lag_seconds", "How late the event loop was.", relay.loop_lag()),
    ]
    return "".join(parts)


async def _by_label(relay: LiveRelay) -> Mapping[str, ConnectionSnapshot]:
    """Return the numbers of each hybrid connection, by label. Those without a label of their own are added up."""
    found: dict[str, ConnectionSnapshot] = {}
    for number, name in enumerate(relay.connection_names()):
        if number % _AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
        label, one = relay.counters.label(name), relay.connection(name)
        found[label] = one if label not in found else found[label] + one
    return found


def _of_connections(found: Mapping[str, ConnectionSnapshot]) -> Iterator[str]:
    labels = {name: {"connection": name} for name in found}
    yield gauge(
        "hybridrelay_listeners",
        "Connectors that are registered.",
        ((labels[name], one.listeners) for name, one in found.items()),
    )
    yield gauge(
        "hybridrelay_listeners_unhealthy",
        "Connectors that report that their target is unhealthy.",
        ((labels[name], one.unhealthy_listeners) for name, one in found.items()),
    )
    yield gauge(
        "hybridrelay_senders",
        "Control channels of clients that may join.",
        ((labels[name], one.senders) for name, one in found.items()),
    )
    yield gauge(
        "hybridrelay_sessions",
        "Pairs of data channels that are joined.",
        ((labels[name], one.sessions) for name, one in found.items()),
    )

    def moved() -> Iterator[Sample]:
        for name, one in found.items():
            yield {"connection": name, "direction": "to_client"}, one.bytes_to_client
            yield {"connection": name, "direction": "to_connector"}, one.bytes_to_connector

    yield counter("hybridrelay_relayed_bytes_total", "Bytes that were passed on, counted while they flow.", moved())


def _of_claims(relay: LiveRelay, claims: Sequence[OpenClaim]) -> Iterator[str]:
    count: Counter[str] = Counter()
    first: dict[str, float] = {}
    for claim in claims:
        label = relay.counters.label(claim.connection)
        count[label] += 1
        first[label] = min(claim.expires_at, first.get(label, claim.expires_at))
    yield gauge(
        "hybridrelay_open_claims",
        "Claims that were not taken yet.",
        [({"connection": label}, value) for label, value in count.items()],
    )
    yield gauge(
        "hybridrelay_claim_expiry_timestamp_seconds",
        "When the first of the claims that were not taken yet expires.",
        [({"connection": label}, at) for label, at in first.items()],
    )


def _of_usage(relay: LiveRelay) -> Iterator[str]:
    """Yield the usage of the current month, the quotas that are nearly used up, how many programs have a new key only
    in memory, and when keys were last used."""
    usage, quotas = relay.usage(TOTAL), relay.snapshot().quotas
    directions = (("to_client", usage.to_client), ("to_connector", usage.to_connector))
    yield gauge(
        "hybridrelay_period_bytes",
        "Bytes that were passed on in this calendar month (UTC).",
        [({"direction": direction}, value) for direction, value in directions],
    )
    yield gauge(
        "hybridrelay_quota_used_ratio",
        "The used part of a quota, if at least four fifths are used. For a quota of the relay, connection is empty.",
        [({"connection": one.connection or "", "quota": one.kind}, one.used / one.limit) for one in quotas],
    )
    counters = relay.counters
    unkept = [
        ({"connection": one.connection, "rule": one.rule}, one.programs)
        for one in relay.snapshot().unkept_keys
        if counters.label(one.connection) == one.connection
    ]
    yield gauge(
        "hybridrelay_programs_without_stored_key",
        "Connected programs that have the new key of a rule only in memory: they would fail after a restart.",
        unkept,
    )
    uses = [
        ({"connection": key.connection, "rule": key.rule, "slot": key.slot.value}, at)
        for key, at in relay.key_uses().items()
        if counters.label(key.connection) == key.connection
    ]
    yield gauge("hybridrelay_key_last_used_timestamp_seconds", "When a token of this key was last accepted.", uses)


def _of_counters(relay: LiveRelay) -> Iterator[str]:
    counters = relay.counters
    for name, text, counted, second in (
        ("listener_connections", "Attempts to register, by result.", counters.listener_connections, "result"),
        ("sender_connections", "Attempts to join, by result.", counters.sender_connections, "result"),
        ("listener_disconnects", "Registrations that ended, by reason.", counters.listener_disconnects, "reason"),
        ("sender_disconnects", "Pairs that ended, by reason.", counters.sender_disconnects, "reason"),
    ):
        samples = [({"connection": first, second: other}, value) for (first, other), value in counted.items()]
        yield counter(f"hybridrelay_{name}_total", text, samples)
    yield counter(
        "hybridrelay_rendezvous_total",
        "Rendezvous, by result: joined, or why no pair was joined.",
        _labelled("result", counters.rendezvous),
    )
    yield counter(
        "hybridrelay_listeners_chosen_total",
        "Choices among several listeners, by the reason for which one was chosen.",
        _labelled("reason", counters.chosen),
    )
    yield counter(
        "hybridrelay_places_displaced_total",
        "Control channels and pairs that were closed because others needed their places.",
        _labelled("kind", counters.displaced),
    )


def _labelled(label: str, counted: Counter[str]) -> list[Sample]:
    return [({label: key}, value) for key, value in counted.items()]


def _of_relay(snapshot: RelaySnapshot, descriptors: int | None) -> Iterator[str]:
    kinds: Mapping[str, PlacesSnapshot] = {
        "unauthenticated": snapshot.unauthenticated,
        "control_channels": snapshot.control_channels,
        "pairs": snapshot.pairs,
    }
    yield gauge(
        "hybridrelay_places",
        "How many places are taken (for unauthenticated connections, slots).",
        [({"kind": k}, v.taken) for k, v in kinds.items()],
    )
    yield gauge(
        "hybridrelay_places_limit",
        "How many places the relay has in total (for unauthenticated connections, slots).",
        [({"kind": k}, v.total) for k, v in kinds.items()],
    )
    yield gauge(
        "hybridrelay_waiting_handshakes",
        "Connections that wait to begin a TLS handshake.",
        [({}, snapshot.waiting_handshakes)],
    )
    yield gauge(
        "hybridrelay_certificate_expiry_timestamp_seconds",
        "When a certificate expires.",
        [({"certificate": one.name}, one.expires_at) for one in snapshot.certificates],
    )
    yield gauge(
        "hybridrelay_draining",
        "Whether the relay is draining.",
        [({}, int(snapshot.draining_since is not None))],
    )
    if descriptors is not None:
        yield gauge("hybridrelay_open_files", "Open descriptors of the process.", [({}, descriptors)])
    yield gauge("hybridrelay_build_info", "Always 1.", [({"version": __version__, "role": "relay"}, 1)])


def _histogram(name: str, text: str, one: HistogramSnapshot) -> str:
    return histogram(name, text, one.bounds, one.counts, one.total)
