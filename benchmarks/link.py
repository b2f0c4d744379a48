"""Emulates a long, slow line in user space: forwards a TCP port with a delay and a rate limit in each direction.

Unlike the kernel's netem, this works everywhere and without root. It does not emulate packet loss or TCP's
slow start, because the TCP connections on both sides are local.

As a process: ``python -m benchmarks.link LISTEN TARGET DELAY_MS BYTES_PER_S``. A line ``cut`` on standard input
breaks every connection, and the end of its standard input ends the process.
"""

from __future__ import annotations

import socket
import sys
from collections import deque
from collections.abc import AsyncIterator

import trio

from .ports import HOST
from .shaper import Shaper

_READ_BYTES = 16 * 1024
#: The socket buffers are small, so that bytes wait in the shaper, where they are counted, and not in the kernel.
_SOCKET_BUFFER_BYTES = 64 * 1024


class Direction:
    """Passes bytes from one stream to the other, with a delay and a limited rate."""

    def __init__(self, source: trio.abc.ReceiveStream, sink: trio.abc.HalfCloseableStream, shaper: Shaper) -> None:
        self._source = source
        self._sink = sink
        self._shaper = shaper
        #: The blocks on the line, with the time of arrival of each; b"" is the end of file.
        self._line: deque[tuple[float, bytes | bytearray]] = deque()
        self._inside = 0
        self._changed = trio.Event()

    async def run(self) -> None:
        """Run until the end of the source has been passed on."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._enter)
            nursery.start_soon(self._leave)

    async def _enter(self) -> None:
        block: bytes | bytearray = b"?"
        while block:
            while self._inside >= self._shaper.capacity:
                await self._wait()
            block = await self._source.receive_some(_READ_BYTES)
            self._line.append((self._shaper.arrival(trio.current_time(), len(block)), block))
            self._inside += len(block)
            self._notify()

    async def _leave(self) -> None:
        while True:
            while not self._line:
                await self._wait()
            await trio.sleep_until(self._line[0][0])
            # The timer is coarser than the time of a block, so all blocks that are due leave together.
            blocks = []
            while self._line and self._line[0][0] <= trio.current_time():
                blocks.append(self._line.popleft()[1])
            data = b"".join(blocks)
            if data:
                await self._sink.send_all(data)
            self._inside -= len(data)
            self._notify()
            if not blocks[-1]:
                await self._sink.send_eof()
                return

    async def _wait(self) -> None:
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def join(
    a: trio.abc.HalfCloseableStream, b: trio.abc.HalfCloseableStream, *, delay: float, rate: float
) -> None:
    """Join two streams with a line between them, until both directions have ended or one stream breaks.

    Args:
        a: one end of the line.
        b: the other end.
        delay: the delay in each direction (seconds).
        rate: the rate in each direction (bytes per second).
    """
    try:
        async with a, b, trio.open_nursery() as nursery:
            nursery.start_soon(Direction(a, b, Shaper(delay, rate)).run)
            nursery.start_soon(Direction(b, a, Shaper(delay, rate)).run)
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def serve(listen: int, target: int, *, delay: float, rate: float) -> None:
    """Forward a port of the loopback interface to another one, until cancelled."""
    scopes: set[trio.CancelScope] = set()

    async def handle(near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            scopes.add(scope)
            try:
                far = await trio.open_tcp_stream(HOST, target)
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
                await join(near, far, delay=delay, rate=rate)
            except OSError:
                await trio.aclose_forcefully(near)
            finally:
                scopes.discard(scope)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(listen, host=HOST)
        for listener in listeners:
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        print("ready", flush=True)
        async for line in _lines():
            if line == "cut":
                for scope in scopes:
                    scope.cancel()
        nursery.cancel_scope.cancel()


async def _lines() -> AsyncIterator[str]:
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        yield line.strip()


def main() -> None:
    """See the module's docstring."""
    listen, target, delay_ms, rate = sys.argv[1:]
    trio.run(lambda: serve(int(listen), int(target), delay=float(delay_ms) / 1000, rate=float(rate)))


if __name__ == "__main__":
    main()
