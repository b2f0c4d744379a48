"""Channels to a relay: transport, preamble, status; and for control channels TLS to the relay inside.

`connect`, `greet` and `secure` are the steps, with the errors as they come, for the prober to look at.
`open_channel` and `open_control_stream` put them together under deadlines, with errors for everybody else.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from ..abc import ConnectOptions, Dial, Purpose, Route, Transport
from ..errors import (
    RelayIdentityError,
    RelayUnreachable,
    RendezvousError,
    TLSHandshakeError,
    TransportError,
)
from ..protocol.errors import RemoteProtocolError
from ..protocol.preamble import STATUS_SIZE, TICKET_SIZE, Preamble, decode_status_untrusted
from ..protocol.reasons import Reason
from ..security import PINNED_SERVER_NAME, check_relay_pin, control_client_context, relay_identity_error
from ..streams import TLSStream, receive_exactly
from ..streams.sockets import abort_stream
from .dialing import classify, dial_directly
from .endpoint import RelayEndpoint, format_address
from .proxies.dial import proxy_of

#: TCP, with the name looked up (seconds). Outlasts two lost SYN packets (resent after 1 s and 3 s).
DIAL_SECONDS = 5.0
#: What a proxy gets on top: it looks the name up, authenticates us, and connects itself (seconds).
PROXY_SECONDS = 5.0
#: The transport's own handshake behind that, up to four round trips.
TRANSPORT_SECONDS = 10.0
#: From the preamble to the status.
STATUS_SECONDS = 10.0
#: The same for data channels, whose status waits for the other side: a rendezvous lasts 30 s, and the relay's word on
#: who did not come is worth waiting for.
RENDEZVOUS_SECONDS = 40.0
#: The TLS handshake with the relay.
TLS_SECONDS = 10.0

#: What the steps raise when the path or the other end is at fault; anything else is a bug.
STEP_ERRORS = (OSError, TransportError, RelayIdentityError, RemoteProtocolError, trio.BrokenResourceError)

_NO_TICKET = bytes(TICKET_SIZE)
_RENDEZVOUS = frozenset(
    {
        Reason.NO_LISTENER,
        Reason.LISTENER_ABSENT,
        Reason.LISTENER_GONE,
        Reason.LISTENER_SILENT,
        Reason.LISTENER_CANNOT_DIAL,
        Reason.TICKET_UNKNOWN,
        Reason.PEER_ABSENT,
    }
)


async def connect(
    endpoint: RelayEndpoint,
    transport: Transport,
    route: Route,
    purpose: Purpose,
    *,
    dial: Dial = dial_directly,
    dial_seconds: float = DIAL_SECONDS,
    transport_seconds: float = TRANSPORT_SECONDS,
    on_outer_certificate: Callable[[bytes], None] | None = None,
) -> trio.abc.HalfCloseableStream:
    """Connect to the route's port for `purpose`; nothing is sent but what the transport itself needs.

    A proxy that dials for us gets `PROXY_SECONDS` more than `dial_seconds`. `on_outer_certificate` is as in
    `ConnectOptions`.

    Raises:
        OSError: no TCP connection; `TimeoutError` where that took too long.
        TransportError: connected, but the other side does not speak this transport.
        trio.BrokenResourceError: the connection broke during the transport's handshake.
        trio.TooSlowError: connected, but the transport's handshake took more than `transport_seconds`.
        ValueError: the relay does not serve that port (see `RelayEndpoint.missing_ports`).

    Cancelled, nothing stays open.
    """
    port = route.ports[purpose]
    number = endpoint.number_of(port)
    if number is None:
        raise ValueError(f"the relay does not serve port {port.name}")
    if proxy_of(dial, endpoint.host, number) is not None:
        dial_seconds += PROXY_SECONDS
    # The deadline of the handshake begins when TCP is connected, so that the two are told apart when one passes.
    scope = trio.CancelScope()

    async def timed_dial(host: str, number: int) -> trio.abc.HalfCloseableStream:
        with trio.move_on_after(dial_seconds):
            stream = await dial(host, number)
            scope.deadline = trio.current_time() + transport_seconds
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
        name = PINNED_SERVER_NAME if endpoint.pins else endpoint.host
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
    with _errors_for_people(endpoint, route, purpose):
        stream = await connect(
            endpoint, transport, route, purpose, dial=dial, on_outer_certificate=on_outer_certificate
        )
    seconds = RENDEZVOUS_SECONDS if purpose is Purpose.DATA else STATUS_SECONDS
    try:
        with _errors_for_people(endpoint, route, purpose), trio.fail_after(seconds):
            reason = await greet(stream, Preamble(purpose, _NO_TICKET if ticket is None else ticket))
        if reason is not Reason.NO_ERROR:
            raise _refusal(reason)
    except BaseException:
        await abort_stream(stream)
        raise
    return stream


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
    stream = await open_channel(
        endpoint, transport, route, Purpose.CONTROL, dial=dial, on_outer_certificate=on_outer_certificate
    )
    with _errors_for_people(endpoint, route, Purpose.CONTROL), trio.fail_after(TLS_SECONDS):
        return await secure(stream, endpoint)


def _refusal(reason: Reason) -> RendezvousError | RelayUnreachable:
    kind = RendezvousError if reason in _RENDEZVOUS else RelayUnreachable
    return kind(reason.describe, reason=reason)


@contextmanager
def _errors_for_people(endpoint: RelayEndpoint, route: Route, purpose: Purpose) -> Iterator[None]:
    try:
        yield
    except RelayIdentityError:
        raise
    except (*STEP_ERRORS, trio.TooSlowError) as error:
        # A dial that ran out of time raises TimeoutError; so who raises TooSlowError was connected.
        failure = classify(error, connected=True)
        number = endpoint.number_of(route.ports[purpose])
        address = format_address(endpoint.host, number or 0)
        raise RelayUnreachable(
            f"{address} ({route.name}): {failure.text}", reason=failure.reason, remedy=failure.remedy
        ) from error
