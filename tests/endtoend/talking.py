"""Applications that talk all the time, and know whether they get back exactly what they sent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ..waiting import patience
from .targets import exchange

PIECE = 3001
#: What an application waits from an answer to its next bytes. Without a pause, a few of them take all processors from
#: the programs that are tested, and everything that these have to do meanwhile takes many times as long.
PAUSE_SECONDS = 0.25
#: The same for a few applications only. At most moments, the bytes of one of them are on their way.
SHORT_PAUSE_SECONDS = 0.02
#: Coming back: back-off, probes, rendezvous, on a busy machine.
ROUND_SECONDS = 60


class Talker:
    """An application that sends random bytes and gets them back, for as long as it is asked to.

    Args:
        port: where it connects to.
        pause: seconds from an answer to the next bytes, unless it is asked to send now.
    """

    def __init__(self, port: int, pause: float = PAUSE_SECONDS) -> None:
        self._port = port
        self._pause = pause
        self._is_stopped = False
        self._pause_over = trio.Event()
        self._changed = trio.Event()
        self._sent = 0
        self.received = 0

    def stop(self) -> None:
        self._is_stopped = True
        self._pause_over.set()

    async def more_than(self, received: int) -> None:
        """Wait until more than that has come back."""
        while self.received <= received:
            await self._changed.wait()

    async def moves(self) -> None:
        """Wait until something has come back, without waiting for the end of a pause."""
        self._pause_over.set()
        await self.more_than(self.received)

    async def sends(self) -> None:
        """Return as soon as bytes are on their way, without waiting for the end of a pause."""
        before = self._sent
        self._pause_over.set()
        while self._sent == before and self._sent <= self.received:
            await self._changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def run(self) -> None:
        """Raises where a byte is missing, altered, or the connection breaks."""
        sent, got = hashlib.sha256(), hashlib.sha256()
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    while not self._is_stopped:
                        piece = os.urandom(PIECE)
                        sent.update(piece)
                        before = self.received
                        await stream.send_all(piece)
                        self._sent += len(piece)
                        self._notify()
                        await self.more_than(before)
                        with trio.move_on_after(self._pause):
                            await self._pause_over.wait()
                        if not self._is_stopped:
                            self._pause_over = trio.Event()
                    await stream.send_eof()

                nursery.start_soon(send)
                async for data in stream:
                    got.update(data)
                    self.received += len(data)
                    self._notify()
        assert got.digest() == sent.digest()


async def all_move(talkers: list[Talker]) -> None:
    """Wait until every application has received something."""
    with trio.fail_after(patience(ROUND_SECONDS)):
        async with trio.open_nursery() as nursery:
            for talker in talkers:
                nursery.start_soon(talker.moves)


async def all_send(talkers: list[Talker]) -> None:
    """Return at a moment at which the bytes of applications are on their way, for what is done to them next."""
    with trio.fail_after(patience(ROUND_SECONDS)):
        async with trio.open_nursery() as nursery:
            for talker in talkers:
                nursery.start_soon(talker.sends)


@asynccontextmanager
async def all_talking(talkers: list[Talker]) -> AsyncIterator[None]:
    """Applications talk during the block. At its end, each gets back what it has sent."""
    async with trio.open_nursery() as nursery:
        for talker in talkers:
            nursery.start_soon(talker.run)
        await all_move(talkers)
        yield
        await all_move(talkers)
        for talker in talkers:
            talker.stop()


@asynccontextmanager
async def applications(port: int, streams: int) -> AsyncIterator[list[Talker]]:
    """Connections that talk during the block, and new ones all the time: each must get back what it has sent."""
    talkers = [Talker(port) for _ in range(streams)]
    over = trio.Event()

    async def keep_connecting() -> None:
        while not over.is_set():
            data = os.urandom(5000)
            assert await exchange(port, data) == data
            with trio.move_on_after(PAUSE_SECONDS):
                await over.wait()

    async with all_talking(talkers), trio.open_nursery() as nursery:
        nursery.start_soon(keep_connecting)
        yield talkers
        over.set()
