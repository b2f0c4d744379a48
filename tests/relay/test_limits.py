"""The relay's limits fit together."""

from __future__ import annotations

import pytest

from hybridrelay.relay import limits
from hybridrelay.relay.limits import Shares, unauthenticated_slots
from hybridrelay.relay.worker.splicing import PIPE_BYTES
from hybridrelay.streams.nowait import TURN_BYTES


def test_the_limits_fit_together() -> None:
    assert limits.UNAUTHENTICATED_SHARE_OF_ADDRESS < 1
    assert limits.OPEN_RENDEZVOUS_PER_SENDER_KEY < limits.OPEN_RENDEZVOUS
    assert limits.AUTHENTICATION_DEADLINE_SECONDS < limits.TICKET_LIFETIME_SECONDS
    assert limits.STORE_POLL_SECONDS < 1, "a running relay acts on changes within a second"
    assert PIPE_BYTES <= TURN_BYTES


@pytest.mark.parametrize(
    ("descriptors", "slots"), [(None, 1024), (-1, 1024), (1 << 20, 1024), (4096, 1024), (1024, 256), (3, 1)]
)
def test_slots_leave_most_descriptors_to_others(descriptors: int | None, slots: int) -> None:
    assert unauthenticated_slots(descriptors) == slots


@pytest.mark.parametrize("descriptors", [64, 256, 600, 1024, 4096, 65_536, 1 << 20])
def test_all_places_together_leave_some_descriptors(descriptors: int) -> None:
    shares = Shares.of(descriptors)
    taken = unauthenticated_slots(descriptors) + 2 * shares.pairs + shares.control_channels + 2 * shares.pipes
    assert taken <= descriptors - min(32, descriptors // 4), "the ports, the registry and the log need some as well"
    assert min(shares.pairs, shares.control_channels, shares.pipes) >= 1


@pytest.mark.parametrize("descriptors", [None, -1])
def test_there_are_limits_even_if_the_system_reports_none(descriptors: int | None) -> None:
    shares = Shares.of(descriptors)
    assert (shares.pairs, shares.pipes) == (limits.JOINED_PAIRS, limits.BORROWED_PIPES)
    assert shares.control_channels >= limits.CONTROL_CHANNELS_PER_KEY
