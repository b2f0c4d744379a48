"""How much memory and time one connection may take."""

from __future__ import annotations

import attrs

from .._value import Value

__all__ = ["Limits"]

_at_least_1 = attrs.validators.ge(1)
_positive = attrs.validators.gt(0)


@attrs.frozen(kw_only=True)
class Limits(Value):
    """Limits of a connection. The defaults suit clients that authenticate in each request.

    A connection takes at most ``max_head_bytes + 2 * read_bytes`` of memory while a head is read, and at most
    ``write_bytes`` for a response in addition to what the handler created. It holds the whole body only if the
    handler reads it as a whole.

    Each read and each write has a deadline. A head and a body also have a deadline for the whole, because a client
    that sends one byte at a time meets the deadline of every single read.

    Raises:
        ValueError: a limit is too low, or `max_target_bytes` is more than `max_head_bytes`.
    """

    #: The maximum length of the request line, most of which is the target (status 414 if exceeded). RFC 9112 section
    #: 3 recommends at least 8000.
    max_target_bytes: int = attrs.field(default=8 * 1024, validator=_at_least_1)
    #: The maximum length of the request line and all header fields (status 431 if exceeded). h11 and many servers
    #: allow 16 KiB.
    max_head_bytes: int = attrs.field(default=16 * 1024, validator=_at_least_1)
    #: The maximum number of header fields, because even a short one takes a few hundred bytes and some time (status
    #: 431 if exceeded).
    max_fields: int = attrs.field(default=100, validator=_at_least_1)
    #: The maximum length of a request's body, unless its route has a limit of its own (status 413 if exceeded).
    max_body_bytes: int = attrs.field(default=64 * 1024, validator=attrs.validators.ge(0))
    #: How much one read returns at most, and so how many bytes of pipelined requests are held in memory. See also
    #: `Route.until_client_leaves`.
    read_bytes: int = attrs.field(default=8 * 1024, validator=_at_least_1)
    #: How much one write contains at most. Divided by `write_seconds`, this is the lowest rate at which a client has
    #: to read.
    write_bytes: int = attrs.field(default=64 * 1024, validator=_at_least_1)
    #: The maximum number of requests on one connection. It is closed after that, so that load balancers can
    #: redistribute clients.
    max_requests: int = attrs.field(default=1000, validator=_at_least_1)
    #: How long a connection may be idle between two requests.
    idle_seconds: float = attrs.field(default=60, validator=_positive)
    #: How long a head may take from its first to its last byte. For the first head, this runs from the beginning of
    #: the connection.
    head_seconds: float = attrs.field(default=10, validator=_positive)
    #: How long a client may be silent within a body.
    read_seconds: float = attrs.field(default=10, validator=_positive)
    #: How long a whole body may take, from the first read by the handler.
    body_seconds: float = attrs.field(default=60, validator=_positive)
    #: How long the client may take to accept each `write_bytes` of a response. After that, the connection is aborted.
    write_seconds: float = attrs.field(default=10, validator=_positive)
    #: How long to delay the answer to a request that no route serves. This limits the rate of such requests, because
    #: no handler is called that could limit it. 0 means no delay.
    unrouted_seconds: float = attrs.field(default=0, validator=attrs.validators.ge(0))
    #: How much of an unread body is read and dropped in order to keep the connection. If more is left, the connection
    #: is closed.
    drain_bytes: int = attrs.field(default=64 * 1024, validator=attrs.validators.ge(0))
    #: How long reading the unread body may take.
    drain_seconds: float = attrs.field(default=2, validator=_positive)
    #: How much is read and dropped after the last response. Closing a connection with unread input resets it, and the
    #: reset would discard the response before the client has read it.
    linger_bytes: int = attrs.field(default=64 * 1024, validator=attrs.validators.ge(0))
    #: How long reading after the last response may take.
    linger_seconds: float = attrs.field(default=1, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if self.max_target_bytes > self.max_head_bytes:
            raise ValueError("max_target_bytes cannot be more than max_head_bytes")
