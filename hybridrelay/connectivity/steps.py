"""The steps of opening a channel: dialing and transport, preamble and status, the probe's echo, TLS to the relay.

Each step has a deadline, and raises `StepFailed`, which says what failed and why. The prober tries ports with these
steps, and `channel.py` opens channels with them.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import attrs
import trio

from .._value import Value
from ..abc import Address, Dialer, Purpose
from ..errors import RelayIdentityError, TLSHandshakeError, TransportError
from ..failure import Failure, FailureKind, Step, lost_connection
from ..protocol.errors import RemoteProtocolError
from ..protocol.preamble import STATUS_SIZE, Preamble, decode_status_untrusted
from ..protocol.reasons import Reason
from ..security import check_relay_pin, control_client_context, management_client_context, relay_identity_error
from ..streams import TLSStream, receive_exactly
from ..streams.outer_tls import connect_outer_tls
from .addresses import resolve
from .dialing import DIRECTLY, DialError, command_failure, dial_failure
from .discovery import Candidate
from .endpoint import RelayEndpoint
from .proxies.dial import proxy_of

#: The time for TCP (seconds): enough for two lost SYN packets (resent after 1 s and 3 s). Resolving the relay's name
#: before that may take as long.
DIAL_SECONDS = 5.0
#: The additional time for a proxy (seconds), which resolves the name, authenticates us, and connects to the relay.
PROXY_SECONDS = 5.0
#: The time for the transport's own handshake after that, which takes up to four round trips (seconds).
TRANSPORT_SECONDS = 10.0

OpenedT = TypeVar("OpenedT")


@attrs.frozen
class ConnectTiming(Value):
    """How long connecting may take."""

    #: For a TCP connection, a UDP socket, or the start of a command (seconds).
    dial_seconds: float = DIAL_SECONDS
    #: For the outer TLS and the transport's own handshake after that (seconds).
    transport_seconds: float = TRANSPORT_SECONDS


_DEFAULT_TIMING = ConnectTiming()


class StepFailed(Exception):
    """A step failed; `failure` says which, and why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


async def resolve_relay(endpoint: RelayEndpoint, port: int, *, seconds: float) -> list[str]:
    """Return the addresses of the relay's name, in the order in which to try them; see `resolve`.

    Raises:
        StepFailed: at `Step.RESOLVE`: there are none, or the name service did not answer within `seconds`.
    """
    try:
        with trio.fail_after(seconds):
            return await resolve(endpoint.host, port)
    except trio.TooSlowError as exc:
        raise StepFailed(Failure.of(FailureKind.NAME_SERVICE_FAILED, Step.RESOLVE)) from exc
    except OSError as exc:
        raise StepFailed(dial_failure(exc).at(Step.RESOLVE)) from exc


async def connect(
    endpoint: RelayEndpoint,
    candidate: Candidate,
    purpose: Purpose,
    *,
    dialer: Dialer = DIRECTLY,
    address: str | None = None,
    timing: ConnectTiming = _DEFAULT_TIMING,
    on_outer_certificate: Callable[[bytes], None] | None = None,
) -> trio.abc.HalfCloseableStream:
    """Connect to the route's port for `purpose`. Only what the transport itself needs is sent.

    A transport cannot exceed the deadline, which is the time for dialing plus the transport's time. The transport's
    time includes the route's `Route.extra_seconds`. With a proxy, dialing gets `PROXY_SECONDS` more.

    Args:
        endpoint: the relay.
        candidate: the route and its transport. The relay must serve the route's ports.
        purpose: what the connection is for.
        dialer: opens what the transport needs.
        address: which of the relay's addresses to connect to; None leaves the choice to `dialer`.
        timing: how long dialing and the transport may take.
        on_outer_certificate: called with the certificate (DER) that the other end of the outer TLS showed, before
            anything is sent over the outer TLS. The certificate is not verified; it can show that something
            intercepts the outer TLS.

    Raises:
        StepFailed: at `Step.DIAL`: no connection could be opened; at `Step.TRANSPORT`: the transport's handshake
            failed or took too long, or the transport never opened a connection.
        ValueError: the relay does not serve that port (see `RelayEndpoint.missing_ports`).

    If cancelled, nothing stays open.
    """
    route, transport = candidate.route, candidate.transport
    http = dialer.http if dialer.current_http is None else dialer.current_http()
    dial_seconds, transport_seconds = timing.dial_seconds, timing.transport_seconds
    port = route.port_for(purpose)
    number = endpoint.number_of(port)
    if number is None:
        raise ValueError(f"the relay does not serve port {port.name}")
    if not port.local and proxy_of(dialer, endpoint.host, number) is not None:
        dial_seconds += PROXY_SECONDS
    transport_seconds += route.extra_seconds
    # The time for the handshake begins when TCP is connected, so that the error shows which of the two took too long.
    # A transport that does not dial, or dials more than once, gets no more time than one that dials once.
    latest = trio.current_time() + dial_seconds + transport_seconds
    scope = trio.CancelScope(deadline=latest)
    no_connection = f"no connection within {dial_seconds:g} s"
    # While a connection is being opened: what it means if none is. When this process was suspended, or the machine is
    # too busy, both deadlines pass at the same time, and the later one ends the attempt.
    unanswered: Failure | None = None

    async def timed(
        opening: Callable[[], Awaitable[OpenedT]], explain: Callable[[OSError], Failure] = dial_failure
    ) -> OpenedT:
        nonlocal unanswered
        unanswered = explain(TimeoutError(errno.ETIMEDOUT, no_connection))
        try:
            with trio.move_on_after(dial_seconds):
                opened = await opening()
                scope.deadline = min(latest, trio.current_time() + transport_seconds)
                unanswered = None
                return opened
            raise TimeoutError(errno.ETIMEDOUT, no_connection)
        except DialError:
            unanswered = None
            raise
        except OSError as exc:
            unanswered = None
            raise DialError(explain(exc)) from exc

    def target_of(host: str) -> str:
        return address if address is not None and host == endpoint.host else host

    async def tcp(host: str, number: int) -> trio.abc.Stream:
        stream = await timed(partial(dialer.tcp, target_of(host), number))
        if not port.outer_tls:
            return stream
        tls = await _connect_outer_tls(stream, host, verified=bool(http.headers))
        if on_outer_certificate is not None:
            on_outer_certificate(tls.getpeercert(binary_form=True) or b"")
        return tls

    async def udp(host: str, number: int) -> trio.socket.SocketType:
        return await timed(partial(dialer.udp, target_of(host), number))

    async def process() -> trio.abc.HalfCloseableStream:
        return await timed(dialer.process, command_failure)

    with _failing_at(Step.TRANSPORT):
        with scope:
            reached = Address(endpoint.host, number, port.outer_tls)
            connection = await transport.connect(reached, Dialer(tcp, udp, process, http))
            return connection.stream
        if unanswered is not None:
            raise DialError(unanswered)
        raise trio.TooSlowError


