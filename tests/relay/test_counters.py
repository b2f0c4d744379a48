"""The counters of events: what is counted, and that the number of labels is limited."""

from __future__ import annotations

import pytest

from hybridrelay.events import (
    ConnectionDeleted,
    ControlChannelDisplaced,
    ListenerLeft,
    ListenerRefused,
    ListenerRegistered,
    RendezvousEnded,
    RendezvousJoined,
    SenderRefused,
    TokenInvalid,
)
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.counters import MAX_CONNECTIONS, OTHER, RelayCounters


def registered(name: str) -> ListenerRegistered:
    return ListenerRegistered(connection=name, instance="1")


def ended(outcome: str, reason: Reason, seconds: float) -> RendezvousEnded:
    return RendezvousEnded(
        connection="db", activity_id="1", outcome=outcome, reason=reason,
        bytes_to_client=0, bytes_to_connector=0, seconds=seconds,
    )  # fmt: skip


def test_events_are_counted_by_connection_and_reason() -> None:
    counters = RelayCounters()
    for event in (
        registered("db"),
        registered("db"),
        ListenerLeft(connection="db", instance="1", reason=Reason.ADMINISTRATOR_DROPPED),
        ListenerRefused(connection="db", reason=Reason.LIMIT),
        TokenInvalid(connection="db", right="listen", reason=Reason.WRONG_KEY, detail=""),
        TokenInvalid(connection="db", right="send", reason=Reason.WRONG_KEY, detail=""),
        TokenInvalid(connection="not there", right="send", reason=Reason.UNKNOWN_CONNECTION, detail=""),
        SenderRefused(connection="db", reason=Reason.NO_LISTENER),
        SenderRefused(connection="db", reason=Reason.RELAY_DRAINING),
        RendezvousJoined(connection="db", activity_id="1"),
        ended("dropped", Reason.ADMINISTRATOR_DROPPED, 1.5),
        ended("both absent", Reason.PEER_ABSENT, 0.0),
        ended("displaced", Reason.LIMIT, 0.0),
        ControlChannelDisplaced(connection="db", rule="r", peer="a", successor="b", by_other=False),
    ):
        counters(event)
    assert counters.listener_connections == {
        ("db", "success"): 2,
        ("db", "server_error"): 1,
        ("db", "client_error"): 1,
    }
    assert counters.listener_disconnects == {("db", "administrator-dropped"): 1}
    assert counters.sender_connections == {
        ("db", "success"): 1,
        ("db", "client_error"): 2,
        ("db", "server_error"): 1,
        (OTHER, "client_error"): 1,
    }
    assert counters.sender_disconnects == {("db", "administrator-dropped"): 1}
    assert counters.rendezvous == {"joined": 1, "both_absent": 1, "displaced": 1}
    assert +counters.displaced == {"pairs": 1, "control_channels": 1}


def test_the_number_of_labels_is_bounded() -> None:
    counters = RelayCounters()
    for number in range(MAX_CONNECTIONS + 500):
        counters(registered(f"db{number}"))
    assert len(counters.listener_connections) == MAX_CONNECTIONS + 1
    assert counters.listener_connections[OTHER, "success"] == 500
    assert counters.label("db0") == "db0"
    assert counters.label("another") == OTHER


@pytest.mark.parametrize("is_named", [True, False])
def test_a_deleted_hybrid_connection_has_no_label_any_more(is_named: bool) -> None:
    counters = RelayCounters()
    if is_named:
        counters(registered("db"))
    counters(ConnectionDeleted(connection="db"))
    counters(ListenerLeft(connection="db", instance="1", reason=Reason.UNKNOWN_CONNECTION))  # which comes afterwards
    counters(ended("revoked", Reason.KEY_REVOKED, 1.0))
    assert set(counters.listener_connections) == set()
    assert set(counters.listener_disconnects) == {(OTHER, "unknown-connection")}
    assert set(counters.sender_disconnects) == {(OTHER, "key-revoked")}
