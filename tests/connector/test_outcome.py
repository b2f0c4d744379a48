"""How a stream ended: what is reported of a bridge between an application and its target."""

from __future__ import annotations

from typing import TypedDict

import attrs
import pytest

from hybridrelay.connector.outcome import Disconnected, Ending, outcome_of
from hybridrelay.mux import Bridged, Party
from hybridrelay.protocol.reasons import Reason

RESET, CANCELLED, LOST = Reason.TARGET_RESET, Reason.CANCELLED, Reason.SESSION_LOST
RUDELY = "closed-with-reset"
GOING_AWAY = Reason.GOING_AWAY
FINISHED, STOPPED = Ending.FINISHED, Ending.STOPPED_BY_APPLICATION
BY_TARGET, BY_APPLICATION, GONE = Ending.RESET_BY_TARGET, Ending.RESET_BY_APPLICATION, Ending.LOST


class Changes(TypedDict, total=False):
    """Fields of `Bridged` that differ from those of a bridge that ended normally."""

    sent_all: bool
    received_all: bool
    peer_stopped: bool
    refusal: str
    ended_by: Party
    reason: Reason


@pytest.mark.parametrize(
    ("bridged", "kind", "to_target", "to_client", "reason"),
    [
        # Both ended in good order.
        ({"received_all": True, "sent_all": True}, "closed", FINISHED, FINISHED, Reason.NO_ERROR),
        # The same over a slow link: the application's side has not acknowledged the last bytes yet.
        ({"received_all": True}, "unconfirmed", FINISHED, Ending.UNCONFIRMED, Reason.NO_ERROR),
        # PostgreSQL inside TLS: psql has said everything and ended, the server resets.
        ({"received_all": True, "ended_by": Party.LOCAL, "reason": RESET}, RUDELY, FINISHED, BY_TARGET, RESET),
        # The server has ended, and the application resets.
        ({"sent_all": True, "ended_by": Party.PEER, "reason": RESET}, RUDELY, BY_APPLICATION, FINISHED, RESET),
        # The application has ended both directions at once, and did not wait for the answer.
        (
            {"received_all": True, "peer_stopped": True, "ended_by": Party.PEER, "reason": CANCELLED},
            RUDELY, FINISHED, STOPPED, CANCELLED,
        ),
        # The application has closed, and the target resets before it has taken the rest.
        ({"peer_stopped": True, "ended_by": Party.LOCAL, "reason": RESET}, "broken", BY_TARGET, STOPPED, RESET),
        ({"peer_stopped": True, "ended_by": Party.SESSION, "reason": LOST}, "broken", GONE, STOPPED, LOST),
        # In the middle of a transfer.
        ({"ended_by": Party.LOCAL, "reason": RESET}, "broken", BY_TARGET, BY_TARGET, RESET),
        ({"ended_by": Party.PEER, "reason": RESET}, "broken", BY_APPLICATION, BY_APPLICATION, RESET),
        ({"ended_by": Party.SESSION, "reason": LOST}, "broken", GONE, GONE, LOST),
        ({"ended_by": Party.CALLER, "reason": CANCELLED}, "broken", GONE, GONE, GOING_AWAY),
        # One direction was complete, and the other one was cut off by somebody else.
        ({"received_all": True, "ended_by": Party.SESSION, "reason": LOST}, "broken", FINISHED, GONE, LOST),
        ({"sent_all": True, "ended_by": Party.SESSION, "reason": LOST}, "broken", GONE, FINISHED, LOST),
        ({"received_all": True, "ended_by": Party.CALLER, "reason": CANCELLED}, "broken", FINISHED, GONE, GOING_AWAY),
        # The target had ended, and resets before it has taken everything.
        ({"sent_all": True, "ended_by": Party.LOCAL, "reason": RESET}, "broken", BY_TARGET, FINISHED, RESET),
        # The application has ended, and takes back what it may still get.
        ({"received_all": True, "ended_by": Party.PEER, "reason": RESET}, "broken", FINISHED, BY_APPLICATION, RESET),
    ],
)  # fmt: skip
def test_how_a_bridge_ended(
    bridged: Changes, kind: str, to_target: Ending, to_client: Ending, reason: Reason
) -> None:
    outcome = outcome_of(attrs.evolve(Bridged(7, 5, Reason.NO_ERROR), **bridged))
    assert outcome == Disconnected(kind, to_target, to_client, reason, bytes_to_target=5, bytes_to_client=7)
