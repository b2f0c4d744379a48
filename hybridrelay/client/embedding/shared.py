"""The clients in the background thread that sockets share: one for each configuration.

A client stays open as long as the process runs, even while no socket is open. So a further socket needs no handshake,
and when a key is rolled, the client is there to get the new one. If there are very many clients, those without
sockets that were not used for a new one for the longest time are closed.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import trio

from ..._nursery import FlatNursery
from ...errors import ConfigurationError, StreamRefused
from ...mux import open_bridges
from ...protocol.reasons import Reason
from ...security import ConnectionString
from ..client import Client, open_client
from ..config import ClientConfig
from ..ingress.connections import OPEN_SECONDS, Connections
from .background import Background

__all__ = ["as_config", "check_port", "check_timeout", "open_in_background"]

#: If there are this many clients and another one is needed, one without sockets is closed, if there is one: the one
#: that was not used for a new socket for the longest time. Each client holds two connections to a relay.
MAX_CLIENTS = 64
#: The fraction of the timeout during which attempts to open a session are repeated. After that, the error of the last
#: attempt is raised; without this, the error would always be that the time has passed.
_PATIENCE_PART = 0.9

_logger = logging.getLogger(__name__)


class SharedClient:
    """A client whose streams are the connections of sockets. It ends when the thread stops, or `end` is called."""

    def __init__(self, config: ClientConfig, stopping: trio.Event) -> None:
        self.config = config
        self._stopping = stopping
        self._client: Client | None = None
        self._connections: Connections | None = None
        #: Set when the client can be used, or has failed.
        self._started = trio.Event()
        self._failure: Exception | None = None
        #: How many sockets are being opened.
        self._opening = 0
        #: When a socket was last opened with it, or could not be opened, on Trio's clock.
        self.used_at = trio.current_time()
        self._waiting = trio.CancelScope()

    def serves(self, config: ClientConfig) -> bool:
        """Return whether this client can be used for a configuration: it is the client's own, or differs only in that
        it has the connection string that the client uses now. (The client has stored a change in a file, which the
        program has read again.)"""
        if self._client is None or config.string == self.config.string:
            return config == self.config
        return config == attrs.evolve(self.config, string=self._client.connection_string)

    @property
    def is_used(self) -> bool:
        """Whether the client has sockets, or is opening one."""
        return bool(self._opening or self._connections)

    def end(self) -> None:
        """End the client, which must not be in use."""
        self._waiting.cancel()

    async def connect(self, port: int | None, patience: float | None) -> socket.socket:
        """Return a socket that is connected to the target. See `Connections.connect`."""
        with self._using():
            await self._started.wait()
            if self._failure is not None:
                raise self._failure
            assert self._connections is not None
            return await self._connections.connect(port=port, patience=patience)

    @contextmanager
    def _using(self) -> Iterator[None]:
        self._opening += 1
        try:
            yield
        finally:
            self._opening -= 1
            self.used_at = trio.current_time()

    async def run(self, clients: list[SharedClient]) -> None:
        """Serve until the thread stops, or `end` is called. At the end, the client is removed from the list."""
        try:
            async with open_client(self.config) as client, open_bridges() as bridges, FlatNursery() as waiting:
                self._client, self._connections = client, Connections(client, bridges, waiting)
                self._started.set()
                with self._waiting:
                    await self._stopping.wait()
                await self._connections.end_programs()
        except ConfigurationError as exc:
            self._failure = exc
        except Exception as exc:
            self._failure = exc
            _logger.exception("the client of %s has failed", self.config.string.entity_path)
        finally:
            self._started.set()
            if self in clients:
                clients.remove(self)


#: The clients of the running background thread.
_CLIENTS: trio.lowlevel.RunVar[list[SharedClient]] = trio.lowlevel.RunVar("hybridrelay shared clients")


async def open_in_background(
    thread: Background, config: ClientConfig, port: int | None, timeout: float | None
) -> socket.socket:
    """Return a socket that is connected to the target of a hybrid connection. For use in the background thread.

    Args:
        thread: the running thread.
        config: the client's configuration. Sockets with an equal one share the client, and so its session.
        port: which port of the target, if the hybrid connection has several; None: the first one.
        timeout: how long it may take (seconds); None means 30, or the client's `open_patience` if that is longer.

    Raises:
        HybridRelayError: no stream could be opened.
    """
    seconds = max(OPEN_SECONDS, config.open_patience) if timeout is None else timeout
    patience = config.open_patience if timeout is None else min(config.open_patience, seconds * _PATIENCE_PART)
    try:
        with trio.fail_after(seconds):
            return await _find(thread, config).connect(port, patience)
    except trio.TooSlowError as exc:
        raise StreamRefused(
            f"no stream to the target of {config.string.entity_path} could be opened within {seconds:g} s",
            reason=Reason.PEER_SILENT,
            remedy="run 'hybridrelay probe' with the connection string on this machine: it shows whether a relay can "
            "be reached. If it can, look at the log of the connector",
        ) from exc


def _find(thread: Background, config: ClientConfig) -> SharedClient:
    try:
        clients = _CLIENTS.get()
    except LookupError:
        clients = []
        _CLIENTS.set(clients)
    for one in clients:
        if one.serves(config):
            return one
    if len(clients) >= MAX_CLIENTS:
        unused = [one for one in clients if not one.is_used]
        if unused:
            oldest = min(unused, key=lambda one: one.used_at)
            clients.remove(oldest)
            oldest.end()
    made = SharedClient(config, thread.stopping)
    clients.append(made)
    thread.services.start_soon(made.run, clients)
    return made


def as_config(config: ClientConfig | ConnectionString | str) -> ClientConfig:
    """Return the configuration, made from a connection string if it is one.

    Raises:
        HybridRelayError, TypeError: see `ClientConfig`.
    """
    return config if isinstance(config, ClientConfig) else ClientConfig(config)


def check_port(port: int | None) -> int | None:
    """Return the port of a target if it is a valid one, or None.

    Raises:
        ValueError: it is not.
    """
    if port is not None and not 1 <= port <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return port


def check_timeout(seconds: float | None) -> float | None:
    """Return the time if it is a valid one.

    Raises:
        ValueError: it is negative or not a number.
    """
    if seconds is not None and not seconds >= 0:  # also true for NaN
        raise ValueError("timeout is a number of seconds, 0 or more, or None")
    return seconds
