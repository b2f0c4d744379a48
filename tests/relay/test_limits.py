"""The relay's limits fit together, and the descriptor limit is raised as far as it goes."""

from __future__ import annotations

import sys

import pytest

from hybridrelay.relay import limits
from hybridrelay.relay.limits import raise_descriptor_limit, unauthenticated_slots


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


def test_where_there_is_no_such_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert raise_descriptor_limit() is None


INFINITE = -1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize(
    ("soft", "hard", "possible", "now"),
    [
        (1024, 4096, 4096, 4096),
        (4096, 4096, 4096, 4096),
        (256, INFINITE, 10240, 10240),
        (20000, INFINITE, 10240, 20000),
        (INFINITE, INFINITE, 10240, INFINITE),
        (1024, 65536, 20000, 10240),
        (1024, 65536, 0, 1024),
        (1024, 4096, 0, 1024),
    ],
)
def test_raised_as_far_as_it_goes(
    soft: int, hard: int, possible: int, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    assert resource.RLIM_INFINITY == INFINITE
    limit = [soft, hard]

    def setrlimit(which: int, wanted: tuple[int, int]) -> None:
        if wanted[0] == INFINITE or wanted[0] > possible or 0 <= wanted[1] < wanted[0]:
            raise ValueError
        limit[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(limit))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert raise_descriptor_limit() == now
    assert limit == [now, hard]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_the_real_one() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
