"""What a connector or client counts."""

from __future__ import annotations

import pytest

from hybridrelay.client.counters import ClientCounters
from hybridrelay.connectivity.counters import SUCCESS, EndpointCounters
from hybridrelay.connector.counters import ConnectorCounters
from hybridrelay.events import Event, PolicyRefused, SessionEnded, SessionLost, SessionRefused, SessionResumed
from hybridrelay.protocol.reasons import Reason

RESUMED = SessionResumed(connection="db", route="tcp at a.example")
LOST = SessionLost(connection="db", activity_id="1", outcome="not-resumed", reason=Reason.SESSION_LOST)
REFUSED = SessionRefused(connection="db", label="shop", serial="0A", reason=Reason.LIMIT, detail="too many")
NOT_RESUMED = SessionRefused(
    connection="db", label="shop", serial="0A", reason=Reason.SESSION_UNKNOWN, detail="", resumes=True
)
DENIED = PolicyRefused(
    connection="db", label="shop", serial="0A", reason=Reason.IDENTITY_DENIED, detail="shop", rule="deny-list-label"
)


@pytest.mark.parametrize(
    ("counters", "event", "resumes", "refusals"),
    [
        (ClientCounters(), RESUMED, {SUCCESS: 1}, {}),
        (ClientCounters(), LOST, {"not-resumed": 1}, {}),
        (ClientCounters(), SessionEnded(connection="db", reason=Reason.NO_ERROR), {}, {}),
        (ConnectorCounters(), RESUMED, {SUCCESS: 1}, {}),
        (ConnectorCounters(), NOT_RESUMED, {"session-unknown": 1}, {}),
        (ConnectorCounters(), REFUSED, {}, {}),
        (ConnectorCounters(), DENIED, {}, {"deny-list-label": 1}),
        (ConnectorCounters(), SessionEnded(connection="db", reason=Reason.NO_ERROR), {}, {}),
    ],
)
def test_events_that_are_counted(
    counters: EndpointCounters, event: Event, resumes: dict[str, int], refusals: dict[str, int]
) -> None:
    counters(event)
    assert (counters.session_resumes, counters.policy_refusals) == (resumes, refusals)


def test_those_of_several_are_added_up() -> None:
    total = EndpointCounters()
    for name in ("a", "b", "a"):
        one = ConnectorCounters()
        one.stream_opened(name)
        one.stream_opened(name, Reason.TARGET_REFUSED)
        one.target_connect.observe(0.002)
        one(RESUMED)
        one(DENIED)
        total.add(one)
    assert total.streams_opened == {
        ("a", SUCCESS): 2,
        ("a", "target-refused"): 2,
        ("b", SUCCESS): 1,
        ("b", "target-refused"): 1,
    }
    assert (sum(total.target_connect.counts), round(total.target_connect.total, 6)) == (3, 0.006)
    assert (total.session_resumes, total.policy_refusals) == ({SUCCESS: 3}, {"deny-list-label": 3})
    copied = total.copy()
    total.stream_opened("a")
    assert copied.streams_opened["a", SUCCESS] == 2