async def _connect_outer_tls(stream: trio.abc.Stream, host: str, *, verified: bool) -> TLSStream:
    """Do the handshake of the outer TLS. Nothing but secret header fields needs its certificate to be verified."""
    if not verified:
        return await connect_outer_tls(stream, host)
    try:
        return await connect_outer_tls(stream, host, context=management_client_context())
    except TransportError as exc:
        raise TransportError(
            f"{exc}; the header fields of --websocket-headers-file were not sent",
            kind=FailureKind.TLS_FAILED,
            remedy=f"they are sent only to a server with a valid certificate for {host}: check the name and the "
            "certificate, or let this machine trust the CA of a proxy that intercepts TLS",
        ) from exc


async def greet(stream: trio.abc.HalfCloseableStream, preamble: Preamble, *, seconds: float) -> Reason:
    """Send the preamble, which states the purpose of the connection, and return the relay's answer.

    Raises:
        StepFailed: at `Step.STATUS`: the connection ended or broke before the answer, no answer arrived within
            `seconds`, or what answered is not a relay of our version.

    The caller closes the stream.
    """
    with _failing_at(Step.STATUS), trio.fail_after(seconds):
        await stream.send_all(preamble.encode())
        return decode_status_untrusted(await receive_exactly(stream, STATUS_SIZE))


async def echo(stream: trio.abc.HalfCloseableStream, data: bytes, *, seconds: float) -> None:
    """Send the data of a probe, and check that the same data is returned.

    Raises:
        StepFailed: at `Step.ECHO`: the connection ended or broke, nothing was returned within `seconds`, or different
            data was returned.

    The caller closes the stream.
    """
    with _failing_at(Step.ECHO), trio.fail_after(seconds):
        await stream.send_all(data)
        if await receive_exactly(stream, len(data)) != data:
            raise RemoteProtocolError("the probe came back altered")


async def secure(stream: trio.abc.HalfCloseableStream, endpoint: RelayEndpoint, *, seconds: float) -> TLSStream:
    """Establish TLS to the relay over a control channel after `greet`, and verify that it is the relay.

    Raises:
        StepFailed: at `Step.TLS`: the handshake failed or took longer than `seconds`; with
            `FailureKind.WRONG_IDENTITY`, the certificate matches no pin, or was not issued by a trusted CA.

    On every exception, including cancellation, the stream is closed.
    """
    try:
        with _failing_at(Step.TLS), trio.fail_after(seconds):
            return await _secure(stream, endpoint)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def _secure(stream: trio.abc.HalfCloseableStream, endpoint: RelayEndpoint) -> TLSStream:
    # With pins, no server name is sent: a middlebox might reject a name that it does not know.
    name = None if endpoint.pins else endpoint.host
    try:
        tls = TLSStream(stream, control_client_context(endpoint.pins), server_hostname=name)
        await tls.do_handshake()
    except TLSHandshakeError as error:
        untrusted = relay_identity_error(error, endpoint.host)
        if untrusted is not None:
            raise untrusted from error
        raise
    check_relay_pin(tls.ssl_object, endpoint.pins)
    return tls


@contextmanager
def _failing_at(step: Step) -> Iterator[None]:
    """Turn exceptions of the block into `StepFailed`, except those that indicate a bug."""
    try:
        yield
    except TransportError as exc:
        raise StepFailed(exc.failure.at(step)) from exc
    except RelayIdentityError as exc:
        raise StepFailed(wrong_identity(exc).at(step)) from exc
    except RemoteProtocolError as exc:
        mismatch = exc.reason is Reason.VERSION_MISMATCH
        failure = Failure.from_status(exc.reason) if mismatch else Failure.of(FailureKind.NOT_A_RELAY)
        raise StepFailed(failure.at(step)) from exc
    except trio.BrokenResourceError as exc:
        raise StepFailed(lost_connection(exc).at(step)) from exc
    except OSError as exc:
        raise StepFailed(dial_failure(exc).at(step)) from exc
    except trio.TooSlowError as exc:
        raise StepFailed(Failure.of(FailureKind.STALLED, step)) from exc


def wrong_identity(error: RelayIdentityError) -> Failure:
    """Return the failure of an attempt in which what answered was not the relay."""
    failure = Failure.of(FailureKind.WRONG_IDENTITY).with_text(str(error), error.remedy)
    return attrs.evolve(failure, reason=error.reason, step=Step.TLS)
