"""The HTTP service on the relay's ports 80 and 443, with two routes: the WebSocket and a health check.

`hybridrelay.http` parses the request and answers. Its limits are tight here, because the client has not authenticated
yet. Every connection is closed after its response.
"""

from __future__ import annotations

import base64
import hashlib

import trio

from hybridrelay.errors import TransportError
from hybridrelay.http import (
    ClientGone,
    Failure,
    Limits,
    Request,
    RequestError,
    Response,
    Route,
    Router,
    Service,
    SwitchProtocols,
    Upgraded,
    serve_connection,
    text_response,
)
from hybridrelay.streams.nowait import HELD_FOR_STRANGER, SMALL_READ_BYTES

from .names import PATH, SUBPROTOCOL

__all__ = ["HEALTH_PATH", "LIMITS", "http_service", "serve_http"]

HEALTH_PATH = "/healthz"

#: The limits before authentication. The relay also has a deadline for everything before authentication, which is
#: shorter than the sum of these times.
LIMITS = Limits(
    # Enough for a proxy's cookies and tracing headers. It is also the limit for a record of the outer TLS.
    max_target_bytes=HELD_FOR_STRANGER,
    max_head_bytes=HELD_FOR_STRANGER,
    # No route reads a body.
    drain_bytes=0,
    read_bytes=SMALL_READ_BYTES,
    max_requests=1,
    head_seconds=15,
    write_seconds=5,
)
#: RFC 6455 section 1.3.
_ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def serve_http(stream: trio.abc.Stream, service: Service) -> Upgraded | None:
    """Serve one connection. See `http_service`.

    Returns:
        The connection, if its upgrade to a WebSocket was accepted; None if it was answered in another way.

    Raises:
        TransportError: the client does not speak HTTP, or has closed the connection.

    Unless the connection is returned, the stream is closed.
    """
    try:
        return await serve_connection(stream, service)
    except RequestError as exc:
        raise TransportError(f"answered with HTTP status {exc.failure.status}: {exc.failure.detail}") from exc
    except ClientGone as exc:
        raise TransportError(f"during HTTP: {exc}") from exc


async def _health(_request: Request) -> Response:
    return text_response(200, "ok")


async def _upgrade(request: Request) -> SwitchProtocols | Failure:
    """Accept the WebSocket handshake (RFC 6455 sections 4.2.1 and 4.2.2), with our subprotocol."""
    headers = request.headers
    if (
        request.method != "GET"
        or not request.is_http11
        or "websocket" not in headers.tokens("upgrade")
        or "upgrade" not in headers.tokens("connection")
    ):
        return Failure(426, "this is a WebSocket", (("Upgrade", "websocket"),))
    if headers.tokens("sec-websocket-version") != ["13"]:
        needed = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))
        return Failure(426, "WebSocket version 13 is needed", needed)
    key = headers.get("sec-websocket-key")
    if key is None or not _is_key(key):
        return Failure(400, "Sec-WebSocket-Key is missing or malformed")
    if SUBPROTOCOL not in headers.tokens("sec-websocket-protocol"):
        return Failure(400, f"the subprotocol {SUBPROTOCOL} is needed")
    if request.body.length != 0:
        return Failure(400, "an upgrade request has no body")
    accept = base64.b64encode(hashlib.sha1(key.encode("ascii") + _ACCEPT_SUFFIX, usedforsecurity=False).digest())
    return SwitchProtocols(
        (
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Accept", accept.decode("ascii")),
            ("Sec-WebSocket-Protocol", SUBPROTOCOL),
        )
    )


def _is_key(value: str) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except ValueError:  # binascii.Error, or characters beyond ASCII
        return False


def _raise(exc: Exception) -> None:
    raise exc


def http_service(path_prefix: str = "") -> Service:
    """Return the service: the WebSocket at `PATH`, also below `path_prefix`, and a health check."""
    paths = dict.fromkeys((PATH, path_prefix + PATH))
    return Service(
        router=Router([Route("GET", HEALTH_PATH, _health), *(Route("GET", path, _upgrade) for path in paths)]),
        limits=LIMITS,
        # Raise the exception, because the relay logs what a handshake raises.
        on_crash=_raise,
    )
