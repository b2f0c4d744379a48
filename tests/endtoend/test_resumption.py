"""Sessions that outlive the relay: killed and started again, round after round, while data flows both ways."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from ..deployments import Deployment, Program
from .targets import echo, serve

#: A few where every change is tested; the soak session asks for twenty.
ROUNDS = int(os.environ.get("HYBRIDRELAY_ROUNDS", "3"))
STREAMS = 50
PIECE = 3001
#: Coming back: back-off, probes, rendezvous, on a busy machine.
ROUND_SECONDS = 60


class Talker:
    """An application that sends random bytes and gets them back, for as long as it is asked to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = trio.Event()
        self._echoed = trio.Event()
        self.received = 0

    def stop(self) -> None:
        self._stop.set()

    async def more_than(self, received: int) -> None:
        """Until more than that has come back."""
        while self.received <= received:
            await self._echoed.wait()

    async def run(self) -> None:
        """Raises where a byte is missing, altered, or the connection breaks."""
        sent, got = hashlib.sha256(), hashlib.sha256()
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    while not self._stop.is_set():
                        piece = os.urandom(PIECE)
                        sent.update(piece)
                        before = self.received
                        await stream.send_all(piece)
                        await self.more_than(before)
                    await stream.send_eof()

                nursery.start_soon(send)
                async for data in stream:
                    got.update(data)
                    self.received += len(data)
                    echoed, self._echoed = self._echoed, trio.Event()
                    echoed.set()
        assert got.digest() == sent.digest()


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


async def all_move(talkers: list[Talker]) -> None:
    """Until every application has had something back."""
    with trio.fail_after(ROUND_SECONDS):
        async with trio.open_nursery() as nursery:
            for talker in talkers:
                nursery.start_soon(talker.more_than, talker.received)
