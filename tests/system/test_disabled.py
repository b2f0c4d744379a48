"""An administrator disables a hybrid connection, and enables it again."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from hybridrelay.errors import AuthorizationError
from hybridrelay.events import ConnectionDisabled, ConnectionEnabled, ListenerLeft, RendezvousEnded, TokenRefused
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import Role

from ..waiting import async_wait_until, patience
from .live_scene import Scene, relay_and_connector

DISABLED = Reason.CONNECTION_DISABLED


@pytest.mark.parametrize("mode", ["tcp", "websocket"])
async def test_everything_ends_and_comes_back_by_itself(tmp_path: Path, mode: str) -> None:
    async with relay_and_connector(tmp_path, mode) as (relay, deployment, published, events):
        string = deployment.string(published, Role.APPLICATION)
        with SQLiteStore.open(tmp_path) as store:
            async with deployment.client(string, mode=mode) as client, await client.open_stream() as stream:
                scene = Scene(relay.live, stream, events)
                await scene.echoes(b"before")

                store.change("db", disabled=True)

                async def is_over() -> bool:
                    now = relay.live.snapshot()
                    return now.listeners == now.senders == now.sessions == 0

                await async_wait_until(is_over, seconds=10, what="nothing of it is left")
                assert scene.reasons(ListenerLeft) == [DISABLED]
                assert [one.outcome for one in events if isinstance(one, RendezvousEnded)] == ["disabled"]
                async with deployment.client(string, mode=mode, open_patience=0) as other:
                    with pytest.raises(AuthorizationError) as caught:
                        await other.open_stream()
                    assert caught.value.reason is DISABLED
                    assert "connections enable" in str(caught.value.remedy)

                async def were_refused() -> bool:
                    refused = {(one.right, one.reason) for one in events if isinstance(one, TokenRefused)}
                    return {("listen", DISABLED), ("send", DISABLED)} <= refused

                await async_wait_until(were_refused, seconds=20, what="connector and client are refused")
                assert relay.live.snapshot().sessions == 0

                store.change("db", disabled=False)
                await scene.echoes(b"the session was resumed, because it was disabled for a moment only")
                with trio.fail_after(patience(20)):
                    async with await client.open_stream() as second:
                        await Scene(relay.live, second, events).echoes(b"after")
    assert [type(one) for one in events if isinstance(one, ConnectionDisabled | ConnectionEnabled)] == [
        ConnectionDisabled,
        ConnectionEnabled,
    ]
