"""What is served, and what is told about it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Collection

import attrs

from .failure import RenderFailure, plain_text
from .limits import Limits
from .request import Handler
from .router import Router

__all__ = ["Access", "Service", "log_crash"]

logger = logging.getLogger("hybridrelay.http")


@attrs.frozen(kw_only=True)
class Access:
    """A request that was served, for a log or for counters. Whoever writes it down escapes what the peer chose."""

    #: What the peer sent; None where it could not be parsed.
    method: str | None
    #: Percent-encoded: visible ASCII characters. None as `method`.
    path: str | None
    #: The pattern of the route, for labels that have to be few; None without a route.
    pattern: str | None
    #: What the caller of `serve_connection` knows of the peer.
    peer: object = attrs.field(repr=False)
    #: Of the response; None where none was begun.
    status: int | None
    #: Whether the whole response was handed to the system. Whether the client got it, nobody knows.
    is_complete: bool
    #: Bytes of the request's body that were read.
    received_bytes: int
    #: Bytes of the response, its head included.
    sent_bytes: int
    #: From the complete head to the end of the response (seconds).
    seconds: float


def log_crash(exc: Exception) -> None:
    """Write to the log where a handler failed. Without the exception's message, which may quote the peer."""
    stack = "".join(traceback.format_tb(exc.__traceback__))
    logger.error("a request handler failed with %s; this is a bug\n%s", type(exc).__name__, stack)


@attrs.frozen(kw_only=True, eq=False)
class Service:
    """What connections are served with. One for a whole server; immutable."""

    router: Router[Handler]
    limits: Limits = attrs.field(factory=Limits)
    #: The names by which clients may call this server, in lower case and without port; others are answered 421, so
    #: that no web page can reach it through a name of its own that resolves to this address (DNS rebinding).
    #: None: any name.
    hosts: Collection[str] | None = None
    #: What clients get for a failure.
    render_failure: RenderFailure = plain_text
    #: Called at the end of every request. Must not raise.
    on_access: Callable[[Access], None] | None = None
    #: Called when a handler raised what it should not, after the client got its 500. What it raises leaves
    #: `serve_connection`.
    on_crash: Callable[[Exception], None] = log_crash
    #: Seconds since the epoch, for the Date field.
    clock: Callable[[], float] = time.time
