"""One error for the failures of several relays: it names each relay, and has the most useful reason."""

from __future__ import annotations

import pytest

from hybridrelay.connectivity.refusals import all_failed, is_final, is_hopeless
from hybridrelay.errors import (
    AuthorizationError,
    HybridRelayError,
    PeerIdentityError,
    RelayIdentityError,
    RelayUnreachable,
    RendezvousError,
)
from hybridrelay.protocol.reasons import Reason

DOWN = RelayUnreachable("refused", reason=Reason.SESSION_LOST, remedy="start the relay")
IMPOSTOR = RelayIdentityError("wrong pin")
NO_LISTENER = RendezvousError("no listener", reason=Reason.NO_LISTENER, remedy="start the connector")
WRONG_KEY = AuthorizationError("wrong key", reason=Reason.WRONG_KEY, remedy="fetch it")
EXPIRED = AuthorizationError("expired", reason=Reason.TOKEN_EXPIRED)
DENIED = PeerIdentityError("denied", reason=Reason.IDENTITY_DENIED)


@pytest.mark.parametrize(
    ("first", "second", "nearest"),
    [
        (DOWN, NO_LISTENER, NO_LISTENER),
        # Trying again may help as long as one relay may come back, so that one's reason counts.
        (WRONG_KEY, DOWN, DOWN),
        (WRONG_KEY, NO_LISTENER, NO_LISTENER),
        (IMPOSTOR, DOWN, DOWN),
        (DENIED, DOWN, DOWN),
        (EXPIRED, DOWN, EXPIRED),
        (EXPIRED, NO_LISTENER, NO_LISTENER),
        (WRONG_KEY, DENIED, DENIED),
        (WRONG_KEY, WRONG_KEY, WRONG_KEY),
        (IMPOSTOR, IMPOSTOR, IMPOSTOR),
        # An impostor may go away.
        (WRONG_KEY, IMPOSTOR, IMPOSTOR),
    ],
)
def test_the_nearest_to_working_counts(
    first: HybridRelayError, second: HybridRelayError, nearest: HybridRelayError
) -> None:
    for failures in ({"a": first, "b": second}, {"b": second, "a": first}):
        error = all_failed(failures)
        assert type(error) is type(nearest)
        assert error.reason is nearest.reason
        assert is_hopeless(error) == (is_hopeless(first) and is_hopeless(second))
        assert error.reason.is_permanent == (first.reason.is_permanent and second.reason.is_permanent)
        for host, failure in failures.items():
            assert f"{host}: {failure}" in str(error)
            assert failure.remedy is None or failure.remedy in (error.remedy or "")


def test_of_one_relay_the_error_is_its_own() -> None:
    assert all_failed({"a": WRONG_KEY}) is WRONG_KEY


def test_the_same_remedy_is_given_once() -> None:
    assert all_failed({"a": DOWN, "b": DOWN}).remedy == "start the relay"


def test_an_expired_token_is_not_hopeless() -> None:
    assert not is_hopeless(EXPIRED)
    assert is_hopeless(WRONG_KEY)
    assert is_hopeless(IMPOSTOR)
    assert not is_hopeless(DOWN)


@pytest.mark.parametrize("reason", [Reason.WRONG_KEY, Reason.KEY_REVOKED, Reason.UNKNOWN_CONNECTION])
def test_only_a_relay_ends_a_client_for_good(reason: Reason) -> None:
    """Such a reason from a connector, or from somebody on the way, says nothing about other connectors and relays."""
    assert reason.is_permanent
    assert is_final(AuthorizationError("no", reason=reason))
    for error in (
        RendezvousError("no", reason=reason),
        PeerIdentityError("no", reason=reason),
        RelayUnreachable("no", reason=reason),
        AuthorizationError("no", reason=Reason.TOKEN_EXPIRED),
    ):
        assert not is_final(error)
