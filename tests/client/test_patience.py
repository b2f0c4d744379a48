"""Which failures are waited out, over all reasons, and how many may wait."""

from __future__ import annotations

import math

import pytest

from hybridrelay.client.patience import MAX_WAITING, check_patience, max_waiting, may_pass
from hybridrelay.connectivity import Attempt, Failure, FailureKind, NoRouteWorks, Outcome, Report
from hybridrelay.errors import (
    AuthorizationError,
    HybridRelayError,
    PeerIdentityError,
    RelayIdentityError,
    RelayUnreachable,
    RendezvousError,
)
from hybridrelay.protocol.reasons import Reason


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (RelayUnreachable("the relay is away"), True),
        (RelayUnreachable("it restarts", reason=Reason.GOING_AWAY), True),
        (RendezvousError("no connector", reason=Reason.NO_LISTENER), True),
        (RendezvousError("it is silent", reason=Reason.LISTENER_SILENT), True),
        (RendezvousError("too many at this moment", reason=Reason.LIMIT), True),
        (AuthorizationError("a clock is wrong", reason=Reason.TOKEN_EXPIRED), True),
        (AuthorizationError("wrong key", reason=Reason.WRONG_KEY), False),
        (AuthorizationError("revoked", reason=Reason.KEY_REVOKED), False),
        (PeerIdentityError("denied", reason=Reason.IDENTITY_DENIED), False),
        (RelayIdentityError("not the relay"), False),
        (HybridRelayError("the target refuses", reason=Reason.TARGET_REFUSED), False),
    ],
)
def test_what_is_waited_out(error: HybridRelayError, waits: bool) -> None:
    assert may_pass(error) is waits


@pytest.mark.parametrize(
    ("kinds", "waits"),
    [
        ((FailureKind.REFUSED, FailureKind.STALLED), True),
        ((FailureKind.REFUSED, FailureKind.WRONG_IDENTITY), False),
    ],
)
def test_a_certificate_that_is_not_the_relays_is_not_waited_out(kinds: tuple[FailureKind, ...], waits: bool) -> None:
    attempts = [
        Attempt(
            route="tcp", step="control", host="r.example", port=5671, outcome=Outcome.FAIL, failure=Failure.of(kind)
        )
        for kind in kinds
    ]
    report = Report(host="r.example", mode="auto", attempts=tuple(attempts), chosen=None, seconds=0.1)
    assert may_pass(NoRouteWorks(report)) is waits


@pytest.mark.parametrize("seconds", [-1.0, -math.inf, math.nan])
def test_a_patience_has_to_be_a_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="open_patience"):
        check_patience(seconds)
    assert check_patience(0.0) == 0


def test_few_descriptors_mean_few_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for soft, expected in ((resource.RLIM_INFINITY, MAX_WAITING), (1 << 20, MAX_WAITING), (256, 96), (10, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert max_waiting() == expected
