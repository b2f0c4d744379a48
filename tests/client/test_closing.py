"""The end of a client: everything that it owns has ended, whatever happens while it closes."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay.client import Client, open_client
from hybridrelay.client.sessions import Sessions
from hybridrelay.events import Event, EventStream, StreamClosed
from hybridrelay.mux import MuxStream
from hybridrelay.protocol.reasons import Reason
from hybridrelay.testing import session_pair

from .relays.test_sender import connection_string


@pytest.mark.parametrize("fails", [False, True])
async def test_streams_have_their_event_although_the_sessions_do_not_end(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, fails: bool
) -> None:
    client_session, connector = await session_pair(nursery)

    async def request_stream(_: Client, *, wait_opened: bool = True, patience: float | None = None) -> MuxStream:
        stream = client_session.open_stream_nowait()
        (await connector.offers.receive()).accept()
        await stream.wait_opened()
        return stream

    async def aclose(_: Sessions) -> None:
        if fails:
            raise RuntimeError("a bug")
        await trio.sleep_forever()

    monkeypatch.setattr(Client, "request_stream", request_stream)
    monkeypatch.setattr(Sessions, "aclose", aclose)
    published: list[Event] = []
    run = partial(open_client, connection_string(), events=EventStream(published.append))
    try:
        async with run() as client:
            await client.open_stream()
    except RuntimeError:
        assert fails
    (end,) = [event for event in published if isinstance(event, StreamClosed)]
    assert (end.outcome, end.reason) == ("broken", Reason.GOING_AWAY)
    nursery.cancel_scope.cancel()
