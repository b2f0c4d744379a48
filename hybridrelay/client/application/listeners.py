"""Chooses the addresses for the hosts of an application, and opens listeners in the network of the machine."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Sequence

import attrs

from ...errors import ConfigurationError
from ...security import HostTarget
from .addresses import BASES, Address, Published
from .interception import Redirected
from .namespaces import listen_at
from .networks import NetworkSetup

__all__ = ["Listening", "listen_for"]

#: How often other addresses are tried if one is taken, as by another run that has chosen the same ones.
_ATTEMPTS = 20


@attrs.define
class Listening:
    """What an application is to see, and the sockets for that, which the caller closes."""

    published: Published
    #: A listener for each published address; empty if the application's process opens them.
    listeners: list[socket.socket] = attrs.field(factory=list)
    #: The socket of the name server.
    names: socket.socket | None = None
    #: Where calls of connect(2) are redirected to.
    redirected: Redirected | None = None

    def close(self) -> None:
        """Close the sockets, because nothing is served there."""
        for one in (*self.listeners, *(() if self.names is None else (self.names,))):
            one.close()


def listen_for(hosts: Sequence[HostTarget], setup: NetworkSetup) -> Listening:
    """Choose addresses, and open listeners there, unless the application has a network of its own.

    Raises:
        ConfigurationError: a listener cannot be opened. None stays open.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        published = Published.of(hosts, random.randrange(BASES))  # noqa: S311 - only to avoid collisions
        if setup.has_network:
            return Listening(published)
        try:
            return _listen(published, setup)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or attempt == _ATTEMPTS:
                raise ConfigurationError(
                    f"cannot {exc.filename or 'listen'}: {exc.strerror or exc}", remedy="try another --network"
                ) from exc
    raise AssertionError


def _listen(published: Published, setup: NetworkSetup) -> Listening:
    with contextlib.ExitStack() as stack:
        if not setup.intercepts:
            return _kept(stack, Listening(published, [_listen_at(stack, one) for one in published.addresses]))
        listeners = [_listen_near(stack, one, published) for one in published.addresses]
        bound: list[Address] = [one.getsockname()[:2] for one in listeners]
        names = None
        if setup.redirects_names:
            names = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            names.bind((published.spare, 0))
        redirected = Redirected(
            dict(zip(published.addresses, bound, strict=True)), None if names is None else names.getsockname()
        )
        return _kept(stack, Listening(published, listeners, names, redirected))


def _kept(stack: contextlib.ExitStack, listening: Listening) -> Listening:
    """Let the sockets stay open."""
    stack.pop_all()
    return listening


def _listen_at(stack: contextlib.ExitStack, address: Address) -> socket.socket:
    return stack.enter_context(listen_at(address))


def _listen_near(stack: contextlib.ExitStack, address: Address, published: Published) -> socket.socket:
    """Listen where connections to an address can be redirected: at the address itself, or at a loopback address."""
    host, _ = address
    if host in published.names.values():
        try:
            return _listen_at(stack, address)
        except OSError:  # a port for root only, or of a server that listens on all addresses
            return _listen_at(stack, (host, 0))
    return _listen_at(stack, ("::1" if ":" in host else published.spare, 0))
