"""The relay's limits fit together."""

from __future__ import annotations

import pytest

from hybridrelay.relay import limits
from hybridrelay.relay.limits import unauthenticated_slots


def test_the_limits_fit_together() -> None:
    assert limits.UNAUTHENTICATED_SHARE_OF_ADDRESS < 1
    assert limits.OPEN_RENDEZVOUS_PER_SENDER_KEY < limits.OPEN_RENDEZVOUS
    assert limits.AUTHENTICATION_DEADLINE_SECONDS < limits.TICKET_LIFETIME_SECONDS
    assert limits.REGISTRY_POLL_SECONDS < 1, "a running relay acts on changes within a second"
    assert limits.PIPE_BYTES <= limits.PUMP_YIELD_BYTES


@pytest.mark.parametrize(
    ("descriptors", "slots"), [(None, 1024), (-1, 1024), (1 << 20, 1024), (4096, 1024), (1024, 256), (3, 1)]
)
def test_slots_leave_most_descriptors_to_others(descriptors: int | None, slots: int) -> None:
    assert unauthenticated_slots(descriptors) == slots
