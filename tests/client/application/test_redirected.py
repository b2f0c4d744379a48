"""Which connections a redirection admits."""

from __future__ import annotations

from hybridrelay.client.application import interception
from hybridrelay.client.application.interception import Redirected

PEER = ("127.0.0.1", 40000)
LISTENER = ("127.0.0.2", 7001)


def test_a_connection_is_admitted_once() -> None:
    redirected = Redirected({}, None)
    assert not redirected.admits(PEER, LISTENER)
    redirected.note(PEER, LISTENER)
    assert redirected.admits(PEER, LISTENER)
    assert not redirected.admits(PEER, LISTENER)


def test_a_connection_from_the_same_address_to_another_listener_is_not_admitted() -> None:
    """It may be that of another user: the kernel gives the same local address to both."""
    other = ("127.0.0.2", 7002)
    redirected = Redirected({}, None)
    redirected.note(PEER, LISTENER)
    assert not redirected.admits(PEER, other)
    redirected.withdraw(PEER, other)
    assert redirected.admits(PEER, LISTENER)


def test_a_connection_that_does_not_arrive_is_not_admitted() -> None:
    now = [0.0]
    redirected = Redirected({}, None, clock=lambda: now[0])
    redirected.note(PEER, LISTENER)
    redirected.withdraw(PEER, LISTENER)
    redirected.withdraw(PEER, LISTENER)
    assert not redirected.admits(PEER, LISTENER)
    for waited, is_admitted in ((60.0, True), (60.1, False)):
        redirected.note(PEER, LISTENER)
        now[0] += waited
        assert redirected.admits(PEER, LISTENER) is is_admitted


def test_resolvers_are_remembered() -> None:
    redirected = Redirected({}, None)
    assert redirected.wanted_server(PEER) is None
    redirected.note_resolver(PEER, ("10.0.0.2", 53))
    redirected.note_resolver(PEER, ("10.0.0.3", 53))
    assert redirected.wanted_server(PEER) == ("10.0.0.3", 53)
    assert redirected.wanted_server(PEER) == ("10.0.0.3", 53)
    assert not redirected.admits(PEER, LISTENER)


def test_what_is_remembered_is_limited() -> None:
    redirected = Redirected({}, None)
    for port in range(interception._MAX_NOTED + 1):
        redirected.note(("127.0.0.1", port), LISTENER)
    assert not redirected.admits(("127.0.0.1", 0), LISTENER)
    assert redirected.admits(("127.0.0.1", 1), LISTENER)
    assert redirected.admits(("127.0.0.1", interception._MAX_NOTED), LISTENER)
