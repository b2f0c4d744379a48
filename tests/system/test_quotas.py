"""Limits of a hybrid connection at a relay that runs: what is refused, and what continues."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from hybridrelay.errors import RendezvousError
from hybridrelay.events import QuotaReached, RendezvousEnded, SenderRefused
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import SQLiteStore
from hybridrelay.relay.quotas import Limits, Quota
from hybridrelay.security import Role
from hybridrelay.streams import receive_exactly

from ..waiting import async_wait_until
from .live_scene import Scene, relay_and_connector, running


def limit(directory: Path, limits: Limits) -> None:
    with SQLiteStore.open(directory) as store:
        store.change("db", quota=Quota("", limits))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(Limits(sessions=1), Reason.SESSION_QUOTA), (Limits(senders=1), Reason.SENDER_QUOTA)],
    ids=["sessions", "senders"],
)
async def test_what_is_new_is_refused_and_what_runs_goes_on(tmp_path: Path, limits: Limits, reason: Reason) -> None:
    async with relay_and_connector(tmp_path) as (relay, deployment, published, events):
        string = deployment.string(published, Role.APPLICATION)
        async with deployment.client(string) as client, await client.open_stream() as stream:
            scene = Scene(relay.live, stream, events)
            await scene.echoes(b"before")
            limit(tmp_path, limits)
            refusals: list[RendezvousError] = []

            async def is_refused() -> bool:
                # The relay notices the limit within a second.
                async with deployment.client(string, open_patience=0) as other:
                    try:
                        await (await other.open_stream()).aclose()
                    except RendezvousError as exc:
                        refusals.append(exc)
                        return True
                return False

            await async_wait_until(is_refused, seconds=10, what="the limit is noticed")
            assert refusals[0].reason is reason
            assert "(1 of 1 " in str(refusals[0])
            assert "connections limits" in str(refusals[0].remedy)
            assert {one.reason for one in events if isinstance(one, SenderRefused)} == {reason}
            await scene.echoes(b"while the limit is reached")
            async with await client.open_stream() as second:
                await Scene(relay.live, second, events).echoes(b"another stream of the same session")
            for _ in range(3):
                (session,) = relay.live.sessions(9)
                assert relay.live.drop_session("db", session.id)
                await scene.echoes(b"the session was resumed")
            for sender in relay.live.senders(9):
                assert relay.live.drop_sender("db", sender.id)
            (session,) = relay.live.sessions(9)
            relay.live.drop_session("db", session.id)
            await scene.echoes(b"over another control channel, too")
            limit(tmp_path, Limits(sessions=2, senders=2))

            async def is_admitted() -> bool:
                return not await is_refused()

            await async_wait_until(is_admitted, seconds=10, what="the higher limit is noticed")


@pytest.mark.parametrize("ends", [False, True])
async def test_bytes_that_are_used_up_refuse_what_is_new(tmp_path: Path, ends: bool) -> None:
    async with relay_and_connector(tmp_path) as (relay, deployment, published, events):
        string = deployment.string(published, Role.APPLICATION)
        async with deployment.client(string, resume_deadline=1.0) as client, await client.open_stream() as stream:
            scene = Scene(relay.live, stream, events)
            await scene.echoes(b"x" * 100_000)
            limit(tmp_path, Limits(bytes_per_month=200_000, end_at_limit=ends))

            async def is_refused() -> bool:
                # The relay adds up the bytes every few seconds.
                async with deployment.client(string, open_patience=0) as other:
                    try:
                        await (await other.open_stream()).aclose()
                    except RendezvousError as exc:
                        return exc.reason is Reason.TRANSFER_QUOTA
                return False

            await async_wait_until(is_refused, seconds=20, what="the quota is used up")
            usage = relay.live.usage("db")
            assert usage.bytes >= 200_000
            assert usage.joins >= 1
            assert [one.limit for one in events if isinstance(one, QuotaReached)] == [200_000]
            assert [one.used for one in relay.live.snapshot().quotas] == [usage.bytes]
            (name,) = (one.connection for one in relay.live.snapshot().quotas)
            assert len(relay.live.snapshot(sees=lambda one: one == name).quotas) == 1
            assert relay.live.snapshot(sees=lambda one: one != name).quotas == ()
            if ends:

                async def is_over() -> bool:
                    return relay.live.snapshot().sessions == 0

                await async_wait_until(is_over, seconds=20, what="the session has ended")
                outcomes = {one.outcome for one in events if isinstance(one, RendezvousEnded)}
                assert "quota used up" in outcomes
            else:
                await scene.echoes(b"a session that runs goes on")
                (session,) = relay.live.sessions(9)
                relay.live.drop_session("db", session.id)
                await scene.echoes(b"and is resumed")


@pytest.mark.parametrize("mode", ["tcp", "websocket"])
async def test_a_rate_slows_down_sessions_that_run_until_it_is_removed(tmp_path: Path, mode: str) -> None:
    async with running(tmp_path, mode) as scene:
        await scene.echoes(b"x" * 1_000_000)
        limit(tmp_path, Limits(bytes_per_second=65536))

        async def is_slow() -> bool:
            with trio.move_on_after(0.4) as scope:
                await scene.stream.send_all(b"x" * 40_000)
                await receive_exactly(scene.stream, 40_000)
            return scope.cancelled_caught

        await async_wait_until(is_slow, seconds=10, what="80,000 bytes in both directions take longer than a second")
        limit(tmp_path, Limits())
        await scene.echoes(b"x" * 1_000_000)  # in less than 20 seconds; with the limit it would take 30
