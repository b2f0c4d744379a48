"""HTTP CONNECT (RFC 9110, section 9.3.6), parsed by h11. `authentication.py` has the authentication.

`head.py` removes headers that h11 must not see, and explains why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs
import h11
import trio

from ..._version import __version__
from ...failure import FailureKind
from ...security.names import bracketed
from ..dialing import ProxyError
from .authentication import ProxyAuthenticator, basic_authentication
from .failures import proxy_error, quote_untrusted
from .head import MAX_HEAD_BYTES, head_size_untrusted, status_untrusted, without_framing
from .settings import Proxy

#: The longest body of a refusal that is read in order to reuse the connection (bytes). Error pages have a few KiB;
#: after a longer one, a new connection is opened.
MAX_BODY_BYTES = 64 * 1024
#: How long reading such a body may take (seconds). After that, too, a new connection is opened.
BODY_SECONDS = 1.0
#: The most requests for one tunnel. NTLM needs three, Negotiate two to four.
MAX_ROUNDS = 6

_CHUNK_BYTES = 16 * 1024

#: The statuses with which a web server that is not a proxy refuses CONNECT.
_LIKE_A_WEB_SERVER = frozenset({404, 405, 501})
_NO_PROXY = (
    "if this is a web server and not a proxy, correct the proxy's address; otherwise ask its administrator to allow "
    "CONNECT to this host and port"
)
_LOG_IN = "this network requires a login first: open any page in a browser on this machine"


async def open_http_tunnel(
    connect: Callable[[], Awaitable[trio.abc.Stream]],
    proxy: Proxy,
    host: str,
    port: int,
    authenticator: ProxyAuthenticator = basic_authentication,
) -> tuple[trio.abc.Stream, bytes]:
    """Request a connection, with as many requests as the authentication needs.

    Args:
        connect: opens a connection to the proxy. Called again only if the connection cannot be used for the next
            request.
        proxy: for messages and credentials.
        host: the destination, which the proxy resolves.
        port: its port.
        authenticator: see `ProxyAuthenticator`.

    Returns:
        The connection, and the bytes that were read after the proxy's answer.

    Raises:
        ProxyError: the proxy refused, or what answered is not a proxy.
        Exception: any exception of `connect` or `authenticator`; instead of BrokenResourceError, ProxyError.

    The caller sets the deadline. On any exception, including cancellation, nothing stays open.
    """
    answer = authenticator(proxy)
    challenges: list[str] = []
    stream: trio.abc.Stream | None = None
    connection = h11.Connection(h11.CLIENT)
    is_reusable = False
    try:
        for number in range(MAX_ROUNDS):
            authorization = await answer(challenges)
            if number and authorization is None:
                break
            # The last answer's body is read only now, because it may never arrive, and is not needed to give up.
            if stream is not None and not (is_reusable and await _read_to_end(stream, connection)):
                await trio.aclose_forcefully(stream)
                stream = None
            if stream is None:
                stream = await connect()
                connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
            reply = await _ask(stream, connection, proxy, _request(host, port, authorization))
            response = reply.response
            if 200 <= response.status_code < 300:
                return stream, reply.rest
            challenges = _challenges(response)
            if response.status_code == 401:  # tinyproxy's answer to wrong credentials
                raise _unauthorized(proxy, challenges, 1, 401)
            if response.status_code != 407:
                raise _refusal(proxy, host, port, response)
            is_reusable = reply.is_reusable
        raise _unauthorized(proxy, challenges, number)
    except BaseException as exc:
        if stream is not None:
            await trio.aclose_forcefully(stream)
        if isinstance(exc, trio.BrokenResourceError):
            raise _hung_up(proxy) from exc
        raise


@attrs.frozen
class _Reply:
    """A final answer to CONNECT."""

    response: h11.Response
    #: The bytes that were read after the head. They belong to the tunnel if there is one.
    rest: bytes
    #: Whether the connection can carry another request after the body: the answer says where its body ends, and not
    #: that the connection is closed after it.
    is_reusable: bool = False


def _request(host: str, port: int, authorization: str | None) -> h11.Request:
    target = f"{bracketed(host)}:{port}"
    headers = [("Host", target), ("User-Agent", f"hybridrelay/{__version__}")]
    if authorization is not None:
        headers.append(("Proxy-Authorization", authorization))
    return h11.Request(method="CONNECT", target=target, headers=headers)


async def _ask(stream: trio.abc.Stream, connection: h11.Connection, proxy: Proxy, request: h11.Request) -> _Reply:
    head = connection.send(request)
    end = connection.send(h11.EndOfMessage())
    await stream.send_all((head or b"") + (end or b""))
    received = bytearray()
    try:
        while True:
            while (size := head_size_untrusted(received)) is None:
                more = await stream.receive_some(_CHUNK_BYTES)
                if not more:
                    raise _hung_up(proxy)
                received += more
            head, rest = bytes(received[:size]), bytes(received[size:])
            status = status_untrusted(head)
            if status >= 200:
                return _parse_untrusted(connection, status, head, rest)
            received = bytearray(rest)  # interim answers are ignored
    except (h11.RemoteProtocolError, ValueError) as exc:
        # The exception's text may quote what was received, so it is kept out of this message and only chained.
        raise proxy_error(FailureKind.PROXY_FAILED, proxy, "does not speak HTTP") from exc


def _parse_untrusted(connection: h11.Connection, status: int, head: bytes, rest: bytes) -> _Reply:
    """Parse a final answer. Raises h11.RemoteProtocolError or ValueError if it is not valid."""
    if status >= 300:
        try:
            # Tried with a separate h11 connection, because h11 accepts nothing further after it has rejected a head.
            _response(_waiting_for_answer(), head)
        except h11.RemoteProtocolError:
            return _Reply(_response(_waiting_for_answer(), without_framing(head)), b"")
        connection.receive_data(head + rest)
        response = _next_response(connection)
        has_end = any(name in {b"content-length", b"transfer-encoding"} for name, _ in response.headers)
        return _Reply(response, b"", is_reusable=has_end and connection.our_state is not h11.MUST_CLOSE)
    return _Reply(_response(connection, without_framing(head)), rest)


def _waiting_for_answer() -> h11.Connection:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    connection.send(h11.Request(method="CONNECT", target="x:1", headers=[("Host", "x:1")]))
    connection.send(h11.EndOfMessage())
    return connection


def _response(connection: h11.Connection, head: bytes) -> h11.Response:
    connection.receive_data(head)
    return _next_response(connection)


def _next_response(connection: h11.Connection) -> h11.Response:
    event = connection.next_event()
    if not isinstance(event, h11.Response):
        raise ValueError("not an answer")
    return event


async def _read_to_end(stream: trio.abc.Stream, connection: h11.Connection) -> bool:
    """Read an answer's body, for `BODY_SECONDS` at most. Returns whether the connection can carry another request."""
    left = MAX_BODY_BYTES
    try:
        with trio.move_on_after(BODY_SECONDS):
            while left >= 0:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(bytes(await stream.receive_some(_CHUNK_BYTES)))
                elif isinstance(event, h11.Data):
                    left -= len(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    connection.start_next_cycle()
                    return not connection.trailing_data[0]  # data after the answer was not requested
                else:
                    return False
    except (h11.ProtocolError, trio.BrokenResourceError):
        pass  # the connection cannot be reused
    return False


def _challenges(response: h11.Response) -> list[str]:
    names = {b"proxy-authenticate", b"www-authenticate"}
    return [value.decode("latin-1") for name, value in response.headers if name in names]


def _unauthorized(proxy: Proxy, challenges: Sequence[str], rounds: int, status: int = 407) -> ProxyError:
    schemes = sorted({challenge.split(" ")[0] for challenge in challenges if challenge.strip()})
    offered = quote_untrusted(", ".join(schemes).encode("ascii", "replace")) or "no scheme named"
    if rounds > 1:
        happened, remedy = "still requires authentication after all attempts", None
    elif proxy.username is None:
        happened, remedy = "requires authentication", None
    else:
        happened, remedy = "does not accept the user name and password", "correct the proxy's user name and password"
    if schemes and not any(scheme.lower() == "basic" for scheme in schemes):
        remedy = "this proxy does not take passwords (Basic): see ProxyAuthenticator in docs/connectivity.md"
    return proxy_error(FailureKind.PROXY_AUTHENTICATION, proxy, f"{happened} ({status}; {offered})", remedy=remedy)


def _refusal(proxy: Proxy, host: str, port: int, response: h11.Response) -> ProxyError:
    status = response.status_code
    said = f"{status} {quote_untrusted(response.reason)}".strip()
    address = f"{bracketed(host)}:{port}"
    if 300 <= status < 400 or status == 511:
        return proxy_error(FailureKind.PROXY_REFUSED, proxy, f"answers with a redirect ({said})", remedy=_LOG_IN)
    if status >= 500 and status != 501:  # a server that is not a proxy does not implement CONNECT
        return proxy_error(FailureKind.PROXY_CANNOT_CONNECT, proxy, f"cannot connect to {address} ({said})")
    remedy = _NO_PROXY if status in _LIKE_A_WEB_SERVER else None
    return proxy_error(FailureKind.PROXY_REFUSED, proxy, f"refuses port {port} of {host} ({said})", remedy=remedy)


def _hung_up(proxy: Proxy) -> ProxyError:
    return proxy_error(FailureKind.PROXY_FAILED, proxy, "closed the connection without an answer")
