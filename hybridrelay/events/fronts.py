"""Events of what all hybrid connections of a forward share: its fronts, and its name server."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = [
    "FrontListening",
    "FrontOpenToOthers",
    "FrontRequestRefused",
    "NameServerListening",
    "NameServerOpenToOthers",
]


@attrs.frozen(kw_only=True)
class FrontListening(Event):
    """A front accepts connections."""

    name: ClassVar = "front.listening"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A front of this forward is listening"

    #: ``socks`` or ``http-proxy``.
    front: str
    #: The local addresses.
    addresses: tuple[str, ...]


@attrs.frozen(kw_only=True)
class FrontOpenToOthers(Event):
    """Other machines can connect to a front, because it does not listen on a loopback address."""

    name: ClassVar = "front.open-to-others"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Other machines can connect to a front of this forward"

    front: str
    addresses: tuple[str, ...]
    #: Whether they need a user name and a password.
    requires_password: bool


@attrs.frozen(kw_only=True)
class NameServerListening(Event):
    """The name server of a forward answers queries."""

    name: ClassVar = "name-server.listening"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The name server of this forward is listening"

    #: The local addresses.
    addresses: tuple[str, ...]


@attrs.frozen(kw_only=True)
class NameServerOpenToOthers(Event):
    """Other machines can query the name server, because it does not listen on a loopback address."""

    name: ClassVar = "name-server.open-to-others"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Other machines can query the name server of this forward"

    addresses: tuple[str, ...]


@attrs.frozen(kw_only=True)
class FrontRequestRefused(Event):
    """A front has refused a request, before any hybrid connection was involved."""

    name: ClassVar = "front.request-refused"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A front has refused a request"

    front: str
    #: The address of the application; ``unix`` if it has connected to a Unix socket.
    peer: str
    #: The host and port that it wants, if they are known.
    wanted: str = ""
    detail: str
