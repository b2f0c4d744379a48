"""Two sessions that are connected in memory."""

from __future__ import annotations

from collections.abc import Callable

import trio
import trio.testing

from ..mux import Budget, Session, SessionConfig, SessionRole


async def session_pair(
    nursery: trio.Nursery,
    *,
    channels: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = trio.testing.memory_stream_pair,
    config: SessionConfig | None = None,
    budgets: tuple[Budget | None, Budget | None] = (None, None),
) -> tuple[Session, Session]:
    """Return an initiator and an acceptor that are connected, and whose tasks run in `nursery`.

    With `trio.testing.MockClock`, everything happens in virtual time.

    Args:
        nursery: runs both sessions.
        channels: returns the two ends of the channel, the initiator's first.
        config: the configuration of both sessions; None for the default.
        budgets: the budgets of the initiator and the acceptor; None for a budget that is not shared.
    """
    client_channel, server_channel = channels()
    client = Session.create(SessionRole.INITIATOR, config=config, budget=budgets[0])
    server = Session.create(SessionRole.ACCEPTOR, config=config, budget=budgets[1])
    async with trio.open_nursery() as starting:
        starting.start_soon(nursery.start, client.run, client_channel)
        starting.start_soon(nursery.start, server.run, server_channel)
    return client, server
