"""Events of connectivity: transports, routes, and commands that lead to a relay."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = [
    "BetterRouteRejected",
    "CommandFailed",
    "CommandPrinted",
    "RelayLeftOut",
    "TLSIntercepted",
    "TransportUnusable",
]


@attrs.frozen(kw_only=True)
class TransportUnusable(Event):
    """A transport that is installed cannot be used; the others are."""

    name: ClassVar = "transport.unusable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A transport is installed, but cannot be used"

    transport: str
    #: Where it is: ``package:attribute``.
    entry_point: str
    detail: str


@attrs.frozen(kw_only=True)
class RelayLeftOut(Event):
    """One of several relays serves no port that the mode could use."""

    name: ClassVar = "relay.left-out"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A relay of a connection string cannot be used, and the others are"

    detail: str
    remedy: str = ""


@attrs.frozen(kw_only=True)
class BetterRouteRejected(Event):
    """A probe succeeded over a better route, but nothing else works over it."""

    name: ClassVar = "route.better-rejected"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A route that looked better does not work, and the earlier one stays in use"

    host: str
    #: The route that stays in use.
    route: str
    detail: str


@attrs.frozen(kw_only=True)
class TLSIntercepted(Event):
    """Something between here and the relay intercepts the outer TLS; it sees no plaintext of control or data."""

    name: ClassVar = "tls.intercepted"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The outer TLS is intercepted; the interceptor sees no plaintext"

    host: str
    #: The name in the interceptor's certificate.
    issuer: str


@attrs.frozen(kw_only=True)
class CommandFailed(Event):
    """A command whose standard input and output lead to a relay ended by itself with an exit code that is not 0."""

    name: ClassVar = "command.failed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A command that leads to a relay has ended with an error"

    command: str
    code: int


@attrs.frozen(kw_only=True)
class CommandPrinted(Event):
    """A line that such a command has written to its standard error."""

    name: ClassVar = "command.printed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A command that leads to a relay says"

    command: str
    #: At most 500 bytes, printable.
    detail: str
