"""Channels to a relay: transport, preamble, status; and for control channels TLS to the relay inside.

`connect`, `greet` and `secure` are the steps, with unconverted errors, for the prober. `open_channel` and
`open_control_stream` combine them under deadlines, with errors for all other callers.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import trio

from ..abc import ConnectOptions, Dial, Purpose, Route, Transport
from ..errors import (
    HybridRelayError,
    RelayIdentityError,
    RelayUnreachable,
    RendezvousError,
    TLSHandshakeError,
    TransportError,
)
from ..protocol.errors import RemoteProtocolError
from ..protocol.preamble import STATUS_SIZE, Preamble, decode_status_untrusted
from ..protocol.reasons import Category, Reason
from ..security import check_relay_pin, control_client_context, relay_identity_error
from ..streams import TLSStream, receive_exactly
from ..streams.sockets import abort_stream
from .addresses import first_answer, resolve
from .dialing import FailureKind, classify, dial_directly, how_telling
from .endpoint import RelayEndpoint, format_address
from .proxies.dial import proxy_of, resolves_here

#: TCP, with the name looked up (seconds). Outlasts two lost SYN packets (resent after 1 s and 3 s).
DIAL_SECONDS = 5.0
#: What a proxy gets on top: it looks the name up, authenticates us, and connects itself (seconds).
PROXY_SECONDS = 5.0
#: The transport's own handshake behind that, up to four round trips.
TRANSPORT_SECONDS = 10.0
#: From the preamble to the status.
STATUS_SECONDS = 10.0
#: The same for data channels, whose status waits for the other side: a rendezvous lasts 30 s, and the relay then
#: reports which side did not arrive.
RENDEZVOUS_SECONDS = 40.0
#: The TLS handshake with the relay.
TLS_SECONDS = 10.0
#: After this time without an answer from one of the relay's addresses, a control channel tries the next beside it.
NEXT_ADDRESS_SECONDS = 2.0

StreamT = TypeVar("StreamT", bound=trio.abc.AsyncResource)

#: What the steps raise when the path or the other end is at fault; anything else is a bug.
STEP_ERRORS = (OSError, TransportError, RelayIdentityError, RemoteProtocolError, trio.BrokenResourceError)


async def connect(
    endpoint: RelayEndpoint,
    transport: Transport,
    route: Route,
    purpose: Purpose,
    *,
    dial: Dial = dial_directly,
    address: str | None = None,
    dial_seconds: float = DIAL_SECONDS,
    transport_seconds: float = TRANSPORT_SECONDS,
    on_outer_certificate: Callable[[bytes], None] | None = None,
) -> trio.abc.HalfCloseableStream:
    """Connect to the route's port for `purpose`; nothing is sent but what the transport itself needs.

    `address` is the one of the relay's addresses to connect to; None leaves the choice to `dial`. A proxy that dials
    for us gets `PROXY_SECONDS` more than `dial_seconds`. However a transport goes about it, everything together takes
    no more than the time for dialing and the transport's time. `on_outer_certificate` is as in `ConnectOptions`.

    Raises:
        OSError: no TCP connection; `TimeoutError` where that took too long.
        TransportError: connected, but the other side does not speak this transport.
        trio.BrokenResourceError: the connection broke during the transport's handshake.
        trio.TooSlowError: connected, but the transport's handshake took more than `transport_seconds`; or the
            transport never asked for a connection.
        ValueError: the relay does not serve that port (see `RelayEndpoint.missing_ports`).

    Cancelled, nothing stays open.
    """
    port = route.ports[purpose]
    number = endpoint.number_of(port)
    if number is None:
        raise ValueError(f"the relay does not serve port {port.name}")
    if proxy_of(dial, endpoint.host, number) is not None:
        dial_seconds += PROXY_SECONDS
    # The deadline of the handshake begins when TCP is connected, so that the error shows which of the two has passed.
    # A transport that does not dial, or dials more than once, gets no more time than one that does.
    latest = trio.current_time() + dial_seconds + transport_seconds
    scope = trio.CancelScope(deadline=latest)

    async def timed_dial(host: str, number: int) -> trio.abc.HalfCloseableStream:
        with trio.move_on_after(dial_seconds):
            stream = await dial(address if address is not None and host == endpoint.host else host, number)
            scope.deadline = min(latest, trio.current_time() + transport_seconds)
            return stream
        raise TimeoutError(errno.ETIMEDOUT, f"no connection within {dial_seconds:g} s")

    with scope:
        return await transport.connect(
            ConnectOptions(
                host=endpoint.host,
                port=number,
                outer_tls=port.outer_tls,
                dial=timed_dial,
                on_outer_certificate=on_outer_certificate,
            )
        )
    raise trio.TooSlowError


async def greet(stream: trio.abc.HalfCloseableStream, preamble: Preamble) -> Reason:
    """Say what the connection is for, and give the relay's answer.

    Raises:
        trio.BrokenResourceError: the connection ended or broke before the answer.
        RemoteProtocolError: whatever answered is not a relay, or not of our version.

    The caller sets the deadline and closes the stream.
    """
    await stream.send_all(preamble.encode())
    return decode_status_untrusted(await receive_exactly(stream, STATUS_SIZE))


async def secure(stream: trio.abc.HalfCloseableStream, endpoint: RelayEndpoint) -> TLSStream:
    """TLS to the relay over a greeted control channel, and proof that it is the relay.

    Raises:
        TLSHandshakeError: no TLS.
        RelayIdentityError: the certificate matches no pin, or no authority vouches for it.

    The caller sets the deadline. Where this raises, cancellation included, the stream is closed.
    """
    try:
        # Where a pin decides, no name is sent: something on the way might object to one that it does not know.
        name = None if endpoint.pins else endpoint.host
        tls = TLSStream(stream, control_client_context(endpoint.pins), server_hostname=name)
        await tls.do_handshake()
        check_relay_pin(tls, endpoint.pins)
    except BaseException as error:
        await trio.aclose_forcefully(stream)
        if isinstance(error, TLSHandshakeError):
            untrusted = relay_identity_error(error, endpoint.host)
            if untrusted is not None:
                raise untrusted from error
        raise
    return tls


async def open_channel(
    endpoint: RelayEndpoint,
    transport: Transport,
    route: Route,
    purpose: Purpose,
    *,
    ticket: bytes | None = None,
    dial: Dial = dial_directly,
    on_outer_certificate: Callable[[bytes], None] | None = None,
) -> trio.abc.HalfCloseableStream:
    """Connect, say what for, and wait until the relay is ready.

    On a data channel that means: until the other side is there too. After the status every byte is the peer's.

    Args:
        endpoint: the relay.
        transport: goes the route.
        route: has to be one whose ports the relay serves.
        purpose: what the connection is for.
        ticket: for `Purpose.DATA`.
        dial: opens TCP connections.
        on_outer_certificate: see `ConnectOptions`.

    Raises:
        RelayUnreachable: no channel; `reason` is the relay's own where it gave one, `__cause__` the error otherwise.
        RendezvousError: the relay answered that the rendezvous failed; `reason` says why.

    Every step has a deadline. Cancelled, nothing stays open.
    """
    attempt = partial(_open, endpoint, transport, route, purpose, ticket, dial, on_outer_certificate)
    return await _over_addresses(endpoint, route, purpose, dial, attempt)


async def open_control_stream(
    endpoint: RelayEndpoint,
    transport: Transport,
    route: Route,
    *,
    dial: Dial = dial_directly,
    on_outer_certificate: Callable[[bytes], None] | None = None,
) -> TLSStream:
    """A control channel as far as TLS: the relay has proved who it is, and the session can begin.

    Raises:
        RelayUnreachable: as `open_channel`, or TLS failed.
        RelayIdentityError: whoever answered is not the relay. Nothing secret was sent.

    Every step has a deadline. Cancelled, nothing stays open.
    """

    async def attempt(address: str | None) -> TLSStream:
        stream = await _open(endpoint, transport, route, Purpose.CONTROL, None, dial, on_outer_certificate, address)
        with _errors_for_people(endpoint, route, Purpose.CONTROL, address), trio.fail_after(TLS_SECONDS):
            return await secure(stream, endpoint)

    return await _over_addresses(endpoint, route, Purpose.CONTROL, dial, attempt)


async def _open(
    endpoint: RelayEndpoint,
    transport: Transport,
    route: Route,
    purpose: Purpose,
    ticket: bytes | None,
    dial: Dial,
    on_outer_certificate: Callable[[bytes], None] | None,
    address: str | None,
) -> trio.abc.HalfCloseableStream:
    """`open_channel` to one address of the relay."""
    with _errors_for_people(endpoint, route, purpose, address):
        stream = await connect(
            endpoint,
            transport,
            route,
            purpose,
            dial=dial,
            address=address,
            on_outer_certificate=on_outer_certificate,
        )
    seconds = RENDEZVOUS_SECONDS if purpose is Purpose.DATA else STATUS_SECONDS
    try:
        with _errors_for_people(endpoint, route, purpose, address), trio.fail_after(seconds):
            reason = await greet(stream, endpoint.preamble(purpose, ticket))
        if reason is not Reason.NO_ERROR:
            raise _Answered(_refusal(reason))
    except BaseException:
        await abort_stream(stream)
        raise
    return stream


class _Answered(Exception):
    """The relay answered, and said no: no other address is tried. `error` is what to raise."""

    def __init__(self, error: HybridRelayError) -> None:
        super().__init__(error)
        self.error = error


async def _over_addresses(
    endpoint: RelayEndpoint,
    route: Route,
    purpose: Purpose,
    dial: Dial,
    attempt: Callable[[str | None], Awaitable[StreamT]],
) -> StreamT:
    """Try the relay's addresses until a relay answers at one: first the one that answered last.

    A ticket is good for one use, so a data channel goes to one address after the other and never to two at a time.
    """
    number = endpoint.number_of(route.ports[purpose])
    if number is None or not resolves_here(dial, endpoint.host, number):
        try:
            return await attempt(None)
        except _Answered as answered:
            raise answered.error from answered
    with _errors_for_people(endpoint, route, purpose, None):
        with trio.move_on_after(DIAL_SECONDS) as resolving:
            addresses = endpoint.addresses.in_order(await resolve(endpoint.host, number))
        if resolving.cancelled_caught:
            raise TimeoutError(errno.ETIMEDOUT, "the name server did not answer in time")

    async def remembering(address: str) -> StreamT:
        try:
            stream = await attempt(address)
        except _Answered:
            endpoint.addresses.succeeded(address)
            raise
        except (RelayUnreachable, RelayIdentityError) as exc:
            endpoint.addresses.failed(address)
            if purpose is Purpose.DATA and classify(exc, connected=True).kind is FailureKind.STALLED:
                raise _Answered(exc) from exc  # by now the ticket has expired
            raise
        endpoint.addresses.succeeded(address, proved=isinstance(stream, TLSStream))
        return stream

    try:
        return await first_answer(
            addresses,
            remembering,
            no_answer=(RelayUnreachable, RelayIdentityError),
            stagger_seconds=math.inf if purpose is Purpose.DATA else NEXT_ADDRESS_SECONDS,
            discard=abort_stream,
        )
    except _Answered as answered:
        raise answered.error from answered
    except ExceptionGroup as failed:
        error = min(failed.exceptions, key=lambda exc: how_telling(classify(exc, connected=True)))
    raise error


def _refusal(reason: Reason) -> RendezvousError | RelayUnreachable:
    # A status is not authenticated, so none of them is final. A relay reports that a connector is gone for good only
    # over its control channel.
    about_rendezvous = reason.category is Category.RENDEZVOUS and reason is not Reason.LISTENER_GONE
    kind = RendezvousError if about_rendezvous else RelayUnreachable
    return kind(reason.describe, reason=reason)


@contextmanager
def _errors_for_people(
    endpoint: RelayEndpoint, route: Route, purpose: Purpose, reached: str | None
) -> Iterator[None]:
    try:
        yield
    except RelayIdentityError:
        raise
    except (*STEP_ERRORS, trio.TooSlowError) as error:
        # A dial that ran out of time raises TimeoutError; so who raises TooSlowError was connected.
        failure = classify(error, connected=True)
        number = endpoint.number_of(route.ports[purpose])
        address = format_address(endpoint.host, number or 0)
        at = f", {reached}" if reached not in (None, endpoint.host) else ""
        raise RelayUnreachable(
            f"{address} ({route.name}{at}): {failure.text}", reason=failure.reason, remedy=failure.remedy
        ) from error
