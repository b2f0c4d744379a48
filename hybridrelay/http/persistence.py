"""What becomes of the connection after a response. No I/O.

It is decided twice: before the response, whose head has to announce a close, and after it.
"""

from __future__ import annotations

import enum

import attrs

from .head import Head
from .limits import Limits

__all__ = ["BodyState", "Next", "announce", "conclude"]


class Next(enum.Enum):
    """What follows a response on the connection."""

    #: The next request.
    KEEP = "keep"
    #: First the rest of the body is read and dropped, within `Limits.drain_bytes`; then the next request.
    DRAIN = "drain"
    #: Nothing. The response says ``Connection: close``.
    CLOSE = "close"


@attrs.frozen
class BodyState:
    """How far the body of a request was read."""

    #: Whether all of it was.
    is_complete: bool
    #: How many bytes are left; None where nobody knows (chunked).
    left: int | None = None
    #: Whether the client still waits for "100 Continue". It may then send the body or leave it out, so that nobody
    #: knows where the next request begins.
    is_waited_for: bool = False


def announce(
    head: Head, body: BodyState, limits: Limits, *, wants_close: bool, is_stopping: bool, served: int
) -> Next:
    """Decide before a response is sent.

    Args:
        head: of the request.
        body: how far it was read so far.
        limits: of the connection.
        wants_close: whether handler or failure ask for it.
        is_stopping: whether the server is about to end.
        served: how many requests were served on this connection, this one included.
    """
    if wants_close or is_stopping or not head.keep_alive or served >= limits.max_requests:
        return Next.CLOSE
    if body.is_complete:
        return Next.KEEP
    if body.is_waited_for or (body.left is not None and body.left > limits.drain_bytes):
        return Next.CLOSE
    return Next.DRAIN


def conclude(announced: Next, body: BodyState, *, is_stopping: bool) -> Next:
    """Decide after the response was sent: meanwhile the body may have been read, and the server told to stop."""
    if announced is Next.CLOSE or is_stopping:
        return Next.CLOSE
    return Next.KEEP if body.is_complete else Next.DRAIN
