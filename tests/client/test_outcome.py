"""How a stream ended, as the events of a client say."""

from __future__ import annotations

import pytest

from hybridrelay.client.outcome import Ending, outcome_of
from hybridrelay.mux import Bridged, Party
from hybridrelay.protocol.reasons import Reason


@pytest.mark.parametrize(
    ("bridged", "kind", "to_target", "to_client"),
    [
        (
            Bridged(1, 1, Reason.NO_ERROR, sent_all=True, received_all=True),
            "closed",
            Ending.FINISHED,
            Ending.FINISHED,
        ),
        (
            Bridged(1, 1, Reason.TARGET_RESET, received_all=True, ended_by=Party.LOCAL),
            "closed-with-reset",
            Ending.RESET_BY_APPLICATION,
            Ending.FINISHED,
        ),
        (
            Bridged(1, 1, Reason.TARGET_RESET, sent_all=True, ended_by=Party.PEER),
            "closed-with-reset",
            Ending.FINISHED,
            Ending.RESET_BY_TARGET,
        ),
        (
            Bridged(1, 1, Reason.CANCELLED, received_all=True, peer_stopped=True, ended_by=Party.PEER),
            "closed-with-reset",
            Ending.STOPPED_BY_TARGET,
            Ending.FINISHED,
        ),
        (
            Bridged(1, 1, Reason.TARGET_RESET, sent_all=True, ended_by=Party.LOCAL),
            "broken",
            Ending.FINISHED,
            Ending.RESET_BY_APPLICATION,
        ),
        (
            Bridged(1, 1, Reason.SESSION_LOST, sent_all=True, ended_by=Party.SESSION),
            "broken",
            Ending.FINISHED,
            Ending.LOST,
        ),
        (
            Bridged(1, 1, Reason.TARGET_RESET, peer_stopped=True, ended_by=Party.LOCAL),
            "broken",
            Ending.STOPPED_BY_TARGET,
            Ending.RESET_BY_APPLICATION,
        ),
        (Bridged(1, 1, Reason.NO_ERROR, received_all=True), "unconfirmed", Ending.UNCONFIRMED, Ending.FINISHED),
        (Bridged(0, 0, Reason.CANCELLED, ended_by=Party.CALLER), "broken", Ending.LOST, Ending.LOST),
    ],
)
def test_every_end_has_a_name(bridged: Bridged, kind: str, to_target: Ending, to_client: Ending) -> None:
    ended = outcome_of(bridged)
    assert (ended.kind, ended.to_target, ended.to_client) == (kind, to_target, to_client)
    assert (ended.reason is Reason.NO_ERROR) is (kind in {"closed", "unconfirmed"})
