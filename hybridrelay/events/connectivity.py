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
    "RouteRejected",
    "TLSIntercepted",
    "TransportUnusable",
]


@attrs.frozen(kw_only=True)
class TransportUnusable(Event):
    """An installed transport cannot be used. The other transports are used."""

    name: ClassVar = "transport.unusable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A transport is installed but cannot be used"

    transport: str
    #: The transport's entry point: ``package:attribute``.
    entry_point: str
    detail: str


@attrs.frozen(kw_only=True)
class RelayLeftOut(Event):
    """One of several relays has no port that can be used in the selected mode."""

    name: ClassVar = "relay.left-out"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A relay of a connection string cannot be used; the others are used"

    detail: str
    remedy: str = ""


@attrs.frozen(kw_only=True)
class BetterRouteRejected(Event):
    """A probe over a better route succeeded, but then nothing could be moved to it: a connector could not open a
    control channel over it, or a client could not move its sessions."""

    name: ClassVar = "route.better-rejected"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A route that looked better does not work; the current one stays in use"

    host: str
    #: The route that stays in use.
    route: str
    detail: str


@attrs.frozen(kw_only=True)
class RouteRejected(Event):
    """A route had passed the probe, but data channels that used it failed. It did not pass the thorough check that
    followed, at least not before another route worked."""

    name: ClassVar = "route.rejected"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A route that had passed the probe does not carry data channels; another one is used"

    host: str
    #: The route that does not work.
    route: str
    #: The route that is used instead.
    used: str
    detail: str
    remedy: str = ""


@attrs.frozen(kw_only=True)
class TLSIntercepted(Event):
    """Something on the path to the relay intercepts the outer TLS. It cannot decrypt control and data channels."""

    name: ClassVar = "tls.intercepted"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The outer TLS is intercepted; the interceptor sees no plaintext"

    host: str
    #: The name in the interceptor's certificate.
    issuer: str


@attrs.frozen(kw_only=True)
class CommandFailed(Event):
    """A command whose standard input and output lead to a relay has exited by itself with a code other than 0."""

    name: ClassVar = "command.failed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A command that leads to a relay has failed"

    command: str
    code: int


@attrs.frozen(kw_only=True)
class CommandPrinted(Event):
    """A command that leads to a relay has written a line to its standard error."""

    name: ClassVar = "command.printed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A command that leads to a relay has written to standard error"

    command: str
    #: The line: printable, at most 500 bytes.
    detail: str
