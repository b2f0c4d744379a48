"""How much memory and time one connection may take."""

from __future__ import annotations

import attrs

__all__ = ["Limits"]

_at_least_1 = attrs.validators.ge(1)
_positive = attrs.validators.gt(0)


@attrs.frozen(kw_only=True)
class Limits:
    """Limits of a connection. The defaults suit clients that authenticate in each request.

    A connection holds at most ``max_head_bytes + 2 * read_bytes`` in memory while a head is read, the whole body
    only if the handler reads it as a whole, and at most ``write_bytes`` of a response in addition to what the handler
    created.

    Each read and each write has a deadline. A head and a body each have a second deadline for the whole, because a
    client that sends one byte at a time meets every deadline of a single read.
    """

    #: The length of the request line, most of which is the target. Exceeded: 414. RFC 9112 section 3 recommends at
    #: least 8000.
    max_target_bytes: int = attrs.field(default=8 * 1024, validator=_at_least_1)
    #: The length of the request line and all header fields. Exceeded: 431. h11 and many servers allow 16 KiB.
    max_head_bytes: int = attrs.field(default=16 * 1024, validator=_at_least_1)
    #: The number of header fields, because even a short one takes a few hundred bytes and some time. Exceeded: 431.
    max_fields: int = attrs.field(default=100, validator=_at_least_1)
    #: The length of a request's body, unless its route has a limit of its own. Exceeded: 413.
    max_body_bytes: int = attrs.field(default=64 * 1024, validator=attrs.validators.ge(0))
    #: How much is read at once, and so how much of pipelined requests is held in memory. See also
    #: `Route.until_client_leaves`.
    read_bytes: int = attrs.field(default=8 * 1024, validator=_at_least_1)
    #: How much is written at once. Divided by `write_seconds`, the lowest rate at which a client has to read.
    write_bytes: int = attrs.field(default=64 * 1024, validator=_at_least_1)
    #: The number of requests on one connection. It is closed then, so that load balancers can redistribute clients.
    max_requests: int = attrs.field(default=1000, validator=_at_least_1)
    #: How long a connection may be idle between two requests.
    idle_seconds: float = attrs.field(default=60, validator=_positive)
    #: From the first byte of a head to its last byte. For the first head, from the beginning of the connection.
    head_seconds: float = attrs.field(default=10, validator=_positive)
    #: How long a client may be silent within a body.
    read_seconds: float = attrs.field(default=10, validator=_positive)
    #: How long a whole body may take, from the first read by the handler.
    body_seconds: float = attrs.field(default=60, validator=_positive)
    #: How long the client may take to accept each `write_bytes` of a response. Exceeded: the connection is aborted.
    write_seconds: float = attrs.field(default=10, validator=_positive)
    #: How long a request that no route serves waits for its answer, because no handler limits how often a client
    #: sends such requests. 0: not at all.
    unrouted_seconds: float = attrs.field(default=0, validator=attrs.validators.ge(0))
    #: How much of an unread body is read and dropped in order to keep the connection. If more is left, it is closed.
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
