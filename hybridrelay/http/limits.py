"""What one connection may cost: bytes that are held for it, and seconds that are waited for it."""

from __future__ import annotations

import attrs

__all__ = ["Limits"]

_at_least_1 = attrs.validators.ge(1)
_positive = attrs.validators.gt(0)


@attrs.frozen(kw_only=True)
class Limits:
    """Limits of a connection. The defaults suit clients that have authenticated or are about to.

    In memory a connection holds at most ``max_head_bytes + 2 * read_bytes`` while a request is read, a body only
    where the handler asks for the whole of it, and no more than ``write_bytes`` of a response in addition to what the
    handler made.

    Every read and every write has a deadline, and so has everything that consists of many of them, because a client
    that sends or takes one byte now and then meets any deadline of a single operation.
    """

    #: The request line, which is mostly the target. Beyond it: 414. RFC 9112 section 3 recommends 8000 at least.
    max_target_bytes: int = attrs.field(default=8 * 1024, validator=_at_least_1)
    #: The request line and all header fields. Beyond it: 431. h11, and many servers, have 16 KiB.
    max_head_bytes: int = attrs.field(default=16 * 1024, validator=_at_least_1)
    #: Each field costs a few hundred bytes and some time, however short it is. Beyond it: 431.
    max_fields: int = attrs.field(default=100, validator=_at_least_1)
    #: The body of a request, unless its route says otherwise. Beyond it: 413.
    max_body_bytes: int = attrs.field(default=64 * 1024, validator=attrs.validators.ge(0))
    #: How much is read at once, and thereby how much of the requests that follow is held (pipelining).
    read_bytes: int = attrs.field(default=8 * 1024, validator=_at_least_1)
    #: How much is written at once. With `write_seconds` this is the lowest rate at which a client has to read.
    write_bytes: int = attrs.field(default=64 * 1024, validator=_at_least_1)
    #: Requests on one connection; it is closed after the last. Ends what leaks, and lets a load balancer spread anew.
    max_requests: int = attrs.field(default=1000, validator=_at_least_1)
    #: How long a connection may be silent between two requests.
    idle_seconds: float = attrs.field(default=60, validator=_positive)
    #: From the first byte of a head to its last one; for the first request on a connection, from its beginning.
    head_seconds: float = attrs.field(default=10, validator=_positive)
    #: How long a client may be silent within a body.
    read_seconds: float = attrs.field(default=10, validator=_positive)
    #: How long a whole body may take, from the first read by the handler.
    body_seconds: float = attrs.field(default=60, validator=_positive)
    #: For each `write_bytes` of a response. The connection is aborted after it.
    write_seconds: float = attrs.field(default=10, validator=_positive)
    #: How much of a body that the handler did not read is read and dropped to keep the connection. Where more is
    #: left, it is closed.
    drain_bytes: int = attrs.field(default=64 * 1024, validator=attrs.validators.ge(0))
    #: How long that may take.
    drain_seconds: float = attrs.field(default=2, validator=_positive)
    #: How much is read and dropped after the last response, so that the client can read it: closing a connection with
    #: unread input resets it, and the reset overtakes the response.
    linger_bytes: int = attrs.field(default=64 * 1024, validator=attrs.validators.ge(0))
    #: How long that may take.
    linger_seconds: float = attrs.field(default=1, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if self.max_target_bytes > self.max_head_bytes:
            raise ValueError("max_target_bytes cannot be more than max_head_bytes")
