"""Serves the status of a connector or forward while it runs (``--status``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from .._nursery import FlatNursery
from ..events.stream import EventStream

if TYPE_CHECKING:
    from ..monitoring import StatusSource

__all__ = ["status_served"]


@asynccontextmanager
async def status_served(
    given: Path | tuple[str, int] | None,
    make_source: Callable[[], StatusSource],
    *,
    stop: trio.Event,
    events: EventStream,
) -> AsyncIterator[None]:
    """Serve the status during the block, also before the program is ready and while it is stopping.

    Args:
        given: the value of ``--status``; None means that nothing is served.
        make_source: returns the source of the status.
        stop: set when the program is to stop.
        events: the stream to which events are published.

    Raises:
        ConfigurationError: the status cannot be served there.
    """
    if given is None:
        yield
        return
    from ..monitoring import StatusAddress, serve_status  # imported here because it takes long to load

    async with FlatNursery() as nursery:
        await nursery.start(partial(serve_status, StatusAddress.of(given), make_source(), stop=stop, events=events))
        yield
        nursery.cancel_scope.cancel()
