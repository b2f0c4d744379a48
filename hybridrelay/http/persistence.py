"""Decides whether a connection is kept after a response. No I/O.

There is a decision before the response, whose head has to announce a close, and another one after it.
"""

from __future__ import annotations

import enum

import attrs

from .._value import Value
from .head import Head
from .limits import Limits

__all__ = ["BodyState", "Next", "announce", "conclude"]


class Next(enum.Enum):
    """What happens on the connection after a response."""

    #: The next request is read.
    KEEP = "keep"
    #: The rest of the body is read and dropped, within `Limits.drain_bytes`; then the next request is read.
    DRAIN = "drain"
    #: The connection is closed. If this is decided before the response, the response says ``Connection: close``.
    CLOSE = "close"


@attrs.frozen
class BodyState(Value):
    """How much of a request's body was read."""

    #: Whether all of it was read.
    is_complete: bool
    #: How many bytes are left; None if that is unknown (chunked).
    left: int | None = None
    #: Whether the client still waits for "100 Continue". It may then omit the body or send it after all, so it is
    #: unknown where the next request begins.
    is_waited_for: bool = False


def announce(
    head: Head, body: BodyState, limits: Limits, *, wants_close: bool, is_stopping: bool, served: int
) -> Next:
    """Decide before a response is sent.

    Args:
        head: the head of the request.
        body: how much of the body was read so far.
        limits: the limits of the connection.
        wants_close: whether the handler's response requires the connection to be closed.
        is_stopping: whether a shutdown was requested.
        served: the number of requests on this connection so far, including this one.
    """
    if wants_close or is_stopping or not head.keep_alive or served >= limits.max_requests:
        return Next.CLOSE
    if body.is_complete:
        return Next.KEEP
    if body.is_waited_for or (body.left is not None and body.left > limits.drain_bytes):
        return Next.CLOSE
    return Next.DRAIN


def conclude(announced: Next, body: BodyState, *, is_stopping: bool) -> Next:
    """Decide after the response, during which the body may have been read or the shutdown requested."""
    if announced is Next.CLOSE or is_stopping:
        return Next.CLOSE
    return Next.KEEP if body.is_complete else Next.DRAIN
