"""What the fronts have in common: an application says, in a proxy's protocol, which host and port it wants. Pure.

A front is a local port or Unix socket that many hybrid connections share. `socks.py` and `http_connect.py` are its
two protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from ..._value import Value
from ...protocol.reasons import Category, Reason
from ...security.names import HostPort, check_host, normal_host, parse_port_untrusted

__all__ = ["Cause", "CheckUser", "FrontHandshake", "FrontRefusal", "Step", "cause_of", "wanted_host"]

#: Returns whether a user name and a password are accepted. Takes the bytes that the application has sent.
CheckUser = Callable[[bytes, bytes], bool]


class FrontRefusal(Exception):
    """The application asks for something that a front does not offer. The text says why, without quoting the request.

    `reply` is to be sent before the connection is closed; it may be empty.
    """

    def __init__(self, text: str, reply: bytes = b"") -> None:
        super().__init__(text)
        self.reply = reply


@attrs.frozen
class Step(Value):
    """What follows from some received bytes."""

    #: How many of them belong to the handshake. What follows them is for the target.
    consumed: int
    #: To be sent now.
    reply: bytes = b""
    #: What the application wants, with the host in normal form; None if the handshake is not complete.
    wanted: HostPort | None = None


class FrontHandshake(Protocol):
    """The protocol of a front, for one connection. It does no I/O."""

    def receive_untrusted(self, data: bytes) -> Step:
        """Add received bytes. After a step with `wanted`, call one of the other methods.

        Raises:
            FrontRefusal: see there. Nothing else is raised, whatever was received.
        """

    def opened(self) -> bytes:
        """Return what to send before the target's bytes."""

    def not_published(self) -> bytes:
        """Return what to send if this forward does not publish what the application wants."""

    def failed(self, reason: Reason, text: str) -> bytes:
        """Return what to send if no stream can be opened.

        Args:
            reason: why.
            text: a sentence for people.
        """


@attrs.frozen
class Cause(Value):
    """Why no stream was opened, as the protocols of fronts can tell it."""

    #: The reply of SOCKS5 (RFC 1928, section 6).
    socks: int
    #: The status of HTTP (RFC 9110, section 15).
    status: int
    #: The error type of Proxy-Status (RFC 9209, section 2.3).
    error: str


_DENIED = Cause(2, 403, "http_request_denied")
_UNAVAILABLE = Cause(1, 503, "destination_unavailable")
_NO_WAY = Cause(3, 503, "destination_unavailable")
_FAILED = Cause(1, 502, "proxy_internal_error")
_BY_REASON: Mapping[Reason, Cause] = {
    Reason.TARGET_REFUSED: Cause(5, 502, "connection_refused"),
    Reason.TARGET_RESET: Cause(5, 502, "connection_terminated"),
    Reason.TARGET_UNREACHABLE: Cause(4, 502, "destination_ip_unroutable"),
    Reason.TARGET_NAME_NOT_FOUND: Cause(4, 502, "dns_error"),
    Reason.TARGET_NAME_SERVICE_FAILED: Cause(4, 502, "dns_timeout"),
    Reason.TARGET_TIMEOUT: Cause(6, 504, "connection_timeout"),
    Reason.DENIED_BY_POLICY: _DENIED,
    Reason.PORT_NOT_PUBLISHED: _DENIED,
    Reason.LIMIT: Cause(1, 503, "connection_limit_reached"),
    Reason.OUT_OF_RESOURCES: Cause(1, 503, "connection_limit_reached"),
    Reason.INTERNAL_ERROR: _FAILED,
    Reason.PROTOCOL_ERROR: _FAILED,
}
_BY_CATEGORY: Mapping[Category, Cause] = {
    Category.STREAM: _FAILED,
    Category.SESSION: _UNAVAILABLE,
    Category.IDENTITY: _DENIED,
    Category.AUTHORIZATION: _DENIED,
    Category.RENDEZVOUS: _NO_WAY,
    Category.RELAY_PORT: _NO_WAY,
    Category.QUOTA: Cause(1, 503, "connection_limit_reached"),
}


def cause_of(reason: Reason) -> Cause:
    """Return how the protocols of fronts tell a reason."""
    return _BY_REASON.get(reason) or _BY_CATEGORY.get(reason.category, _FAILED)


def wanted_host(host: str, port: int) -> HostPort | None:
    """Return what an application wants, with the host in normal form; None if it is not a valid host and port."""
    try:
        return HostPort(normal_host(check_host(host)), parse_port_untrusted(str(port)))
    except ValueError:
        return None
