"""The sources of a status: a connector, or the clients of a forward, a run or another program.

This module imports neither `connector` nor `client`, so that a connector does not load the client, nor a forward the
connector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

import attrs
import trio

from ..connectivity.snapshot import EndpointSnapshot, TargetCheck, UnappliedSnapshot
from .values import Role

__all__ = ["ClientsSource", "ConnectorSource", "StatusSource"]


#: Returns what is in the files of a program, and not in use.
_Unapplied: TypeAlias = Callable[[], Iterable[UnappliedSnapshot]]


class StatusSource(Protocol):
    """A program whose status is served."""

    @property
    def role(self) -> Role:
        """``connector``; ``forward``, also for ``hybridrelay run``; or ``client`` for a program that opens streams
        itself."""

    def snapshot(self, *, max_sessions: int, max_streams: int) -> EndpointSnapshot:
        """Return the program's current state, with at most this many sessions and streams."""

    async def check_targets(self) -> tuple[TargetCheck, ...]:
        """Return whether the program's targets can be reached; empty if they are not checked."""


class _Endpoint(Protocol):
    def snapshot(self, *, max_sessions: int, max_streams: int) -> EndpointSnapshot: ...


class _Connector(_Endpoint, Protocol):
    async def check_targets(self) -> tuple[TargetCheck, ...]: ...


class ConnectorSource:
    """A connector.

    Args:
        connector: a `Connector`.
        check_targets: whether the connector is ready only if its targets can be reached. Each target is dialed at
            most once a minute, on request.
        unapplied: returns what is in the files of the program, and not in use.
    """

    role: Role = "connector"

    def __init__(self, connector: _Connector, *, check_targets: bool = False, unapplied: _Unapplied = tuple) -> None:
        self._connector = connector
        self._checks_targets = check_targets
        self._unapplied = unapplied

    def snapshot(self, *, max_sessions: int, max_streams: int) -> EndpointSnapshot:
        """See `StatusSource.snapshot`."""
        snapshot = self._connector.snapshot(max_sessions=max_sessions, max_streams=max_streams)
        return attrs.evolve(snapshot, unapplied=(*self._unapplied(), *snapshot.unapplied))

    async def check_targets(self) -> tuple[TargetCheck, ...]:
        """See `StatusSource.check_targets`."""
        if self._checks_targets:
            return await self._connector.check_targets()
        await trio.lowlevel.checkpoint()
        return ()


class ClientsSource:
    """One or several clients of a program.

    Args:
        clients: returns the current `Client`s.
        role: ``forward`` or ``client``.
        unapplied: returns what is in the files of the program, and not in use.
    """

    def __init__(
        self, clients: Callable[[], Iterable[_Endpoint]], *, role: Role = "client", unapplied: _Unapplied = tuple
    ) -> None:
        self._clients = clients
        self._unapplied = unapplied
        self.role: Role = role

    def snapshot(self, *, max_sessions: int, max_streams: int) -> EndpointSnapshot:
        """See `StatusSource.snapshot`."""
        several = [client.snapshot(max_sessions=max_sessions, max_streams=max_streams) for client in self._clients()]
        merged = EndpointSnapshot.merged(several, max_sessions=max_sessions, max_streams=max_streams)
        return attrs.evolve(merged, unapplied=tuple(self._unapplied()))

    async def check_targets(self) -> tuple[TargetCheck, ...]:
        """Return nothing, because a client does not know its targets."""
        await trio.lowlevel.checkpoint()
        return ()
