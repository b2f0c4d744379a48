"""Sessions that outlive the relay: killed and started again, round after round, while data flows both ways."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from ..deployments import Deployment, Program
from .talking import ROUND_SECONDS, Talker, all_move
from .targets import echo, serve

#: A few where every change is tested; the soak session asks for twenty.
ROUNDS = int(os.environ.get("HYBRIDRELAY_ROUNDS", "3"))
STREAMS = 50


def descriptors(program: Program) -> int:
    return len(list(Path(f"/proc/{program.pid}/fd").iterdir()))


@pytest.mark.timeout(ROUND_SECONDS * (ROUNDS + 2))
async def test_streams_live_through_kills_of_the_relay(
    deployment: Deployment, nursery: trio.Nursery, mode: str, remark: Callable[[str], None]
) -> None:
    published = deployment.create("live", await serve(nursery, echo))
    connector = deployment.start_connector(published, arguments=["--mode", mode])
    forward = deployment.start_forward(published, mode=mode)
    relay = deployment.programs[0]
    talkers = [Talker(forward.port) for _ in range(STREAMS)]
    async with trio.open_nursery() as talking:
        for talker in talkers:
            talking.start_soon(talker.run)
        await all_move(talkers)
        before = descriptors(connector), descriptors(forward.program)
        for _ in range(ROUNDS):
            relay.kill()
            relay = await trio.to_thread.run_sync(deployment.start_relay)
            await all_move(talkers)
        after = descriptors(connector), descriptors(forward.program)
        for talker in talkers:
            talker.stop()
    # What a round leaves behind would add up; a socket that is about to be closed may be there.
    assert all(late <= early + 3 for early, late in zip(before, after, strict=True)), (before, after)
    total = sum(talker.received for talker in talkers)
    remark(f"{mode}: {STREAMS} streams, {ROUNDS} kills of the relay: {total} bytes each way, all intact")
    nursery.cancel_scope.cancel()
