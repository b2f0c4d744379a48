"""Serves the status of a connector, `forward` or `run` while it runs (``--status``)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from .._changing_listeners import change_listeners
from .._nursery import FlatNursery
from ..events.stream import EventStream

if TYPE_CHECKING:
    from ..monitoring import StatusSource

__all__ = ["StatusServer"]

#: A value of ``--status``.
_Where: TypeAlias = Path | tuple[str, int]


@attrs.frozen(eq=False)
class _Served:
    """A place at which the status is served."""

    #: The addresses, with the actual port in place of port 0.
    address: str
    scope: trio.CancelScope
    ended: trio.Event

    async def end(self) -> None:
        self.scope.cancel()
        with trio.CancelScope(shield=True):
            await self.ended.wait()


class StatusServer:
    """Serves the status of the program at a place that may be changed. It is made when the program starts.

    Args:
        make_source: returns the source of the status.
        stop: set when the program is to stop.
        events: the stream to which events are published.
    """

    def __init__(self, make_source: Callable[[], StatusSource], *, stop: trio.Event, events: EventStream) -> None:
        self._make_source = make_source
        self._stop = stop
        self._events = events
        self._started_at = time.time()
        self._served: dict[_Where, _Served] = {}
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def serving(self, where: _Where | None) -> AsyncIterator[None]:
        """Serve the status during the block, even before the program is ready and while it is stopping.

        Args:
            where: None means nowhere.

        Raises:
            ConfigurationError: the status cannot be served there.
        """
        async with FlatNursery() as self._nursery:
            try:
                if where is not None:
                    self._served[where] = await self._begin(where)
                yield
            finally:
                nursery, self._nursery = self._nursery, None
            nursery.cancel_scope.cancel()

    async def change(self, where: _Where | None) -> None:
        """Serve the status somewhere else. Does nothing before and after `serving`.

        Raises:
            ConfigurationError: the status cannot be served there. It is still served where it was, unless the message
                says that this is no longer possible.
        """
        if self._nursery is not None:
            await change_listeners(
                self._served,
                [] if where is None else [where],
                open=self._begin,
                close=_Served.end,
                may_exclude=_may_exclude,
                describe=lambda one: f"the status on {one if isinstance(one, Path) else ':'.join(map(str, one))}",
            )

    async def _begin(self, where: _Where) -> _Served:
        assert self._nursery is not None
        served: _Served = await self._nursery.start(self._serve, where)
        return served

    async def _serve(self, where: _Where, *, task_status: trio.TaskStatus[_Served]) -> None:
        from ..monitoring import StatusAddress, serve_status  # imported here because it is slow to import

        ended = trio.Event()
        try:
            with trio.CancelScope() as scope:
                async with FlatNursery() as nursery:
                    serve = partial(serve_status, StatusAddress.of(where), self._make_source())
                    address = await nursery.start(
                        partial(serve, stop=self._stop, events=self._events, started_at=self._started_at)
                    )
                    task_status.started(_Served(address, scope, ended))
        finally:
            ended.set()


def _may_exclude(served: _Served, where: _Where) -> bool:
    return not isinstance(where, Path) and served.address.endswith(f":{where[1]}")
