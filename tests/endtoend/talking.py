"""Applications that talk all the time, and know whether they get back exactly what they sent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from .targets import exchange

PIECE = 3001
#: What applications wait before they send again, or connect again, where no byte has to be on its way at a certain
#: moment. Without a pause, dozens of them take all processors from the programs that are tested.
PAUSE_SECONDS = 0.25
#: Coming back: back-off, probes, rendezvous, on a busy machine.
ROUND_SECONDS = 60


class Talker:
    """An application that sends random bytes and gets them back, for as long as it is asked to.

    Args:
        port: where it connects to.
        pause: seconds from an answer to the next bytes. With 0, some bytes are on their way at nearly every moment.
    """

    def __init__(self, port: int, pause: float = 0) -> None:
        self._port = port
        self._pause = pause
        self._stop = trio.Event()
        self._echoed = trio.Event()
        self.received = 0

    def stop(self) -> None:
        self._stop.set()

    async def more_than(self, received: int) -> None:
        """Wait until more than that has come back."""
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
                        with trio.move_on_after(self._pause):
                            await self._stop.wait()
                    await stream.send_eof()

                nursery.start_soon(send)
                async for data in stream:
                    got.update(data)
                    self.received += len(data)
                    echoed, self._echoed = self._echoed, trio.Event()
                    echoed.set()
        assert got.digest() == sent.digest()


async def all_move(talkers: list[Talker]) -> None:
    """Wait until every application has received something."""
    with trio.fail_after(ROUND_SECONDS):
        async with trio.open_nursery() as nursery:
            for talker in talkers:
                nursery.start_soon(talker.more_than, talker.received)


@asynccontextmanager
async def applications(port: int, streams: int) -> AsyncIterator[list[Talker]]:
    """Connections that talk during the block, and new ones all the time: each must get back what it has sent.

    They pause between their messages.
    """
    talkers = [Talker(port, PAUSE_SECONDS) for _ in range(streams)]
    over = trio.Event()

    async def keep_connecting() -> None:
        while not over.is_set():
            data = os.urandom(5000)
            assert await exchange(port, data) == data
            with trio.move_on_after(PAUSE_SECONDS):
                await over.wait()

    async with trio.open_nursery() as nursery:
        for talker in talkers:
            nursery.start_soon(talker.run)
        await all_move(talkers)
        nursery.start_soon(keep_connecting)
        yield talkers
        await all_move(talkers)
        over.set()
        for talker in talkers:
            talker.stop()
