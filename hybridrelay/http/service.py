"""The configuration of a server: routes, limits and hooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import attrs

from .._unexpected_failure import unexpected_failure
from .._value import Value
from ..events.log import logged_events
from .failure import RenderFailure, plain_text
from .limits import Limits
from .request import Handler
from .router import Router

__all__ = ["Access", "HandlerFailed", "Service", "publish_crash"]


@attrs.frozen(kw_only=True)
class Access(Value):
    """One request and its response, for logs and metrics. The peer has chosen `method` and `path`, so escape them."""

    #: None if the request could not be parsed.
    method: str | None
    #: Percent-encoded, so it consists of visible ASCII characters. None if the request could not be parsed.
    path: str | None
    #: The pattern of the route, for metrics, whose labels must not be unbounded. None if no route matched.
    pattern: str | None
    #: What the caller of `serve_connection` knows about the peer.
    peer: object = attrs.field(repr=False)
    #: The status of the response; None if none was sent.
    status: int | None
    #: Whether the whole response was passed to the operating system. Whether the client has received it is unknown.
    is_complete: bool
    #: How many bytes of the request's body were read.
    received_bytes: int
    #: The size of the response, including its head (bytes).
    sent_bytes: int
    #: How long it took from the complete head of the request to the end of the response (seconds).
    seconds: float


class HandlerFailed(Exception):
    """Represents the exception of a request handler in the log: its type and traceback, without its message."""


def publish_crash(exc: Exception) -> None:
    """Publish where a handler failed, without the exception's message, which may contain what the peer sent.

    The event is only logged.
    """
    failed = HandlerFailed(type(exc).__name__).with_traceback(exc.__traceback__)
    logged_events().publish(unexpected_failure("a request handler", failed))


@attrs.frozen(kw_only=True, eq=False)
class Service:
    """Everything that is common to all connections of a server. Immutable."""

    router: Router[Handler]
    limits: Limits = attrs.field(factory=Limits)
    #: The host names that requests may be for, in lower case and without port. Others are answered with 421, so that
    #: a web page cannot reach the server through a name of its own that resolves to this address (DNS rebinding).
    #: None allows every name.
    hosts: Collection[str] | None = None
    #: Makes the response for a failure.
    render_failure: RenderFailure = plain_text
    #: Called at the end of every request. Must not raise.
    on_access: Callable[[Access], None] | None = None
    #: Called when a handler raised an unexpected exception, after the client was answered with 500. An exception from
    #: this hook propagates out of `serve_connection`.
    on_crash: Callable[[Exception], None] = publish_crash
    #: Returns seconds since 1970, for the Date field.
    clock: Callable[[], float] = time.time
