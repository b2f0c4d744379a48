"""Opening channels to a relay: transport, preamble and status, and for control channels TLS to the relay.

`open_channel` and `open_control_stream` take the steps of `steps.py` in order, and if one fails, start again at the
relay's next address. If the relay has answered and refused, no other address is tried. If none has answered, the
error says which address failed at which step.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio

from ..abc import Dialer, Purpose, Route
from ..errors import HybridRelayError, RelayIdentityError, RelayUnreachable, RendezvousError
from ..failure import Failure, FailureKind, Step
from ..protocol.reasons import Category, Reason
from ..streams import TLSStream
from ..streams.sockets import abort_stream
from .addresses import first_answer
from .dialing import DIRECTLY
from .discovery import Candidate
from .endpoint import RelayEndpoint, format_address
from .proxies.dial import resolves_here
from .steps import DIAL_SECONDS, StepFailed, connect, greet, resolve_relay, secure

#: The time from the preamble to the status (seconds).
STATUS_SECONDS = 10.0
#: The same for data channels (seconds). Their status comes only when the other side has arrived, or after 30 s, when
#: the relay reports which side has not.
RENDEZVOUS_SECONDS = 40.0
#: The time for the TLS handshake with the relay (seconds).
TLS_SECONDS = 10.0
#: If one of the relay's addresses has not answered after this time (seconds), a control channel is opened at the next
#: one in parallel.
NEXT_ADDRESS_SECONDS = 2.0

StreamT = TypeVar("StreamT", bound=trio.abc.AsyncResource)


async def open_channel(
    endpoint: RelayEndpoint,
    candidate: Candidate,
    purpose: Purpose,
    *,
    ticket: bytes | None = None,
    dialer: Dialer = DIRECTLY,
    on_outer_certificate: Callable[[bytes], None] | None = None,
) -> trio.abc.HalfCloseableStream:
    """Connect, send the preamble, and wait until the relay is ready.

    For a data channel, the relay is ready when the other side has arrived, too. After the status, every byte comes
    from the peer.

    Args:
        endpoint: the relay.
        candidate: the route and its transport. The relay must serve the route's ports.
        purpose: what the connection is for.
        ticket: for `Purpose.DATA`.
        dialer: opens what the transport needs.
        on_outer_certificate: see `steps.connect`.

    Raises:
        RelayUnreachable: no channel could be opened; `failure` says at which step, and why. `reason` is the relay's
            own, if it gave one.
        RendezvousError: the relay answered that the rendezvous failed; `reason` says why.

    Every step has a deadline. If cancelled, nothing stays open.
    """
    attempt = partial(_open, endpoint, candidate, purpose, ticket, dialer, on_outer_certificate)
    return await _over_addresses(endpoint, candidate.route, purpose, dialer, attempt)


async def open_control_stream(
    endpoint: RelayEndpoint,
    candidate: Candidate,
    *,
    dialer: Dialer = DIRECTLY,
    on_outer_certificate: Callable[[bytes], None] | None = None,
) -> TLSStream:
    """Open a control channel up to and including TLS: the relay has proved its identity, and the session can begin.

    Raises:
        RelayUnreachable: as for `open_channel`, or TLS failed.
        RelayIdentityError: what answered is not the relay. Nothing secret was sent.

    Every step has a deadline. If cancelled, nothing stays open.
    """

    async def attempt(address: str | None) -> TLSStream:
        stream = await _open(endpoint, candidate, Purpose.CONTROL, None, dialer, on_outer_certificate, address)
        return await secure(stream, endpoint, seconds=TLS_SECONDS)

    return await _over_addresses(endpoint, candidate.route, Purpose.CONTROL, dialer, attempt)


async def _open(
    endpoint: RelayEndpoint,
    candidate: Candidate,
    purpose: Purpose,
    ticket: bytes | None,
    dialer: Dialer,
    on_outer_certificate: Callable[[bytes], None] | None,
    address: str | None,
) -> trio.abc.HalfCloseableStream:
    """Do what `open_channel` does, at one address of the relay. Raises `StepFailed` or `_Answered`."""
    stream = await connect(
        endpoint,
        candidate,
        purpose,
        dialer=dialer,
        address=address,
        on_outer_certificate=on_outer_certificate,
    )
    seconds = RENDEZVOUS_SECONDS if purpose is Purpose.DATA else STATUS_SECONDS
    try:
        reason = await greet(stream, endpoint.preamble(purpose, ticket), seconds=seconds)
        if reason is not Reason.NO_ERROR:
            raise _Answered(_refusal(reason))
    except BaseException:
        await abort_stream(stream)
        raise
    return stream


class _Answered(Exception):
    """The relay answered, and refused: no other address is tried. `error` is the exception to raise."""

    def __init__(self, error: HybridRelayError) -> None:
        super().__init__(error)
        self.error = error


class _AddressFailed(Exception):
    """An attempt at one address failed. If `address` is None, the dialer chose the address."""

    def __init__(self, address: str | None, failure: Failure) -> None:
        super().__init__(failure.text)
        self.address = address
        self.failure = failure


async def _over_addresses(
    endpoint: RelayEndpoint,
    route: Route,
    purpose: Purpose,
    dialer: Dialer,
    attempt: Callable[[str | None], Awaitable[StreamT]],
) -> StreamT:
    """Try the relay's addresses, in the order of `AddressBook.in_order`, until the relay answers at one of them.

    A ticket can be used once, so a data channel tries one address after the other, never two at a time.
    """
    port = route.port_for(purpose)
    number = endpoint.number_of(port)

    async def remembering(address: str | None) -> StreamT:
        try:
            stream = await attempt(address)
        except _Answered:
            endpoint.addresses.succeeded(address)
            raise
        except StepFailed as exc:
            endpoint.addresses.failed(address)
            failed = _AddressFailed(address, exc.failure.over_command() if port.local else exc.failure)
            is_silent = exc.failure.kind is FailureKind.STALLED and exc.failure.step is Step.STATUS
            if purpose is Purpose.DATA and is_silent:
                # The ticket was sent, and has expired by now.
                raise _Answered(_error(endpoint, route, purpose, failed)) from exc
            raise failed from exc
        endpoint.addresses.succeeded(address, proved=isinstance(stream, TLSStream))
        return stream

    try:
        if number is None or port.local or not resolves_here(dialer, endpoint.host, number):
            return await remembering(None)
        try:
            found = await resolve_relay(endpoint, number, seconds=DIAL_SECONDS)
        except StepFailed as exc:
            raise _AddressFailed(None, exc.failure) from exc
        return await first_answer(
            endpoint.addresses.in_order(found),
            remembering,
            no_answer=(_AddressFailed,),
            stagger_seconds=math.inf if purpose is Purpose.DATA else NEXT_ADDRESS_SECONDS,
            discard=abort_stream,
        )
    except _Answered as answered:
        raise answered.error from answered
    except _AddressFailed as failed:
        raise _error(endpoint, route, purpose, failed) from failed
    except ExceptionGroup as group:
        failures = [exc for exc in group.exceptions if isinstance(exc, _AddressFailed)]
        most_specific = max(failures, key=lambda exc: exc.failure.specificity)
        raise _error(endpoint, route, purpose, most_specific) from group


_REMEDIES = {
    Reason.TICKET_OF_ANOTHER_RELAY: "several relays share one host name or address: give each of them its own"
}


def _refusal(reason: Reason) -> RendezvousError | RelayUnreachable:
    # Only the authenticated control channel may report LISTENER_GONE (the connector will never come back). In a
    # status it is a fault of the peer that answered.
    if reason.category in (Category.RENDEZVOUS, Category.QUOTA) and reason is not Reason.LISTENER_GONE:
        return RendezvousError(reason.describe, reason=reason, remedy=_REMEDIES.get(reason))
    failure = Failure.from_status(reason).at(Step.STATUS)
    return RelayUnreachable(reason.describe, reason=failure.reason, remedy=failure.remedy, failure=failure)


def _error(
    endpoint: RelayEndpoint, route: Route, purpose: Purpose, failed: _AddressFailed
) -> RelayUnreachable | RelayIdentityError:
    failure = failed.failure
    if failure.kind is FailureKind.WRONG_IDENTITY and failure.step is Step.TLS:
        return RelayIdentityError(failure.text, reason=failure.reason, remedy=failure.remedy)
    port = route.port_for(purpose)
    number = endpoint.number_of(port) or 0
    address = endpoint.host if port.local else format_address(endpoint.host, number)
    at = f", {failed.address}" if failed.address not in (None, endpoint.host) else ""
    return RelayUnreachable(
        f"{address} ({route.name}{at}): {failure.text}",
        reason=failure.reason,
        remedy=failure.remedy,
        failure=failure,
    )
